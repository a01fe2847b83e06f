"""The monitor in other people's training loops: a callback each for Stable-Baselines3, Lightning and Transformers; and
the classification MDPs as environments of Gymnasium, for other people's agents.

Each is imported from its own module (`from pliant.integrations.sb3 import MonitorCallback`), which needs that package.
A loop of your own, or CleanRL's, needs none of them: `monitor = pliant.Monitor(...)` before it, `monitor(step)` in it.
"""

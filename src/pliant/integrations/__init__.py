"""The monitor and recipes in other people's training loops: two callbacks each for Stable-Baselines3, Lightning and
Transformers; and the classification MDPs as environments of Gymnasium, for other people's agents.

Each is imported from its own module (`from pliant.integrations.sb3 import MonitorCallback, RecipeCallback`), which
needs that package. A loop of your own, or CleanRL's, needs none: `pliant.Monitor` and `recipe.attach` are for it.
"""

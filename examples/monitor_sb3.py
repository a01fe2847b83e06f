"""An agent of Stable-Baselines3, watched by one callback (marked): DQN on CartPole.

Training is bitwise the same without the callback. Needs pip install 'pliant[sb3]'.

    python examples/monitor_sb3.py
"""

from stable_baselines3 import DQN

from pliant.integrations.sb3 import MonitorCallback

agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=500, train_freq=1, seed=0, device="cpu")
callback = MonitorCallback(probe=256, every=500)  # (1): the first 256 observations are the probe
agent.learn(2_000, callback=callback)

shown = ("dead", "linearized", "effective_rank", "norm_ratio", "relative_update")
for row in callback.monitor.rows:
    print(f"step {row['step']:4}: " + ", ".join(f"{name} {row[name]:.3g}" for name in shown))

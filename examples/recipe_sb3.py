"""An agent of Stable-Baselines3 with a recipe against loss of plasticity, in one callback (marked): DQN on CartPole.

Layer norm is built into the Q-network and its target, L2 is in the loss, ReDo draws dormant units anew.
Needs pip install 'pliant[sb3]'.

    python examples/recipe_sb3.py
"""

from stable_baselines3 import DQN

from pliant import L2, Chain, LayerNorm, ReDo
from pliant.integrations.sb3 import RecipeCallback

agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=500, train_freq=1, seed=0, device="cpu")
callback = RecipeCallback(Chain(LayerNorm(), L2(1e-5), ReDo(tau=0.025, every=500)))  # (1)
agent.learn(2_000, callback=callback)

print(agent.q_net)
print(f"{callback.keepers['q_net'].steps} gradient steps with {callback.recipe}")

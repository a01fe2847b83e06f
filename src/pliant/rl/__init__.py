"""Reinforcement learning: the classification MDPs of P1, replay of indices, and targets of Q-learning over any head."""

from pliant.rl.mdp import ClassificationMDP, RandomLabel, SparseReward, TrueLabel, World
from pliant.rl.replay import Replay, Transitions
from pliant.rl.td import picked, td_target

__all__ = [
    "ClassificationMDP",
    "RandomLabel",
    "Replay",
    "SparseReward",
    "Transitions",
    "TrueLabel",
    "World",
    "picked",
    "td_target",
]

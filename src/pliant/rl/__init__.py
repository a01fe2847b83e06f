"""Reinforcement learning: the classification MDPs of P1, games, replay, and targets of Q-learning over any head."""

from pliant.rl.envs import DMC, Atari, Catch, Emulator, Environment, Frame, Gym, MinAtar, Push
from pliant.rl.episodes import Episodes, watched
from pliant.rl.evaluation import Evaluation, Phases, evaluators
from pliant.rl.frames import Experience, FrameReplay
from pliant.rl.mdp import ClassificationMDP, RandomLabel, SparseReward, TrueLabel, World
from pliant.rl.priorities import Priorities, Prioritised
from pliant.rl.replay import Replay, Transitions
from pliant.rl.scores import human_normalised, improvement
from pliant.rl.td import largest_value, picked, td_target

__all__ = [
    "DMC",
    "Atari",
    "Catch",
    "ClassificationMDP",
    "Emulator",
    "Environment",
    "Episodes",
    "Evaluation",
    "Experience",
    "Frame",
    "FrameReplay",
    "Gym",
    "MinAtar",
    "Phases",
    "Priorities",
    "Prioritised",
    "Push",
    "RandomLabel",
    "Replay",
    "SparseReward",
    "Transitions",
    "TrueLabel",
    "World",
    "evaluators",
    "human_normalised",
    "improvement",
    "largest_value",
    "picked",
    "td_target",
    "watched",
]

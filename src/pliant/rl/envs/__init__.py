"""Environments of episodes: games by the frame, brought back by replaying their actions."""

from pliant.rl.envs.atari import Atari
from pliant.rl.envs.base import Emulator, Environment, Frame
from pliant.rl.envs.catch import Catch
from pliant.rl.envs.dmc import DMC
from pliant.rl.envs.gym import Gym
from pliant.rl.envs.minatar import MinAtar
from pliant.rl.envs.push import Push

__all__ = ["DMC", "Atari", "Catch", "Emulator", "Environment", "Frame", "Gym", "MinAtar", "Push"]

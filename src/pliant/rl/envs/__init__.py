"""Environments of episodes: games by the frame, brought back by replaying their actions."""

from pliant.rl.envs.base import Emulator, Environment, Frame
from pliant.rl.envs.catch import Catch
from pliant.rl.envs.minatar import MinAtar

__all__ = ["Catch", "Emulator", "Environment", "Frame", "MinAtar"]

"""The monitor and recipes as callbacks of Stable-Baselines3."""

from pliant.integrations.sb3.monitor import LOGGED, MonitorCallback
from pliant.integrations.sb3.recipe import RecipeCallback

__all__ = ["LOGGED", "MonitorCallback", "RecipeCallback"]

"""Optimizers as pure functions of named tensors: `init` makes the moments, `update` takes one step.

`update` writes into the buffers that its caller hands over. Where it is elementwise, one network's tensors and those of
a population stacked along a leading axis go through the same code.
"""

from pliant.optim.adam import Adam
from pliant.optim.base import Moments, Optimizer
from pliant.optim.clipped import Clipped
from pliant.optim.muon import Muon
from pliant.optim.rmsprop import RMSProp
from pliant.optim.sam import SAM
from pliant.optim.sgd import SGD
from pliant.optim.shampoo import Shampoo
from pliant.optim.torch_optimizer import TorchOptimizer
from pliant.optim.upgd import UPGD

__all__ = [
    "SAM",
    "SGD",
    "UPGD",
    "Adam",
    "Clipped",
    "Moments",
    "Muon",
    "Optimizer",
    "RMSProp",
    "Shampoo",
    "TorchOptimizer",
]

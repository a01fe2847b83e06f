"""Small networks as plain `nn.Module`s: they know nothing of the rest of pliant, and all of them run under `vmap`."""

from pliant.nets.cast import Cast
from pliant.nets.cnn import CNN
from pliant.nets.dropout import Dropout
from pliant.nets.dueling import Dueling
from pliant.nets.mlp import MLP
from pliant.nets.nature import Nature
from pliant.nets.noisy import NoisyLinear
from pliant.nets.norms import batch_norm, layer_norm
from pliant.nets.resnet import ResNet18
from pliant.nets.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "Cast",
    "Dropout",
    "Dueling",
    "Nature",
    "NoisyLinear",
    "ResNet18",
    "ViT",
    "batch_norm",
    "layer_norm",
]

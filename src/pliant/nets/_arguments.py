"""What the networks' arguments have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

Activation = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


def check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"expected {name} to be at least 1, got {size}")


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1:
        raise ValueError(f"expected {name} to hold one size or more, each at least 1, got {tuple(sizes)}")


def check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected shape to be (channels, height, width), each at least 1, got {tuple(shape)}")


def normaliser(norm: Norm | None, units: int) -> nn.Module:
    return nn.Identity() if norm is None else norm(units)

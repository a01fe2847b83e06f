"""Convolutions in a row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pliant.nets._arguments import check_shape, check_sizes


def convolutions(
    shape: Sequence[int],
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    padded: bool = False,
) -> tuple[nn.ModuleList, int]:
    """Convolutions, and how many numbers the last one gives; `ValueError` for what does not fit.

    Images are `padded` with zeros, half a kernel on every side, or not at all.

    >>> convolutions((4, 84, 84), (32, 64, 64), (8, 4, 3), (4, 2, 1))[1]
    3136
    """
    check_shape(shape)
    for name, sizes in {"channels": channels, "kernels": kernels, "strides": strides}.items():
        check_sizes(name, sizes)
    if not len(channels) == len(kernels) == len(strides):
        raise ValueError(
            "expected one kernel and one stride for each convolution, got "
            f"{len(channels)} channels, {len(kernels)} kernels and {len(strides)} strides"
        )
    height, width = shape[1:]
    paddings = [kernel // 2 if padded else 0 for kernel in kernels]
    for i, (kernel, stride, padding) in enumerate(zip(kernels, strides, paddings, strict=True)):
        if kernel > min(height, width):
            raise ValueError(
                f"expected images no smaller than the kernels, but convolution {i} has kernel {kernel} x {kernel} and "
                f"gets {height} x {width} from images of shape {tuple(shape)}: take smaller kernels= or strides="
            )
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    sizes = zip(pairwise((shape[0], *channels)), kernels, strides, paddings, strict=True)
    return nn.ModuleList(nn.Conv2d(*ends, k, s, p) for ends, k, s, p in sizes), channels[-1] * height * width

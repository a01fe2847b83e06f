"""What every data set looks like once loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

AT_HAND = 1 << 26  # bytes of standardized inputs that are kept for all steps; of more, each batch is made when wanted


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples with their targets, as raw values: images stay uint8 until a batch is standardized.

    The arrays are read-only and may be memory-mapped, so take examples by an array of indices (a copy) before
    `torch.from_numpy`.
    `x_train` has shape (n, C, H, W), or (n, d) for users' vectors; uint8 or floating. `y_train` has shape (n,):
    int64 labels in 0..num_classes-1, or floating regression targets with `num_classes` None. `x_test` and `y_test` are
    alike, or both None. `scale` is the largest raw value; `mean` and `std` are those of x_train / scale, one number a
    channel (a feature, for vectors). Where examples come from several domains, such as places, `domain_train` and
    `domain_test`, of shape (n,), say from which, 0..K-1; else both are None.

    >>> from pliant import data
    >>> digits = data.load("digits")
    >>> digits.shape, digits.num_classes, digits.scale
    ((1, 8, 8), 10, 16.0)
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    num_classes: int | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    domain_train: np.ndarray | None = None
    domain_test: np.ndarray | None = None

    def __post_init__(self) -> None:
        # In-memory arrays behave like the memory-mapped ones, so that a write fails on digits too, not only on MNIST.
        for field in ("x_train", "y_train", "x_test", "y_test", "domain_train", "domain_test"):
            if (array := getattr(self, field)) is not None:
                view = array.view()  # the caller's own array stays writable
                view.flags.writeable = False
                object.__setattr__(self, field, view)

    def __repr__(self) -> str:
        test = "no test set" if self.x_test is None else f"test {self.x_test.shape}"
        kind = "regression" if self.num_classes is None else f"{self.num_classes} classes"
        return f"Dataset({self.name!r}, train {self.x_train.shape} {self.x_train.dtype}, {test}, {kind})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) or (d,).

        >>> from pliant import data
        >>> data.load("digits").shape
        (1, 8, 8)
        """
        return self.x_train.shape[1:]

    def standardize(self, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Raw values to mean 0, deviation 1 in each channel: (x / scale - mean) / std.

        `x` is any number of examples, shape (..., *self.shape), on any device; the result has the same shape, in
        `dtype`. Raises ValueError when the trailing dimensions are not an example's.

        >>> import torch
        >>> from pliant import data
        >>> digits = data.load("digits")
        >>> x = digits.standardize(torch.from_numpy(digits.x_train[:1000].copy()))
        >>> x.shape, x.dtype
        (torch.Size([1000, 1, 8, 8]), torch.float32)
        >>> abs(float(x.mean())) < 0.05, abs(float(x.std()) - 1) < 0.05
        (True, True)
        """
        shape = self.shape
        if tuple(x.shape[x.ndim - len(shape) :]) != shape:
            raise ValueError(
                f"x: expected shape (..., {', '.join(map(str, shape))}) for {self.name!r}, got {tuple(x.shape)}; "
                f"write x.reshape(-1, *dataset.shape)"
            )
        per_channel = (-1,) + (1,) * (len(shape) - 1)
        mean = torch.tensor(self.mean, dtype=dtype, device=x.device).reshape(per_channel)
        std = torch.tensor(self.std, dtype=dtype, device=x.device).reshape(per_channel)
        return (x.to(dtype) / self.scale).sub_(mean).div_(std)


def channel_moments(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of x / scale over all but axis 1; a constant channel has deviation 1, so that it maps to 0."""
    axes = (0, *range(2, x.ndim))
    most = max(1, min(4096, (1 << 24) * len(x) // x.size))  # never the whole as float64
    pieces = [x[start : start + most] for start in range(0, len(x), most)]
    count = x.size // x.shape[1]
    mean = sum(piece.sum(axis=axes, keepdims=True, dtype=np.float64) for piece in pieces) / count
    std = np.sqrt(sum(np.square(piece - mean).sum(axis=axes, keepdims=True) for piece in pieces) / count)
    # A constant channel can have a deviation of 1e-17 instead of 0; dividing by it would blow rounding up to noise.
    std[std <= 1e-12 * np.abs(mean)] = 1.0 * scale
    return tuple(map(float, mean.ravel() / scale)), tuple(map(float, std.ravel() / scale))

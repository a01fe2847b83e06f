"""Values as the mean of a distribution over fixed bins, fitted by cross-entropy."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.heads.base import Head, is_count, is_number


@dataclass(frozen=True)
class Categorical(Head):
    """What heads over fixed bins share: the outputs are logits, the value is sum_i softmax(f)_i z_i.

    The loss is the cross-entropy -sum_i p_i log softmax(f)_i to a target p, `(..., num_bins)`, which sums to 1: its
    gradient is softmax(f) - p. At its least it is the entropy of p, not 0: compare heads by (value - y)^2.

    Numbers outside [low, high] are moved to the nearer end, which nothing reports: the values that bootstrapping can
    reach (in the classification MDPs up to 1 / (1 - discount)) must lie inside. To see it, log
    `((y < head.low) | (y > head.high)).float().mean()`.

    >>> head = TwoHot(0.0, 1.0, 3)
    >>> isinstance(head, Categorical), head.centres()
    (True, tensor([0.0000, 0.5000, 1.0000]))
    >>> head.value(torch.zeros(3))
    tensor(0.5000)
    """

    low: float
    high: float
    num_bins: int

    def __post_init__(self) -> None:
        if not (is_number(self.low) and is_number(self.high) and self.low < self.high):
            raise ValueError(
                f"expected low of {type(self).__name__} to be below high, both finite, "
                f"got low={self.low!r}, high={self.high!r}"
            )
        self._check("num_bins", is_count(self.num_bins, 2), "a whole number of at least 2")

    @property
    @abstractmethod
    def width(self) -> float:
        """The distance between the centres of neighbouring bins."""

    @property
    def num_outputs(self) -> int:
        return self.num_bins

    def centres(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """The values z_i that the bins stand for, `(num_bins,)`."""
        margin = (self.high - self.low - (self.num_bins - 1) * self.width) / 2
        return torch.linspace(self.low + margin, self.high - margin, self.num_bins, dtype=dtype, device=device)

    def logits(self, value: float) -> Tensor:
        """Outputs whose value is this one, with the distribution nearest to uniform: lambda z_i, `(num_bins,)`.

        Raises `ValueError` for a value that is not between the outer bins.

        >>> head = TwoHot(-1.0, 3.0, 5)
        >>> head.value(head.logits(0.0)).abs() < 1e-6, head.logits(1.0).abs().max() < 1e-6
        (tensor(True), tensor(True))
        """
        z = self.centres(dtype=torch.float64)
        if not z[0] < value < z[-1]:
            raise ValueError(f"expected a value between {float(z[0]):g} and {float(z[-1]):g}, got {value:g}")
        low, high = -1e3 / self.width, 1e3 / self.width
        for _ in range(100):  # the mean rises with lambda
            middle = (low + high) / 2
            low, high = (middle, high) if (torch.softmax(middle * z, 0) * z).sum() < value else (low, middle)
        return ((low + high) / 2 * z).float()

    def value(self, output: Tensor) -> Tensor:
        return self.decode(output.softmax(-1))

    def decode(self, target: Tensor) -> Tensor:
        self._check_output(target)
        return (target * self.centres(dtype=target.dtype, device=target.device)).sum(-1)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        self._check_output(output)
        self._check_target(output, target, self.num_bins)
        return -(target * output.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class TwoHot(Categorical):
    """Numbers as mass on the two neighbouring bins that has them as its mean.

    Bins are z_1 = low, ..., z_m = high; for y in [z_i, z_{i+1}]: p_i = (z_{i+1} - y) / (z_{i+1} - z_i),
    p_{i+1} = 1 - p_i, the rest 0. With smoothing, p <- (1 - eta) p + eta / m.

    Smoothing pulls what is learned to the middle of the support: the mean of a target is
    (1 - eta) y + eta (low + high) / 2, and bootstrapping repeats it, as if the discount were (1 - eta) discount.

    Args:
        low, high: the ends of the support; the papers give none.
        num_bins: at least 2; the papers do not give it.
        label_smoothing: eta, in [0, 1).

    Raises:
        ValueError: a setting is out of its range; an output or a target has another shape.

    >>> head = TwoHot(low=0.0, high=10.0, num_bins=6)
    >>> head.encode(torch.tensor(3.5))
    tensor([0.0000, 0.2500, 0.7500, 0.0000, 0.0000, 0.0000])
    >>> head.decode(head.encode(torch.tensor([3.5, 11.0])))
    tensor([ 3.5000, 10.0000])
    >>> TwoHot(0.0, 10.0, 6, label_smoothing=0.6).encode(torch.tensor(4.0))
    tensor([0.1000, 0.1000, 0.5000, 0.1000, 0.1000, 0.1000])

    Source: Schrittwieser et al. 2020, appendix F, without their transformation of the values; used in P1 section 6.2
    and, with label smoothing, in P2's bandit (neither gives support, bins or eta).
    """

    reference: ClassVar[str] = "schrittwieser2020"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_smoothing(self, self.label_smoothing)

    @property
    def width(self) -> float:
        return (self.high - self.low) / (self.num_bins - 1)

    def encode(self, y: Tensor) -> Tensor:
        return _smoothed(_two_hot((y - self.low) / self.width, self.num_bins), self.label_smoothing)

    def _bootstrap(self, reward: Tensor, discount: Tensor, next_output: Tensor) -> Tensor:
        return self.encode(reward + discount * self.value(next_output))


@dataclass(frozen=True)
class HLGauss(Categorical):
    """Numbers as the masses that a Gaussian around them has in the bins.

    The m bins cut [low, high] into equal parts of width w with centres z_i (unlike `TwoHot`'s, the outer centres are
    half a bin inside): p_i = Phi((z_i + w/2 - y) / s) - Phi((z_i - w/2 - y) / s) with s = `sigma` w, divided by their
    sum. With smoothing, p <- (1 - eta) p + eta / m; what `TwoHot` says on it holds here.

    At 0.75 the mean of a target is y to 1e-5 bins, five bins or more from either end; at an end it is 0.7 bins inside.

    Args:
        low, high: the outer edges of the outer bins; must be given.
        num_bins: at least 2; must be given.
        sigma: the standard deviation s, in bin widths; above 0.
        label_smoothing: eta, in [0, 1).

    Raises:
        ValueError: a setting is out of its range; an output or a target has another shape.

    >>> head = HLGauss(low=0.0, high=10.0, num_bins=10)
    >>> head.encode(torch.tensor(4.5)).round(decimals=2)
    tensor([0.0000, 0.0000, 0.0200, 0.2300, 0.5000, 0.2300, 0.0200, 0.0000, 0.0000, 0.0000])
    >>> head.decode(head.encode(torch.tensor([4.8, 10.0])))
    tensor([4.8000, 9.3099])

    Source: Farebrother et al. 2024, section 3.1 and the code of appendix A, where the 0.75 and the edges at low and
    high are from; the loss is that of Imani & White 2018. Deviation: the published code does not move numbers outside
    [low, high] to the nearer end; their targets then are the tail of a Gaussian in the outer bins (0 / 0 far outside).
    """

    reference: ClassVar[str] = "farebrother2024"

    sigma: float = 0.75
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("sigma", is_number(self.sigma) and self.sigma > 0, "a finite number above 0")
        _check_smoothing(self, self.label_smoothing)

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.num_bins

    def encode(self, y: Tensor) -> Tensor:
        at = ((y - self.low) / self.width).clamp(0, self.num_bins).unsqueeze(-1)
        edges = torch.arange(self.num_bins + 1, dtype=at.dtype, device=at.device)
        mass = torch.erf((edges - at) / (self.sigma * math.sqrt(2))).diff(dim=-1)
        return _smoothed(mass / mass.sum(-1, keepdim=True), self.label_smoothing)

    def _bootstrap(self, reward: Tensor, discount: Tensor, next_output: Tensor) -> Tensor:
        return self.encode(reward + discount * self.value(next_output))


@dataclass(frozen=True)
class C51(Categorical):
    """The distribution of returns over fixed atoms: the target is the next state's, moved and projected back.

    Atoms are z_1 = low, ..., z_m = high. With q = softmax(next outputs), the mass q_j goes to
    reward + discount * z_j (moved to the nearer end if outside) and is split over the two neighbouring atoms as in
    `TwoHot`: p_i = sum_j q_j max(0, 1 - |reward + discount z_j - z_i| / w). A number's encoding is `TwoHot`'s.

    Args:
        low, high: the outer atoms.
        num_bins: the number of atoms, at least 2.

    Raises:
        ValueError: a setting is out of its range; an output or a target has another shape.

    >>> head = C51(low=0.0, high=2.0, num_bins=3)
    >>> certain = torch.tensor([-torch.inf, 0.0, -torch.inf])                # the next return is 1
    >>> head.target(reward=torch.tensor(0.25), discount=0.5, next_output=certain)
    tensor([0.2500, 0.7500, 0.0000])

    Source: Bellemare et al. 2017, eq. 7 and algorithm 1; the defaults are dqn_zoo's, for rewards clipped to [-1, 1].
    """

    reference: ClassVar[str] = "bellemare2017"

    low: float = -10.0
    high: float = 10.0
    num_bins: int = 51

    @property
    def width(self) -> float:
        return (self.high - self.low) / (self.num_bins - 1)

    def encode(self, y: Tensor) -> Tensor:
        return _two_hot((y - self.low) / self.width, self.num_bins)

    def _bootstrap(self, reward: Tensor, discount: Tensor, next_output: Tensor) -> Tensor:
        z = self.centres(dtype=next_output.dtype, device=next_output.device)
        spread = self.encode(reward.unsqueeze(-1) + discount.unsqueeze(-1) * z)  # (..., atoms from, atoms to)
        return (next_output.softmax(-1).unsqueeze(-1) * spread).sum(-2)


def _two_hot(at: Tensor, num_bins: int) -> Tensor:
    """Mass on the two bins next to a position, which is counted in bins from the first and kept within them."""
    bins = torch.arange(num_bins, dtype=at.dtype, device=at.device)
    return (1 - (at.clamp(0, num_bins - 1).unsqueeze(-1) - bins).abs()).clamp(min=0)


def _smoothed(p: Tensor, label_smoothing: float) -> Tensor:
    return (1 - label_smoothing) * p + label_smoothing / p.shape[-1]


def _check_smoothing(head: Head, label_smoothing: float) -> None:
    head._check("label_smoothing", is_number(label_smoothing) and 0 <= label_smoothing < 1, "in [0, 1)")

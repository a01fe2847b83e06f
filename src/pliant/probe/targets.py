"""What a network is asked to learn anew: random functions of the inputs, and random labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pliant.heads import Head
from pliant.network import Network, Params

AT_ONCE = 1024  # inputs a forward pass, for targets and scores
LOST = 1e-2  # the largest rounding error of a sine of height 1


@dataclass(frozen=True)
class Probe(ABC):
    """A family of fresh targets, drawn by number: the same for every network that is compared.

    `score` is what is reported, in `unit`; `baseline` is the score of the best constant predictor.

    >>> probe = FreshLabels(10)
    >>> round(probe.baseline(torch.zeros(5, dtype=torch.long)), 3), probe.unit
    (2.303, 'nats')
    """

    reference: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def targets(self, network: Network, params: Params, x: Any, seed: int) -> Tensor:
        """Targets of the inputs `x`, `(samples, ...)`, for the network at `params`; a function of `seed`."""

    @abstractmethod
    def loss(self, output: Any, y: Tensor) -> Tensor:
        """What is minimised: a mean over samples."""

    def score(self, output: Any, y: Tensor) -> Tensor:
        """What is reported of a network: the loss, unless that is on a scale of its own."""
        return self.loss(output, y)

    @abstractmethod
    def baseline(self, y: Tensor) -> float:
        """The score of the best constant predictor; where padding is left out, its targets are NaN."""

    def each(self, output: Any, y: Tensor) -> Tensor:
        """The loss of every output alone, `(samples, tokens)`: what is averaged where padding is left out."""
        raise ValueError(
            f"expected a probe that says the loss of every token, to leave padding out, got {type(self).__name__}: "
            "write its method each(output, y), or leave mask out"
        )

    def targets_of(self, network: Network, params: Params, x: Any, seed: int, mask: Tensor) -> Tensor:
        """`targets`, where only tokens count at which `mask` is True; for targets that depend on the other samples."""
        return self.targets(network, params, x, seed)


@dataclass(frozen=True)
class Sines(Probe):
    """P1's probe: g(x) = a + sin(frequency f(x; w)), regressed by mean squared error; w is a fresh draw of the network.

    `a` is the mean prediction of the network that is measured, one a value, so that networks near 0 are not favoured;
    with `offset`, it is that number for all. The baseline is the variance of the targets, 1/2 where the phase is
    spread over many periods.

    Args:
        frequency: 1e5 in the paper.
        offset: of the targets, in place of the network's own mean prediction.
        head: for a network whose outputs are those of a value head (two-hot, HL-Gauss, ...): that one's loss is
            minimised, and the mean squared error of its values is reported, on one scale with regression. The head
            should span a + [-1, 1].

    >>> from torch import nn
    >>> network = Network(nn.Linear(2, 1))
    >>> y = Sines().targets(network, network.fresh(0), torch.randn(100, 2), seed=1)
    >>> y.shape
    torch.Size([100, 1])

    Source: P1 sections 3.1, 5.1 and A.2. Deviation: the paper does not say whether a is one number or one a value.
    """

    reference: ClassVar[str] = "lyle2023"
    unit: ClassVar[str] = "squared error"

    frequency: float = 1e5
    offset: float | None = None
    head: Head | None = None

    def targets(self, network: Network, params: Params, x: Any, seed: int) -> Tensor:
        return self._targets(network, params, x, seed, lambda values: values.mean(0))

    def targets_of(self, network: Network, params: Params, x: Any, seed: int, mask: Tensor) -> Tensor:
        def mean(values: Tensor) -> Tensor:
            real = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
            return torch.where(real, values, 0.0).sum(0) / real.sum(0).clamp(min=1)

        return self._targets(network, params, x, seed, mean)

    def _targets(
        self, network: Network, params: Params, x: Any, seed: int, average: Callable[[Tensor], Tensor]
    ) -> Tensor:
        drawn = {name: p.to(params[name]) for name, p in network.fresh(seed).items()}
        drawn_values = self._value(outputs(network, drawn, x))
        if len(drawn_values) > 1 and bool((drawn_values == drawn_values[0]).all()):
            raise ValueError(
                "expected a fresh network to tell inputs apart, got one output for all of them, whose sines are "
                "constant (a head that begins at 0?): write probe=FreshLabels(classes), or fresh=make_model with "
                "another head"
            )
        waves = torch.sin(self.frequency * drawn_values)
        if not waves.isfinite().all() and drawn_values.isfinite().all():
            raise ValueError(
                f"expected a frequency whose phases {waves.dtype} can hold, got {self.frequency:g}, with which they "
                "overflow: write probe=Sines(), whose frequency is 1e5"
            )
        mean = average(self._value(outputs(network, params, x))) if self.offset is None else None
        largest = abs(self.offset or 0.0) if mean is None else float(mean.abs().max())
        step = largest * torch.finfo(waves.dtype).eps
        if step > LOST and (step < math.inf or mean is None):
            raise ValueError(
                f"expected sines that show in the targets, got {waves.dtype} with an offset of {largest:.3g}, where it "
                f"goes in steps of {step:.2g}, a phase error of up to {step / 2:.2g} rad: write model.double(), or "
                "probe=Sines(offset=0.0)"
            )
        return waves + (torch.full_like(waves[0], self.offset or 0.0) if mean is None else mean)

    def loss(self, output: Any, y: Tensor) -> Tensor:
        if self.head is None:
            return F.mse_loss(output, y)
        return self.head.loss(self.head.split(output), self.head.encode(y))

    def score(self, output: Any, y: Tensor) -> Tensor:
        return F.mse_loss(self._value(output), y)

    def each(self, output: Any, y: Tensor) -> Tensor:
        if self.head is not None:
            raise ValueError("expected Sines() without a head, to leave padding out: leave head or mask out")
        return (self._value(output) - y).square().mean(-1)

    def baseline(self, y: Tensor) -> float:
        if y.isnan().any():  # padding; a position that is padding everywhere has no mean
            return float((y - y.nanmean(0)).square().nanmean())
        return float((y - y.mean(0)).square().mean())

    def _value(self, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"expected one tensor as the network's output, got {type(output).__name__}: write "
                "call=lambda model, x: ... with the part to probe, or a Probe of your own"
            )
        return output if self.head is None else self.head.value(self.head.split(output))


@dataclass(frozen=True)
class FreshLabels(Probe):
    """Uniformly random labels, to be memorised: cross-entropy in nats; the baseline is ln(classes).

    One label for every output `(..., classes)`: of a network that answers for each token, every token has its own.

    Args:
        classes: how many; the network's outputs are their logits.

    >>> from torch import nn
    >>> FreshLabels(10).targets(Network(nn.Linear(2, 10)), {}, torch.ones(4, 2), seed=0)
    tensor([4, 9, 3, 0])

    Source: P2 section 3.1, whose tasks these are.
    """

    reference: ClassVar[str] = "lyle2024"
    unit: ClassVar[str] = "nats"

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"expected classes of FreshLabels to be at least 2, got {self.classes!r}")

    def targets(self, network: Network, params: Params, x: Any, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        first = samples(x)[0]
        few = outputs(network, params, part(x, slice(0, 2)))
        tokens = few.shape[1:-1] if isinstance(few, Tensor) else ()
        return torch.randint(self.classes, (len(first), *tokens), generator=generator).to(first.device)

    def loss(self, output: Any, y: Tensor) -> Tensor:
        return -self._likelihoods(output, y).mean()

    def each(self, output: Any, y: Tensor) -> Tensor:
        return -self._likelihoods(output, y).reshape(y.shape)

    def _likelihoods(self, output: Any, y: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.shape[-1] != self.classes:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"expected logits (samples, {self.classes}) as the network's output, got {got}")
        if output.shape[:-1] != y.shape:
            raise ValueError(f"expected a label for every output {tuple(output.shape[:-1])}, got {tuple(y.shape)}")
        # as F.cross_entropy, whose rules under vmap are in Python and slow
        return output.flatten(0, -2).log_softmax(-1).gather(-1, y.flatten()[:, None])

    def baseline(self, y: Tensor) -> float:
        return math.log(self.classes)


@dataclass(frozen=True, eq=False)
class Taken(Probe):
    """A probe of the taken action's output alone; targets are (value, action) pairs."""

    inner: Probe
    actions: Tensor

    @property
    def unit(self) -> str:  # type: ignore[override]
        return self.inner.unit

    def targets(self, network: Network, params: Params, x: Any, seed: int) -> Tensor:
        y = self.inner.targets(network, params, x, seed)
        if y.ndim != 2 or self.actions.shape != (len(y),):
            raise ValueError(
                f"expected one action a sample, of shape ({len(y)},), and targets (samples, actions), got actions "
                f"{tuple(self.actions.shape)} and targets {tuple(y.shape)}"
            )
        action = self.actions.to(y.device).long()[:, None]
        if action.min() < 0 or action.max() >= y.shape[1]:
            got = f"{int(action.min())} to {int(action.max())}"
            raise ValueError(f"expected actions from 0 to {y.shape[1] - 1}, one of the network's outputs, got {got}")
        return torch.cat([y.gather(1, action), action.to(y.dtype)], 1)

    def loss(self, output: Any, y: Tensor) -> Tensor:
        return self.inner.loss(self._picked(output, y), y[:, :1])

    def score(self, output: Any, y: Tensor) -> Tensor:
        return self.inner.score(self._picked(output, y), y[:, :1])

    def baseline(self, y: Tensor) -> float:
        value, action = y[:, 0], y[:, 1].long()  # every action's output is a constant of its own
        means = torch.bincount(action, value) / torch.bincount(action).clamp(min=1)
        return self.inner.baseline((value - means.to(y)[action])[:, None])

    def _picked(self, output: Tensor, y: Tensor) -> Tensor:
        head = getattr(self.inner, "head", None)
        size = 1 if head is None else head.num_outputs
        index = y[:, 1:].long()[..., None].expand(-1, 1, size)
        return output.unflatten(-1, (-1, size)).gather(-2, index).flatten(-2)


def samples(x: Any) -> list[Tensor]:
    """The tensors of a batch of inputs, which may be one tensor or a tree of several."""
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor) and leaf.ndim]


def part(x: Any, index: Any) -> Any:
    """Some samples of a batch of inputs."""
    return tree_map(lambda t: t[index] if isinstance(t, Tensor) and t.ndim else t, x)


def outputs(network: Network, params: Params, x: Any) -> Any:
    """A network's outputs for many inputs, without gradients."""
    size = len(samples(x)[0])
    with torch.no_grad():
        parts = [network(params, part(x, slice(i, i + AT_ONCE))) for i in range(0, size, AT_ONCE)]
    return parts[0] if len(parts) == 1 else tree_map(lambda *t: torch.cat(t), *parts)

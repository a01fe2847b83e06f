"""Many networks fitted to many targets for a fixed budget, as populations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.population import Member, Population
from pliant.probe.parts import Only
from pliant.probe.settings import Training
from pliant.probe.targets import Probe, outputs, part, samples
from pliant.stacking import at as of_member
from pliant.stacking import stack

CROWD = 40  # members at once: more are no faster on two cores, and their optimizer state takes memory


class Start(NamedTuple):
    """Where one refit begins, and what it fits: the targets of all inputs; a fresh optimizer where there is no state.

    `x` are inputs of its own, as many as all others have, where they do not share theirs.

    >>> Start({"weight": torch.ones(1)}, torch.zeros(5)).moments
    {}
    """

    params: Params
    y: Tensor
    moments: Moments = {}  # noqa: RUF012
    x: Any = None


class Refits(NamedTuple):
    """Scores on all inputs over the course of several refits.

    Attributes:
        steps: after how many optimizer steps, `(points,)`; the first is 0.
        scores: `(refits, points)`; what a refit that diverged had last, from there on (infinite or NaN where it began
            so); NaN between the first and the last of a refit whose curve was not asked for.
        diverged: which refits lost their finite loss, `(refits,)`.

    >>> Refits(np.array([0, 10]), np.array([[1.0, 0.5]]), np.array([False])).area
    array([0.75])
    """

    steps: np.ndarray
    scores: np.ndarray
    diverged: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """The mean height of each curve: the area under it over the number of steps, `(refits,)`."""
        return np.trapezoid(self.scores, self.steps, axis=1) / self.steps[-1]


def refit(
    network: Network,
    probe: Probe,
    starts: Sequence[Start],
    x: Any,
    training: Training,
    *,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    points: int = 11,
    curves: Collection[int] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Refits:
    """Fits every start to its targets; all see the same minibatches, and are scored on all inputs on the way.

    Members of one population as far as memory and the step counts of their optimizers allow; the result does not depend
    on who shares one with whom, up to rounding. A budget is optimizer steps; minibatches run through shuffled epochs.
    Of a network that is restricted (`Network.restricted`) only those parameters are trained, as by an optimizer that
    holds no others.

    Args:
        network: the function.
        probe: loss and score.
        starts: where each refit begins, and what it fits.
        x: the inputs, samples first; None where every start has its own.
        training: the optimizer.
        steps: of each refit.
        batch_size: at most the number of inputs.
        seed: of the minibatches.
        points: at how many steps, evenly spaced, the starts are scored.
        curves: indices of the starts that are scored on the way; the others at both ends. All if None.
        on_progress: told how many populations are done, of how many.

    >>> from torch import nn
    >>> from pliant.optim import Adam
    >>> from pliant.probe import FreshLabels
    >>> network = Network(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)))
    >>> x, params = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), network.fresh(0)
    >>> probe = FreshLabels(2)
    >>> starts = [Start(params, probe.targets(network, params, x, seed)) for seed in range(3)]
    >>> found = refit(network, probe, starts, x, Training(Adam(1e-2)), steps=50, batch_size=16)
    >>> found.scores.shape, bool((found.scores[:, -1] < found.scores[:, 0]).all())
    ((3, 11), True)
    """
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"expected {name} of a refit to be at least 1, got {number!r}: write a whole number")
    sizes = {len(samples(x if start.x is None else start.x)[0]) for start in starts}
    if len(sizes) > 1:
        raise ValueError(f"expected as many inputs of every start, got {' and '.join(map(str, sorted(sizes)))}")
    (size,) = sizes
    batch_size = min(batch_size, size)
    at = np.unique(np.linspace(0, steps, min(points, steps + 1)).round().astype(int))
    scores, diverged = np.full((len(starts), len(at)), np.nan), np.zeros(len(starts), bool)
    groups: dict[tuple[float, ...] | None, list[int]] = {}
    for i, start in enumerate(starts):
        clocks = tuple(map(float, start.moments.get("step", {}).values()))
        groups.setdefault(clocks if start.moments else None, []).append(i)
    on_the_way = set(range(len(starts)) if curves is None else curves)
    crowds = [chosen[i : i + CROWD] for chosen in groups.values() for i in range(0, len(chosen), CROWD)]
    orders = _orders(size, batch_size, steps, seed)
    for done, chosen in enumerate(crowds):
        on_progress(done, len(crowds))
        crowd, drawn = [starts[i] for i in chosen], [i for i, start in enumerate(chosen) if start in on_the_way]
        scores[chosen], diverged[chosen] = _together(network, probe, crowd, x, training, orders, at, drawn, seed)
    on_progress(len(crowds), len(crowds))
    return Refits(at, scores, diverged)


def _together(
    network: Network,
    probe: Probe,
    starts: Sequence[Start],
    x: Any,
    training: Training,
    orders: np.ndarray,
    at: np.ndarray,
    drawn: Sequence[int],
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    like = next(iter(starts[0].params.values()))
    trained = tuple(name for name in starts[0].params if name in network.names)
    optimizer = training.optimizer if len(trained) == len(starts[0].params) else Only(training.optimizer, trained)
    members = [Member(seed, optimizer, training.chain)] * len(starts)
    kinds = {p.dtype for p in starts[0].params.values() if p.is_floating_point()}
    dtype = like.dtype if kinds == {like.dtype} else None
    population = Population(network, probe.loss, members, device=like.device, dtype=dtype)
    moments: Moments = {}
    for kind, group in starts[0].moments.items():
        if kind == "step":
            moments[kind] = {name: clock.clone() for name, clock in group.items()}
        else:
            moments[kind] = stack([{n: start.moments[kind][n] for n in group if n in trained} for start in starts])
    state = population.init(stack([start.params for start in starts]), moments or None)
    y = torch.stack([start.y for start in starts])
    batches = torch.from_numpy(orders).to(y.device)
    found = np.full((len(starts), len(at)), np.nan)

    def batch(index: Tensor) -> Any:
        if x is not None:
            return tree_map(lambda t: t.expand(len(starts), *t.shape), part(x, index))
        return stack([part(start.x, index) for start in starts])

    def score(column: int, chosen: Sequence[int]) -> None:
        for m in chosen:  # one by one: intermediate results of all inputs for all members fit no cache
            with torch.no_grad():
                inputs = starts[m].x if x is None else x
                found[m, column] = float(probe.score(outputs(network, of_member(state.params, m), inputs), y[m]))

    every = range(len(starts))
    score(0, every)
    for step, index in enumerate(batches, start=1):
        population.step(state, batch(index), y[:, index])
        if step in at:
            score(int(np.searchsorted(at, step)), every if step == at[-1] else drawn)
    lost = ~np.isfinite(found)
    lost[[m for m in every if m not in drawn], 1:-1] = False  # not asked for
    last = found[:, 0]
    for column, gone in zip(found.T[1:], lost.T[1:], strict=True):
        last = np.where(np.isfinite(column), column, last)
        column[gone] = last[gone]
    return found, lost.any(1) | (np.array(state.diverged_at) >= 0)


def _orders(size: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Which samples each step uses, `(steps, batch_size)`: one shuffled order an epoch, without a rest."""
    per_epoch = size // batch_size
    generator = np.random.default_rng([seed, *b"refit"])
    epochs = [generator.permutation(size)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps]

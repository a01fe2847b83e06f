"""Many networks fitted to many targets for a fixed budget, as populations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.population import Member, Population
from pliant.probe.settings import Training
from pliant.probe.targets import AT_ONCE, Probe, part, samples
from pliant.stacking import stack

CROWD = 40  # members at once: more are no faster on two cores, and their optimizer state takes memory


class Start(NamedTuple):
    """Where one refit begins, and what it fits: the targets of all inputs; a fresh optimizer where there is no state.

    >>> Start({"weight": torch.ones(1)}, torch.zeros(5)).moments
    {}
    """

    params: Params
    y: Tensor
    moments: Moments = {}  # noqa: RUF012


class Refits(NamedTuple):
    """Scores on all inputs over the course of several refits.

    Attributes:
        steps: after how many optimizer steps, `(points,)`; the first is 0.
        scores: `(refits, points)`; what a refit that diverged had last, from there on.
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
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Refits:
    """Fits every start to its targets; all see the same minibatches, and are scored on all inputs on the way.

    Members of one population as far as memory and the step counts of their optimizers allow; the result does not depend
    on who shares one with whom, up to rounding. A budget is optimizer steps; minibatches run through shuffled epochs.

    >>> from torch import nn
    >>> from pliant.optim import Adam
    >>> from pliant.probe import RandomLabels
    >>> network = Network(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)))
    >>> x, params = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), network.fresh(0)
    >>> probe = RandomLabels(2)
    >>> starts = [Start(params, probe.targets(network, params, x, seed)) for seed in range(3)]
    >>> found = refit(network, probe, starts, x, Training(Adam(1e-2)), steps=50, batch_size=16)
    >>> found.scores.shape, bool((found.scores[:, -1] < found.scores[:, 0]).all())
    ((3, 11), True)
    """
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"expected {name} of a refit to be at least 1, got {number}")
    size = len(samples(x)[0])
    batch_size = min(batch_size, size)
    at = np.unique(np.linspace(0, steps, min(points, steps + 1)).round().astype(int))
    scores, diverged = np.full((len(starts), len(at)), np.nan), np.zeros(len(starts), bool)
    groups: dict[float, list[int]] = {}
    for i, start in enumerate(starts):
        clock = start.moments.get("step", {}).get("")
        groups.setdefault(-1.0 if not start.moments else 0.0 if clock is None else float(clock), []).append(i)
    crowds = [chosen[i : i + CROWD] for chosen in groups.values() for i in range(0, len(chosen), CROWD)]
    orders = _orders(size, batch_size, steps, seed)
    for done, chosen in enumerate(crowds):
        on_progress(done, len(crowds))
        crowd = [starts[i] for i in chosen]
        scores[chosen], diverged[chosen] = _together(network, probe, crowd, x, training, orders, at, seed)
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
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    like = next(iter(starts[0].params.values()))
    members = [Member(seed, training.optimizer, training.chain)] * len(starts)
    population = Population(network, probe.loss, members, device=like.device, dtype=like.dtype)
    moments: Moments = {}
    for kind, group in starts[0].moments.items():
        all_of = [start.moments[kind] for start in starts]
        moments[kind] = {n: t.clone() for n, t in group.items()} if kind == "step" else stack(all_of)
    state = population.init(stack([start.params for start in starts]), moments or None)
    y = torch.stack([start.y for start in starts])
    wanted = set(at.tolist())

    def shared(x: Any) -> Any:
        return tree_map(lambda t: t.expand(len(starts), *t.shape) if isinstance(t, Tensor) else t, x)

    def scored() -> list[float]:
        found = torch.zeros(len(starts), dtype=torch.float64)
        for i in range(0, y.shape[1], AT_ONCE):
            rows = slice(i, i + AT_ONCE)
            output = population.outputs(state, shared(part(x, rows)))
            one = [float(probe.score(tree_map(lambda t: t[m], output), y[m, rows])) for m in range(len(starts))]  # noqa: B023
            found += torch.tensor(one, dtype=torch.float64) * len(y[0, rows])
        return (found / y.shape[1]).tolist()

    curve = [scored()]
    for step, order in enumerate(orders, start=1):
        index = torch.from_numpy(order).to(y.device)
        population.step(state, shared(part(x, index)), y[:, index])
        if step in wanted:
            curve.append(scored())
    found = np.array(curve).T
    lost = ~np.isfinite(found)
    for row in range(len(found)):
        for column in range(1, found.shape[1]):
            if lost[row, column]:
                found[row, column] = found[row, column - 1]
    return found, lost.any(1) | (np.array(state.diverged_at) >= 0)


def _orders(size: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Which samples each step uses, `(steps, batch_size)`: one shuffled order an epoch, without a rest."""
    per_epoch = size // batch_size
    generator = np.random.default_rng([seed, *b"refit"])
    epochs = [generator.permutation(size)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps]

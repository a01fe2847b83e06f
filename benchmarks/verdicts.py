"""How often verdicts are wrong: fresh networks called lost, aged ones not, and intervals that miss.

    python benchmarks/verdicts.py            # fresh networks of ten architectures, 20 repetitions each
    python benchmarks/verdicts.py --aged     # networks of swiss_cheese's plain arm, aged on digits
    python benchmarks/verdicts.py --cover    # intervals of what mechanisms took, against that of many targets

Goals: at most 5 % of fresh networks are called lost, at least 95 % of aged ones are, and 93 to 97 % of intervals cover.
Seeds begin at 100, apart from those of results that are reported.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.stats import skew
from torch import nn

import pliant
from pliant.causes import Norm, OptimizerState, OutputLayer, Units
from pliant.causes.attribution import disentangled
from pliant.data import load
from pliant.functional.statistics import interval
from pliant.nets import CNN, MLP
from pliant.network import Network, Params
from pliant.optim import SGD, Adam, RMSProp
from pliant.papers.lyle2024 import swiss_cheese
from pliant.probe import FreshLabels, Sines, Training
from pliant.stacking import at

FIRST = 100  # seed


def batch(size: int = 64) -> torch.Tensor:
    """Some digits, standardised."""
    digits = load("digits")
    return digits.standardize(torch.tensor(digits.x_train[:size]))


def tanh(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, outputs))


def gelu(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, outputs))


class Residual(nn.Module):
    """Two blocks on a stream."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, outputs)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(torch.relu(x))
        return self.last(torch.relu(x))


MLPS = {
    f"MLP {'-'.join(map(str, hidden))}": partial(MLP, (1, 8, 8), hidden=hidden)
    for hidden in [(32,), (32, 32), (64, 64), (24, 24, 24)]
}
ARCHITECTURES: dict[str, tuple[Callable[[int], nn.Module], pliant.optim.Optimizer]] = {
    **{name: (make, Adam(3e-3)) for name, make in MLPS.items()},
    "MLP 64-64, SGD": (partial(MLP, (1, 8, 8), hidden=(64, 64)), SGD(0.1, momentum=0.9)),
    "MLP 64-64, RMSProp": (partial(MLP, (1, 8, 8), hidden=(64, 64)), RMSProp(1e-3)),
    "tanh": (tanh, Adam(3e-3)),
    "GELU, layer norm": (gelu, Adam(3e-3)),
    "residual": (Residual, Adam(3e-3)),
    "CNN": (partial(CNN, (1, 8, 8)), Adam(1e-3)),
}  # fmt: skip


def fresh(repetitions: int) -> None:
    """Verdicts of networks that were never trained, labels and sines in turns."""
    every: Counter[str] = Counter()
    for name, (make, optimizer) in ARCHITECTURES.items():
        found: Counter[str] = Counter()
        for repetition in range(repetitions):
            probe, outputs = (FreshLabels(10), 10) if repetition % 2 == 0 else (Sines(), 1)
            torch.manual_seed(FIRST + repetition)
            made = pliant.plasticity(
                make(outputs), fresh=partial(make, outputs), inputs=batch(), optimizer=optimizer, probe=probe,
                targets=5, batch_size=64, seed=FIRST + repetition,
            )  # fmt: skip
            found[made.verdict("now")] += 1
        every += found
        print(f"{name}: {dict(found)}", flush=True)
    total = sum(every.values())
    share = f"{every['lost']} of {total} ({every['lost'] / total:.1%}; goal: at most 5 %)"
    print(f"fresh networks called lost: {share}, {dict(every)}")


def aged(seeds: int, arm: str = "none") -> list[tuple[Network, Params, torch.Tensor, Training]]:
    """Networks of an arm of swiss_cheese at the end of a stream on digits, with inputs and the state of Adam."""
    settings = swiss_cheese.Settings(data="digits", num_examples=256, every=300, num_tasks=25, lr=3e-3, hidden=(64, 64))
    trial = replace(swiss_cheese.setup(settings).arms[arm].trial, measures=())
    numbers = list(range(FIRST, FIRST + seeds))
    run = trial.start(numbers)
    for _ in run.rows:
        pass
    state, (population,) = run.state, run.populations
    inputs, found = trial.task.bind(trial.inputs(), numbers).examples(0).x, []
    for m, member in enumerate(population.members):
        params = {name: p.clone() for name, p in at(state.params, m).items()}
        moments = {kind: group if kind == "step" else at(group, m) for kind, group in state.moments.items()}
        found.append((population.network, params, inputs[m], Training(member.optimizer, moments=moments)))
    return found


def lost(networks: int) -> None:
    """Verdicts of aged networks."""
    found: Counter[str] = Counter()
    for seed, (network, params, x, how) in enumerate(aged(networks), FIRST):
        found[disentangled(network, params, x, how, FreshLabels(10), repairs=(), seed=seed).verdict] += 1
    print(f"aged networks called lost: {found['lost']} of {networks} (goal: at least 95 %), {dict(found)}")


def cover(targets: int) -> None:
    """How often the intervals of 3, 5 and 10 targets contain the mean of many, drawn with replacement, in two arms."""
    for arm in ("none", "layer_norm"):
        _cover(arm, targets)


def _cover(arm: str, targets: int) -> None:
    ((network, params, x, how),) = aged(1, arm)
    repairs = (Units(), Norm(), OutputLayer(), OptimizerState())
    causes = disentangled(network, params, x, how, FreshLabels(10), repairs=repairs, targets=targets, steps=200)
    parts = {repair.name: row for repair, row in zip(causes.repairs, causes.recovered, strict=True)}
    parts["unexplained"] = causes.lost - causes.recovered.sum(0)
    generator = np.random.default_rng(0)
    print(f"arm {arm}: coverage of the 95 % intervals of 3, 5 and 10 of {targets} targets; what each mechanism took")
    for name, values in parts.items():
        inside = []
        for few in (3, 5, 10):
            drawn = [interval(values[generator.integers(targets, size=few)]) for _ in range(4000)]
            inside.append(np.mean([found.low <= values.mean() <= found.high for found in drawn]))
        covered = " ".join(f"{share:6.1%}" for share in inside)
        print(f"{name:16} {covered}   {values.mean():+.3f} nats, skewness {skew(values):+.1f}", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--aged", type=int, nargs="?", const=40)
    asked.add_argument("--cover", type=int, nargs="?", const=60)
    asked.add_argument("--repetitions", type=int, default=20)
    given = asked.parse_args()
    if given.aged or given.cover:
        lost(given.aged) if given.aged else cover(given.cover)
    else:
        fresh(given.repetitions)


if __name__ == "__main__":
    main()

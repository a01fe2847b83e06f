"""What a `disentangle` costs, why fewer refits widen its intervals, and what it costs on a transformer.

    python benchmarks/causes.py                # a step of 40 refits on 784-128-128-10, and its matrix products alone
    python benchmarks/causes.py --noise        # what makes intervals wide: noise of each refit, or other targets?
    python benchmarks/causes.py --transformer  # all repairs, 5 targets, 2 layers 64 wide on 32 tokens

All in processor time of one thread. Seeds begin at 100, apart from those of results that are reported.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor, nn

import pliant
from pliant.causes import EVERY, REPAIRS
from pliant.causes.attribution import ORDERS
from pliant.data import load
from pliant.functional.shapley import shapley
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from pliant.probe import FreshLabels, Start, Training, refit
from pliant.stacking import stack

MEMBERS, BATCH, SIZES = 40, 128, (784, 128, 128, 10)
BUDGETS = (100, 200, 500, 1000)


def seconds(of: Callable[[], object], repetitions: int) -> float:
    """Processor time of the fastest of some calls."""
    of()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        of()
        times.append(time.process_time() - start)
    return min(times)


def products() -> None:
    """A step of 40 members, and the matrix products in it: one a layer forwards, two backwards, of the first one."""
    layers = [nn.Linear(a, b) for a, b in pairwise(SIZES)]
    network = Network(nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())][:-1]))
    population = Population(network, FreshLabels(10).loss, [Member(100, Adam(1e-3))] * MEMBERS)
    state = population.init(stack([network.fresh(100 + m) for m in range(MEMBERS)]))
    x = torch.randn(BATCH, SIZES[0]).expand(MEMBERS, -1, -1)
    y = torch.randint(10, (MEMBERS, BATCH))
    step = seconds(lambda: population.step(state, x, y), 10)
    work: list[tuple[Tensor, Tensor]] = []
    for place, layer in enumerate(layers):
        weight = layer.weight.detach().expand(MEMBERS, -1, -1).contiguous()
        given = x if place == 0 else torch.randn(MEMBERS, BATCH, layer.in_features)
        back = torch.randn(MEMBERS, BATCH, layer.out_features)
        work += [(given, weight.mT), (back.mT, given)] + ([(back, weight)] if place else [])
    alone = seconds(lambda: [torch.bmm(a, b) for a, b in work], 10)
    refits = 5 * (2 ** len(REPAIRS) + 1)
    crowds = refits / MEMBERS
    for what, each in ("a step", step), ("its products alone", alone):
        print(f"{what} of {MEMBERS}: {1e3 * each:.0f} ms; {refits} refits of 500 steps: {500 * crowds * each:.0f} s")


def noise() -> None:
    """Walsh coefficients of the losses of all coalitions: the highest order is the noise of single refits."""
    digits = load("digits")
    x = digits.standardize(torch.tensor(digits.x_train[:256])).flatten(1)
    torch.manual_seed(100)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    y = torch.randint(10, (256,))
    for step in range(1500):
        if step % 150 == 0:
            y = torch.randint(10, (256,))
        i = torch.randint(256, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    causes = pliant.disentangle(
        model, inputs=x, optimizer=optimizer, probe=FreshLabels(10), repairs=REPAIRS, targets=10, steps=120,
        batch_size=64, seed=100,
    )  # fmt: skip
    players = len(causes.repairs)
    signs = np.array([[1.0 if i in c else -1.0 for i in range(players)] for c in causes.values])
    values = np.minimum(np.stack(list(causes.values.values())), causes.probed.baseline)
    for order in range(1, players + 1):
        each = [(np.prod(signs[:, list(s)], 1) @ values) / len(values) for s in combinations(range(players), order)]
        print(f"order {order}: {np.sqrt(np.mean(np.square(each))):.3f} nats, the root mean square of a coefficient")
    single = np.sqrt(len(values)) * np.sqrt(np.mean(np.square(each)))
    deviation = causes.recovered.std(1, ddof=1)
    weights = shapley(dict(zip(causes.values, np.eye(len(values)), strict=True)), players)
    exact = single * np.linalg.norm(weights, axis=1)[0]
    print(f"noise of a refit: {single:.3f} nats; so of a part by all subsets {exact:.3f}, by two orders {single:.3f}")
    print(f"parts vary over targets by {', '.join(f'{d:.3f}' for d in deviation)}")


class Transformer(nn.Module):
    """Two layers, 64 wide, that name a class from 32 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(64, 64), nn.Parameter(0.1 * torch.randn(32, 64))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.output = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.positions
        for layer in self.layers:
            h = layer(h)
        return self.output(self.norm(h).mean(1))


def transformer(measured: int = 10) -> None:
    """The budget at which fresh ones learn, and what the refits at it take, from a few steps of 40."""
    x = torch.randint(64, (256, 32), generator=torch.Generator().manual_seed(100))
    network = Network(Transformer, example=x[:4])
    probe, training = FreshLabels(10), Training(Adam(1e-3))

    def start(seed: int) -> Start:
        params = network.fresh(seed)
        return Start(params, probe.targets(network, params, x, seed))

    fresh = [start(seed) for seed in range(100, 103)]
    baseline = np.mean([probe.baseline(one.y) for one in fresh])
    budget = next(
        steps for steps in BUDGETS
        if refit(network, probe, fresh, x, training, steps=steps, batch_size=64, points=2).scores[:, -1].mean()
        < 0.2 * baseline
    )  # fmt: skip
    crowd = [start(seed) for seed in range(100, 100 + MEMBERS)]
    few, more = (
        seconds(lambda n=n: refit(network, probe, crowd, x, training, steps=n, batch_size=64, curves=()), 1)
        for n in (1, 1 + measured)
    )
    refits, step = 5 * (2 + ORDERS * (len(EVERY) - 1) + 1), (more - few) / measured
    print(f"fresh transformers learn in {budget} steps; a step of {MEMBERS} takes {1e3 * step:.0f} ms")
    minutes = refits / MEMBERS * budget * step / 60
    print(f"{len(EVERY)} repairs x 5 targets: at most {refits} refits, {minutes:.1f} minutes of processor time")


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--noise", action="store_true")
    wanted.add_argument("--transformer", action="store_true")
    asked = wanted.parse_args()
    torch.set_num_threads(1)
    (noise if asked.noise else transformer if asked.transformer else products)()


if __name__ == "__main__":
    main()

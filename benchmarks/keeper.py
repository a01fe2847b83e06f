"""What does a recipe cost in a loop of one's own? Processor time a step, relative to the same loop and model without.

784-256-256-10 at batch 128 and a small convolutional network (16, 16 channels of 28 x 28, 64, 64) at batch 64, Adam,
one thread. Recipe and plain PyTorch alternate in blocks of steps; the figure is the median over rounds of the ratio
within a round. What resets nothing should stay under 1.05. `by hand` is the ratio of a loop with the few lines of plain
PyTorch that do the same, where there are such.

    python benchmarks/keeper.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from pliant.interventions import (
    L2,
    Chain,
    ContinualBackprop,
    FeatureNorm,
    L2Init,
    LayerNorm,
    ReDo,
    Scheduled,
    ShrinkAndPerturb,
    WeightClipping,
    WeightDecay,
    WeightNormRescale,
)

STEPS = 10
RECIPES = {
    "nothing": (Chain(), 1.05),
    "layer norm": (Chain(LayerNorm()), 1.05),
    "shrink and perturb at events": (Chain(ShrinkAndPerturb(0.5, 0.1)), 1.05),
    "L2": (Chain(L2(1e-5)), 1.05),
    "L2 and layer norm": (Chain(LayerNorm(), L2(1e-5)), 1.05),
    "L2 to the initial weights": (Chain(L2Init(1e-5)), 1.05),
    "decoupled decay": (Chain(WeightDecay(1e-3)), 1.05),
    "clipping": (Chain(WeightClipping(3.0)), 1.05),
    "rescaled to the initial norm": (Chain(WeightNormRescale()), 1.05),
    "the same every 10 steps": (Chain(Scheduled(WeightNormRescale(), every=10)), 1.05),
    "feature norm": (Chain(FeatureNorm(1e-3)), 1.05),
    "ReDo every 1000 steps": (Chain(ReDo(tau=0.025, every=1000)), 1.02),
    "continual backprop": (Chain(ContinualBackprop()), 1.5),
}


class ByHand:
    """What people write into their loop."""

    def __init__(self, model: nn.Module):
        self.params = list(model.parameters())
        self.initial = [p.detach().clone() for p in self.params]
        self.norms = [p.detach().norm() for p in self.params]

    def penalty(self) -> torch.Tensor | float:
        return 0.0

    def step(self) -> None:
        pass


class L2ByHand(ByHand):
    def penalty(self) -> torch.Tensor | float:
        return 1e-5 * sum(p.square().sum() for p in self.params)


class L2InitByHand(ByHand):
    def penalty(self) -> torch.Tensor | float:
        return 1e-5 * sum((p - w).square().sum() for p, w in zip(self.params, self.initial, strict=True))


class DecayByHand(ByHand):
    @torch.no_grad()
    def step(self) -> None:
        for p in self.params:
            p.mul_(1 - 1e-3 * 1e-3)


class ClippingByHand(ByHand):
    @torch.no_grad()
    def step(self) -> None:
        for p in self.params:
            p.clamp_(-0.1, 0.1)


class RescalingByHand(ByHand):
    @torch.no_grad()
    def step(self) -> None:
        for p, norm in zip(self.params, self.norms, strict=True):
            if p.ndim > 1:
                p.mul_(norm / p.norm())


BY_HAND = {
    "L2": L2ByHand,
    "L2 to the initial weights": L2InitByHand,
    "decoupled decay": DecayByHand,
    "clipping": ClippingByHand,
    "rescaled to the initial norm": RescalingByHand,
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (128, 784)),
    "cnn": (cnn, (64, 1, 28, 28)),
}


def loop(
    make: Callable[[], nn.Module], recipe: Chain, attach: bool | type[ByHand], x: torch.Tensor, y: torch.Tensor
) -> Callable[[], float]:
    """A function that trains for some steps and returns the seconds of processor time these took."""
    torch.manual_seed(0)
    model = recipe.build(make(), example=x)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    keeper = None
    if attach:
        keeper = recipe.attach(model, optimizer) if attach is True else attach(model)

    def run() -> float:
        start = time.process_time()
        for _ in range(STEPS):
            loss = F.cross_entropy(model(x), y)
            if keeper is not None:
                loss = loss + keeper.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if keeper is not None:
                keeper.step()
        return time.process_time() - start

    return run


def main(rounds: int = 61) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print(f"torch {torch.__version__}, one thread, {rounds} rounds of {STEPS} steps")
    for net, (make, shape) in NETS.items():
        x = torch.randn(shape, generator=generator)
        y = torch.randint(10, shape[:1], generator=generator)
        print(f"{net:32} {'ms plain':>8} {'ms with':>8} {'ratio':>6} {'goal':>5} {'by hand':>8}")
        for name, (recipe, goal) in RECIPES.items():
            ways = [loop(make, recipe, how, x, y) for how in (False, True, BY_HAND.get(name)) if how is not None]
            for way in ways:
                way()
            took: list[list[float]] = [[] for _ in ways]
            for n in range(rounds):
                for i in [(n + k) % len(ways) for k in range(len(ways))]:
                    took[i].append(ways[i]())
            ms = [1000 / STEPS * statistics.median(seconds) for seconds in took]
            ratios = [statistics.median(b / a for a, b in zip(took[0], other, strict=True)) for other in took[1:]]
            by_hand = f"{ratios[1]:8.3f}" if len(ratios) > 1 else ""
            print(f"{name:32} {ms[0]:8.2f} {ms[1]:8.2f} {ratios[0]:6.3f} {goal:5.2f} {by_hand}", flush=True)


if __name__ == "__main__":
    main()

"""What every diagnostic reads on a freshly drawn network: where the texts `healthy` come from.

`python -m tests.diagnostics.healthy [NAME ...]` prints the line that belongs into each: the smallest and the largest of
ten seeds.
"""

import math
import sys
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F

from pliant.diagnostics import Diagnostic, Observation
from pliant.nets import MLP, layer_norm
from pliant.network import Network

NETS = {  # of the diagnostics that say nothing on a ReLU network without normalisers
    "SaturatedUnits": MLP(784, 10, (256, 256), activation=nn.Tanh),
    "EffectiveLearningRate": MLP(784, 10, (256, 256), norm=layer_norm),
}
SETTINGS = {
    "DormantUnits": {"tau": 0.1},
    "GradientDormantUnits": {"tau": 0.1},
    "SaturatedUnits": {"tolerance": 1e-3, "share": 0.05},
    "EffectiveLearningRate": {"lr": 1e-3},
}


def readings(kinds: Iterable[type[Diagnostic]], seed: int) -> dict[str, dict[str, float]]:
    """The whole network's numbers of each, by its name: 512 inputs with random labels, 64 of them at full cost.

    `earlier` is before one step of Adam with a learning rate of 1e-3, where it is needed.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    x, y = torch.randn(512, 784, generator=generator), torch.randint(10, (512,), generator=generator)
    seen = {name: observed(module, seed, x, y) for name, module in {"": MLP(784, 10, (256, 256)), **NETS}.items()}
    found = {}
    for kind in kinds:
        name = kind.__name__
        before, after = seen.get(name, seen[""])
        now = after if "earlier" in kind.needs else before
        if kind.cost == "full":
            now = now._replace(x=x[:64], y=y[:64])
        values = kind(**SETTINGS.get(name, {})).measure(now)
        found[name] = {column: value.item() for column, value in values.items()}
    return found


def observed(module: nn.Module, seed: int, x: torch.Tensor, y: torch.Tensor) -> tuple[Observation, Observation]:
    """A fresh network, and the same after a step."""
    net = Network(module, example=x[:4])
    params = net.fresh(seed)
    gradients = grad(lambda params: F.cross_entropy(net(params, x), y))(params)
    update = {name: -1e-3 * g / (g.abs() + 1e-8) for name, g in gradients.items()}
    moved = {name: params[name] + update[name] for name in params}
    rest = (gradients, update, net.trace(params, x), net, x, y, F.cross_entropy)
    return tuple(Observation(p, params, net.trace(p, x), *rest) for p in (params, moved))


def line(kind: type[Diagnostic]) -> str:
    """The class variable with what ten freshly drawn networks read: each column of the whole network."""
    seeds = [readings([kind], seed)[kind.__name__] for seed in range(10)]
    ranges = {name: [numbers[name] for numbers in seeds] for name in seeds[0] if "/" not in name}
    said = ", ".join(f"{name} {rounded(min(values), max(values))}" for name, values in ranges.items())
    return f'healthy: ClassVar[str] = "{said}"'


def rounded(low: float, high: float) -> str:
    """A range, rounded outwards to three digits."""
    ends = list(dict.fromkeys(_end(value, away) for value, away in ((low, math.floor), (high, math.ceil))))
    return " to ".join(ends)


def _end(value: float, away: Callable[[float], int]) -> str:
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    end = away(round(value * 10.0**digits, 6)) / 10.0**digits
    return f"{end:.{max(digits, 0)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{end:.0f}"


if __name__ == "__main__":
    from pliant.diagnostics import registered

    for kind in registered():
        if kind.__name__ in sys.argv[1:] or (not sys.argv[1:] and kind.__name__ != "TargetOffset"):
            print(f"{kind.__name__}: {line(kind)}")

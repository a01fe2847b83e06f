"""What every diagnostic reads on a freshly drawn network: where the texts `healthy` come from.

`python -m tests.diagnostics.healthy` prints the smallest and the largest of ten seeds.
"""

from collections.abc import Iterable

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


if __name__ == "__main__":
    from pliant.diagnostics import registered

    kinds = [kind for kind in registered() if kind.__name__ != "TargetOffset"]
    seeds = [readings(kinds, seed) for seed in range(10)]
    for kind in kinds:
        for column in seeds[0][kind.__name__]:
            values = [numbers[kind.__name__][column] for numbers in seeds]
            print(f"{kind.__name__:24} {column:40} {min(values):.4g} to {max(values):.4g}")

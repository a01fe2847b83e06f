"""What the interventions that change a module share: refusals, modules exchanged, other weights."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pliant.adapter import adapted, bare, duplicate, has_forward, how_to_call
from pliant.maps import CONVOLUTIONS
from pliant.modules import NORMALISERS, factors, output_layers, seeded
from pliant.sites import LAYERS, Watch, arguments

Among = Callable[[str], bool]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def prepared(method: str, module: nn.Module) -> nn.Module:
    """A copy of a module to build into; one that cannot be built into is refused."""
    kind = type(bare(module)).__name__
    if bare(module) is not module:
        raise ValueError(
            f"{method} cannot be built into a compiled {kind}: write model = torch.compile(...) after the build"
        )
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if lazy := [name for name, t in tensors.items() if is_lazy(t)]:
        raise ValueError(f"{method} needs shapes that {lazy[0]} of {kind} does not have yet: write model(x) before it")
    if meta := [name for name, t in tensors.items() if t.is_meta]:
        raise ValueError(
            f"{method} cannot be built into a {kind} with {meta[0]} on the meta device: write "
            "model.to_empty(device=...) and draw the parameters before it"
        )
    if not has_forward(module):
        raise ValueError(
            f"{kind} has no forward: write Chain({method}(...)).build(model, example=x, {how_to_call(module)})"
        )
    return duplicate(module)[0]


def exchange(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a module in the place of another, wherever that is.

    >>> net = nn.Sequential(nn.ReLU(), nn.Linear(1, 1))
    >>> exchange(net, net[0], nn.Tanh())
    >>> net[0]
    Tanh()
    """
    for parent in root.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


class _Layers(Watch):
    """Paths of the modules that call linear maps; nonlinearities pass."""

    def __init__(self) -> None:
        super().__init__(set())
        self.paths: list[str] = []

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is F.linear or func in CONVOLUTIONS:
            path, module = self.stack[-1]
            self.paths += [path] if isinstance(module, LAYERS) else []
        return func(*args, **kwargs)

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return post


def layers_in_order(module: nn.Module, example: Any) -> list[str]:
    """Paths of the linear and convolution modules that a forward pass calls, in the order of their first calls.

    >>> layers_in_order(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    ['0', '2']
    """
    return linear_maps(module, example)[0]


def linear_maps(module: nn.Module, example: Any) -> tuple[list[str], list[str]]:
    """`layers_in_order`, and the names of the weights of other modules.

    Those are weights that a forward pass multiplies with by itself (the matrices of LoRA, an attention's projections)
    and those of transposed convolutions; embeddings are none of them.

    >>> net = nn.Sequential(nn.ConvTranspose1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 1, 1))
    >>> linear_maps(net, torch.ones(1, 2, 1))
    (['2'], ['0.weight'])
    """
    layers, watched = _Layers(), adapted(module)
    args, kwargs = arguments(example)
    with torch.no_grad(), seeded(0), layers.over(watched):
        watched(*args, **kwargs)
    called = list(dict.fromkeys(layers.paths))
    used, others = factors(module, example), []
    for name, p in module.named_parameters():
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        product = name in used or (p.ndim > 1 and "weight" in own and not isinstance(owner, NORMALISERS))
        if product and path not in called and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            others.append(name)
    return called, others


def last_of(paths: list[str], module: nn.Module, example: Any) -> list[str]:
    """Those of these layers that give the output, also where their weight has another name (of an embedding).

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> last_of(["0", "2"], net, torch.ones(1, 2))
    ['2']
    """
    last = [module.get_parameter(name) for name in output_layers(module, example)]
    return [path for path in paths if any(module.get_submodule(path).weight is p for p in last)]


def warn_of_others(method: str, others: list[str], among: Among) -> None:
    """Names what multiplies with weights and is left alone."""
    if left := [name for name in others if among(name.rpartition(".")[0])]:
        warnings.warn(f"{method} left alone {', '.join(left)}: no plain linear or convolution layers", stacklevel=4)


class Reparametrised(metaclass=ABCMeta):
    """What makes a linear or convolution layer use a multiple of its weight; the weight keeps its name."""

    weight: Tensor
    bias: Tensor | None

    @abstractmethod
    def scale(self) -> Tensor:
        """What the weight is multiplied with: one number, or one a unit."""

    def used(self) -> Tensor:
        """The weight as it is used."""
        return self.weight * self.scale().reshape(-1, *[1] * (self.weight.ndim - 1))

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(self, nn.Linear):
            return self._conv_forward(input, self.used(), self.bias)  # type: ignore[attr-defined]
        y = F.linear(input, self.weight) * self.scale()  # outputs are fewer numbers than weights
        return y if self.bias is None else y + self.bias


def reparametrise(method: str, layer: nn.Module, path: str, kinds: dict[type, type]) -> nn.Module:
    """Makes a plain layer one of another kind, in place."""
    kind = type(layer)
    if hasattr(layer, "injection") or "injection" in path.split("."):
        raise ValueError(f"{method} cannot follow PlasticityInjection at {path}: build it before")
    if kind not in kinds:
        raise ValueError(
            f"{method} takes plain {', '.join(f'nn.{k.__name__}' for k in kinds)}, but {path} is "
            f"{kind.__module__}.{kind.__name__}: "
            f"leave it out with Only(pattern, {method}(...)), or build {method} before what changed it"
        )
    layer.__class__ = kinds[kind]
    return layer

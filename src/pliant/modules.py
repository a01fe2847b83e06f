"""What can be asked of, and done to, any module: its layers in use, fresh draws, a copy that is a pure function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pliant.adapter import How, adapted, bare, inexact, tensors_of, uncheckpointed
from pliant.levels import carried
from pliant.maps import CONVOLUTIONS, PRODUCTS, Maps
from pliant.sites import arguments, rows, uncompiled_parts

MULTIPLYING = CONVOLUTIONS | PRODUCTS | {F.linear, F.bilinear, F.embedding, F.embedding_bag}
IMPURE = (_BatchNorm, _InstanceNorm, _DropoutNd)  # in train mode, unless they are set otherwise
GLOBAL_STREAM = (
    "the forward pass draws from the global random stream (F.dropout?), so the network is no function of its inputs: "
    "write pliant.nets.Dropout(p)"
)
NORMALISERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm, _InstanceNorm)


def penultimate(features: Tensor | None, module: nn.Module, unit_dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """What the last linear map of a watched forward pass read, as `(samples, features)`.

    Tokens are samples, but for those that `mask` leaves out. Of an image that a convolution reads (whose units are
    along `unit_dim` 1), all positions are features of one sample.
    """
    if features is None:
        raise ValueError(
            f"no linear map was seen in {type(module).__name__}, so it has no features: write nn.Linear, "
            "F.linear(x, weight), or x @ weight with a weight that is a parameter"
        )
    return rows(features, mask) if unit_dim < 0 else features.flatten(1)


@torch.no_grad()
def convolution_flops(module: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations in the convolutions of a forward pass: a product and a sum count as two.

    >>> convolution_flops(nn.Conv2d(3, 4, 5), torch.ones(2, 3, 6, 6))  # 300 weights at 2 x 2 places of 2 images
    4800
    """
    with Maps({}) as maps:  # no parameters: no products
        module(*args)
    convolutions = [(seen, y) for seen, y in maps.found if seen.dim == 1]
    return sum(2 * seen.weight.numel() * min(seen.input[:, 0].numel(), y[:, 0].numel()) for seen, y in convolutions)


class _Products(TorchFunctionMode):
    """Collects the storages of all tensors that enter a matrix product, a convolution or an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in MULTIPLYING:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.storages |= {carried(t).untyped_storage().data_ptr() for t in tensors}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def factors(module: nn.Module, example: Any) -> set[str]:
    """Names of the parameters that enter a matrix product, a convolution or an embedding, also as a view (transposed).

    >>> factors(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), torch.ones(1, 2))
    {'0.weight'}
    """
    args, kwargs = arguments(example)
    module = adapted(module)
    with seeded(0), uncompiled_parts(), _Products() as seen:
        module(*args, **kwargs)
    named = module.named_parameters()
    return {name for name, p in named if p.ndim > 1 and p.untyped_storage().data_ptr() in seen.storages}


@torch.enable_grad()
def output_layers(module: nn.Module, example: Any) -> frozenset[str]:
    """Names of the parameters of the linear maps whose results reach the output and no later one."""
    module = adapted(module)
    for p in module.parameters():
        p.requires_grad_(inexact(p))
    maps = Maps(dict(module.named_parameters()))
    with seeded(0), uncompiled_parts(), uncheckpointed(), maps:
        args, kwargs = arguments(example)
        output = module(*args, **kwargs)
    ends = [t for t in tensors_of(output) if t.requires_grad]
    calls = [
        (carried(seen.input), [carried(t) for t in (seen.weight, seen.bias) if t is not None], carried(result))
        for seen, result in maps.found
    ]

    def reached(ends: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[bool]:
        if not ends:
            return [False] * len(tensors)
        number = torch.stack([torch.view_as_real(t).sum() if t.is_complex() else t.sum() for t in ends]).sum()
        found = torch.autograd.grad(number, tensors, retain_graph=True, allow_unused=True)
        return [g is not None for g in found]

    params = dict(module.named_parameters())
    last: set[str] = set()
    for i, (_, own, result) in enumerate(calls):
        later = [x for x, _, _ in calls[i + 1 :] if x.requires_grad]
        if reached(ends, [result])[0] and not reached(later, [result])[0]:
            used = reached(own, list(params.values()))
            last |= {name for name, there in zip(params, used, strict=True) if there}
    if not last:
        raise ValueError(
            f"no linear map was seen in {type(module).__name__}, so it has no output layer: write nn.Linear, "
            "F.linear(x, weight), or x @ weight with a weight that is a parameter"
        )
    return frozenset(last)


def redraw(module: nn.Module, only: Collection[str] | None = None) -> None:
    """Every layer's own initial distribution, inner layers first, as in a constructor."""
    owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        if only is None or name in only:
            owners.setdefault(p, []).append((module.get_submodule(name.rpartition(".")[0]), name))
            p.data.fill_(torch.nan if inexact(p) else 0)  # what stays NaN was drawn by nobody
    ours = {id(layer) for layers in owners.values() for layer, _ in layers}

    def reset(layer: nn.Module) -> None:
        own = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if own is not None and (only is None or id(layer) in ours):
            own()

    module.apply(reset)
    for p, layers in owners.items():
        layer, name = layers[0]
        if p.isnan().any():
            problem = f"no reset_parameters() draws {name!r} of {type(layer).__name__}"
        elif len({type(layer) for layer, _ in layers}) > 1:
            problem = f"{' and '.join(repr(n) for _, n in layers)} are one tensor, which layers of two kinds draw"
        else:
            continue
        raise ValueError(
            f"{problem}: write Network(lambda: make_model()), or fresh=make_model where a model is handed over, with a "
            "function that builds a new one"
        )


def drawn_by_layers(build: Callable[[], nn.Module]) -> bool:
    """Whether what a function builds is what the `reset_parameters` of its layers draw, number for number.

    >>> drawn_by_layers(lambda: nn.Linear(2, 1))
    True
    """
    with seeded(0):
        module = bare(build())
    built = {name: p.detach().clone() for name, p in module.named_parameters()}
    try:
        with seeded(0):
            redraw(module)
    except ValueError:
        return False  # some layer cannot draw itself
    return all(torch.equal(p, built[name]) for name, p in module.named_parameters())


def purified(module: nn.Module, call: How | None = None) -> nn.Module:
    """A copy on the CPU that is a function of its inputs: no dropout; batch normalisation by each batch's statistics.

    Batch normalisation in `eval` mode keeps its running statistics.

    >>> purified(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)))(torch.tensor([[0.0, 2.0], [2.0, 0.0]])).sum().item()
    0.0
    """
    module = adapted(module, call).cpu()
    for layer in module.modules():
        if isinstance(layer, (_BatchNorm, _InstanceNorm)) and layer.training and layer.track_running_stats:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return module.eval()


class Impure(ValueError):
    """A module that is no function of its inputs; `problem` is the message without the line to write."""

    def __init__(self, problem: str, line: str):
        super().__init__(f"{problem}, so the network is no function of its inputs: {line}")
        self.problem = f"{problem}, so the network is no function of its inputs"


def refuse_impure(module: nn.Module) -> None:
    """Raises `Impure` for dropout in train mode, and for batch normalisation that updates running statistics."""
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise Impure(
                f"{kind} {name!r} draws from the global random stream",
                "write pliant.nets.Dropout(p), or model.eval()",
            )
        if isinstance(layer, (_BatchNorm, _InstanceNorm)) and layer.training and layer.track_running_stats:
            raise Impure(
                f"{kind} {name!r} updates running statistics",
                f"write nn.{kind}(..., track_running_stats=False), or model.eval()",
            )


def refuse_another(model: nn.Module, fresh: nn.Module) -> None:
    """Raises `ValueError` if a fresh network has parameters of other names or shapes than the model."""
    here, there = ({n: tuple(p.shape) for n, p in module.named_parameters()} for module in (model, fresh))
    if odd := sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
        mine, other = here.get(odd[0], "nothing"), there.get(odd[0], "nothing")
        raise ValueError(
            f"expected the same architecture, got the model with {mine} where a fresh network has {other} ({odd[0]}): "
            "hand over the function that built it"
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global stream, seeded for as long as layers draw from it, then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def fitting(mask: Any, x: Any) -> Tensor:
    """A mask of the tokens of inputs, if it is one: `(batch, tokens)` and boolean, False at padding.

    >>> fitting(torch.tensor([[True, False]]), torch.ones(1, 2, 3))
    tensor([[ True, False]])
    """
    mask = torch.as_tensor(mask)
    shapes = [tuple(t.shape) for t in tree_leaves(x) if isinstance(t, Tensor)]
    if mask.dtype != torch.bool or mask.ndim != 2 or not any(shape[:2] == mask.shape for shape in shapes):
        raise ValueError(
            f"expected a boolean mask of shape (batch, tokens) for inputs of {', '.join(map(str, shapes))}, got "
            f"{mask.dtype} {tuple(mask.shape)}: write mask=tokens != padding"
        )
    if not mask.any():
        raise ValueError("expected a mask that is True at some token, got False everywhere")
    return mask


def unpadded(output: Tensor, mask: Tensor | None) -> Tensor:
    """An output with 0 at padding, where it has these axes.

    >>> unpadded(torch.ones(1, 2, 1), torch.tensor([[True, False]])).tolist()
    [[[1.0], [0.0]]]
    """
    if mask is None or output.shape[: mask.ndim] != mask.shape:
        return output
    return output * mask.reshape(mask.shape + (1,) * (output.ndim - mask.ndim))

"""Normalisers built into any module: after the layers that nonlinearities read, and at the batch norms that it has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pliant.adapter import adapted
from pliant.interventions._building import Among, exchange, prepared
from pliant.interventions._sources import Norm, looked_at
from pliant.modules import seeded
from pliant.sites import arguments
from pliant.words import first_line

Axes = Literal["channels_and_space", "channels"]
AXES = ("channels_and_space", "channels")
AtBatchNorm = Literal["replace", "before", "after"]
AT_BATCH_NORM = ("replace", "before", "after")

Make = Callable[[int, int], nn.Module]  # of the number of units, and of the axis they run along, from the end


def normalised(
    method: str, make: Make, module: nn.Module, example: Any, among: Among, at_batch_norm: AtBatchNorm = "replace"
) -> tuple[nn.Module, list[str]]:
    """A copy with normalisers in it, and the paths of the layers all of whose units these read.

    What `make` returns follows every linear or convolution layer that a hidden nonlinearity reads, as its submodule
    `norm`; a module that multiplies its input with a matrix of its own is a layer, too. Where the layer's output is
    multiplied with a number before the nonlinearity reads it, the normalised values are divided by that number, so that
    the nonlinearity reads normalised ones; where it reads some of the layer's units, these are normalised. A hidden
    batch norm that reads a layer, or that a nonlinearity reads, is replaced by the normaliser, or has it before or
    after itself as its submodule `norm`. Warns about what is left alone, by name.
    """
    module = prepared(method, module)
    kind = type(module).__name__
    seen = looked_at(module, example)
    fed = {source.path: source for source in seen.sources("layer") if among(source.path)}
    norms = [n for n in seen.beside() if among(n.path) or (n.layer is not None and among(n.layer))]
    for path in (*fed, *(norm.path for norm in norms)):
        layer = module.get_submodule(path)
        if hasattr(layer, "injection"):
            raise ValueError(f"{method} cannot follow PlasticityInjection at {path} of {kind}: build it before")
        if hasattr(layer, "norm"):
            raise ValueError(f"{method} would overwrite {path}.norm of {kind}: build one normaliser, once")
    odd = [norm.path for norm in norms if not _takes(norm, at_batch_norm)]
    left = [*seen.left_alone(among), *([f"{', '.join(odd)}: more than a batch norm"] if odd else [])]
    for why, these in {
        "its units are not along the last axis": [p for p, s in fed.items() if not s.module and s.axis != -1],
        "read at several scales": [path for path in fed if len(seen.factors(path)) > 1],
    }.items():
        left += [f"{', '.join(these)}: {why}"] if these else []
        fed = {path: source for path, source in fed.items() if path not in these}
    norms = [norm for norm in norms if norm.path not in odd]
    if not (fed or norms):
        why = f" (left alone {'; '.join(left)})" if left else ""
        raise ValueError(f"{method} found no linear or convolution layer of {kind} that feeds a nonlinearity{why}")
    for path, source in fed.items():
        layer, (factor,) = module.get_submodule(path), seen.factors(path)
        start, units = source.part or (0, source.units)
        layer.register_module("norm", _like(layer, make(units, source.axis)))
        if source.part is not None:
            layer.register_forward_hook(_NormalisePart(start, units))
        else:
            layer.register_forward_hook(_normalise if factor == 1 else _NormaliseScaled(factor))
    for norm in norms:
        old = module.get_submodule(norm.path)
        new = _like(old, make(norm.units, norm.axis))
        if at_batch_norm == "replace":
            exchange(module, old, _heir(old, new))
            continue
        old.register_module("norm", new)
        if at_batch_norm == "before":
            old.register_forward_pre_hook(_normalise_input)
        else:
            old.register_forward_hook(_normalise)
    if norms and at_batch_norm == "replace":
        _check(method, module, example, [norm.path for norm in norms])
    if left:
        warnings.warn(f"{method} left alone {'; '.join(left)}", stacklevel=4)
    whole = [path for path, source in fed.items() if source.part is None]
    return module, [*whole, *(norm.layer for norm in norms if norm.layer is not None)]


def refuse_single_samples(x: Tensor, units: int) -> None:
    """Statistics over samples need two of them.

    >>> refuse_single_samples(torch.ones(2, 3), units=3)
    """
    if x.numel() < 2 * units:
        raise ValueError(
            f"expected more than one sample a unit for the statistics of the batch, got {tuple(x.shape)}: take larger "
            "batches, or LayerNorm where only some samples come by"
        )


def _takes(norm: Norm, at_batch_norm: AtBatchNorm) -> bool:
    """Whether a normaliser can come at a batch norm."""
    return at_batch_norm == "before" or norm.children == () or (at_batch_norm == "replace" and bool(norm.children))


def _like(old: nn.Module, new: nn.Module) -> nn.Module:
    """On the device, in the dtype and in the mode of the module that it comes beside."""
    tensors = [t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()]
    return (new.to(tensors[0].device, tensors[0].dtype) if tensors else new).train(old.training)


def _heir(old: nn.Module, new: nn.Module) -> nn.Module:
    """A normaliser with the scales, offsets and submodules of the batch norm that it replaces."""
    with torch.no_grad():
        for name, p in new.named_parameters():
            if (before := getattr(old, name)) is not None:
                p.copy_(before)
                p.requires_grad_(before.requires_grad)
    children = dict(old.named_children())
    for name, child in children.items():
        new.register_module(name, child)
    if children:
        new.register_forward_hook(_through_children)
    return new


def _normalise(layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return layer.norm(output)  # type: ignore[operator]


@dataclass(frozen=True)
class _NormaliseScaled:
    """The normalised output divided by a number that it is multiplied with before it is read."""

    factor: float

    def __call__(self, layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return layer.norm(output) / self.factor  # type: ignore[operator]


@dataclass(frozen=True)
class _NormalisePart:
    """The output with some of its units normalised."""

    start: int
    units: int

    def __call__(self, layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        rest = output.shape[-1] - self.start - self.units
        before, part, after = output.split([self.start, self.units, rest], -1)
        return torch.cat([before, layer.norm(part), after], -1)  # type: ignore[operator]


def _normalise_input(layer: nn.Module, args: tuple) -> tuple:
    return layer.norm(args[0]), *args[1:]  # type: ignore[operator]


def _through_children(layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
    for child in layer.children():
        output = child(output)
    return output


def _check(method: str, built: nn.Module, example: Any, replaced: list[str]) -> None:
    """Runs a copy of what was built: it must call every normaliser that is there instead of another."""
    kind = type(built).__name__
    built = adapted(built)
    called: set[str] = set()
    for path in replaced:
        built.get_submodule(path).register_forward_hook(lambda layer, args, y, path=path: called.add(path))
    args, kwargs = arguments(example)
    try:
        with torch.no_grad(), seeded(0):
            built(*args, **kwargs)
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"{method} cannot be built into {kind} in place of its batch norms: {reason}") from error
    if missed := [path for path in replaced if path not in called]:
        raise ValueError(
            f"{method} cannot replace {', '.join(missed)} of {kind}: its forward pass holds them elsewhere"
        )

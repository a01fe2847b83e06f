"""Normalisers built into any module: after the layers that nonlinearities read, and at the batch norms that it has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pliant.adapter import adapted
from pliant.interventions._building import TRANSPOSED, Among, exchange, prepared
from pliant.maps import RESHAPED, SHIFTING, functions
from pliant.modules import NORMALISERS, seeded
from pliant.sites import LAYERS, Watch, arguments, elementwise_modules

Axes = Literal["channels_and_space", "channels"]
AXES = ("channels_and_space", "channels")
AtBatchNorm = Literal["replace", "before", "after"]
AT_BATCH_NORM = ("replace", "before", "after")
FEEDING = (*LAYERS, *TRANSPOSED)
DIVISIONS = functions("div", "div_", "true_divide", "__truediv__", "__itruediv__")
SCALING = DIVISIONS | functions("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")

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
    seen = _looked_at(module, example)
    fed = {source.path: source for source in seen.sources("layer") if among(source.path)}
    norms = [n for n in seen.beside() if among(n.path) or (n.layer is not None and among(n.layer))]
    for path in (*fed, *(norm.path for norm in norms)):
        layer = module.get_submodule(path)
        if hasattr(layer, "injection"):
            raise ValueError(f"{method} cannot follow PlasticityInjection at {path} of {kind}: build it before")
        if hasattr(layer, "norm"):
            raise ValueError(f"{method} would overwrite {path}.norm of {kind}: build one normaliser, once")
    odd = [norm.path for norm in norms if not norm.takes(at_batch_norm)]
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


def unit_axis(layer: nn.Module) -> int:
    """Where the units of a linear or convolution layer's output are, from the end.

    >>> unit_axis(nn.Linear(2, 3)), unit_axis(nn.Conv2d(2, 3, 1))
    (-1, -3)
    """
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]


def units_of(layer: nn.Module) -> int:
    """How many units a linear or convolution layer has.

    >>> units_of(nn.Linear(2, 3)), units_of(nn.ConvTranspose1d(2, 3, 1))
    (3, 3)
    """
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels  # type: ignore[return-value]


def refuse_single_samples(x: Tensor, units: int) -> None:
    """Statistics over samples need two of them.

    >>> refuse_single_samples(torch.ones(2, 3), units=3)
    """
    if x.numel() < 2 * units:
        raise ValueError(
            f"expected more than one sample a unit for the statistics of the batch, got {tuple(x.shape)}: take larger "
            "batches, or LayerNorm where only some samples come by"
        )


class _Norm(NamedTuple):
    """A batch norm that was called, on how many units along which axis (from the end), and the layer that it reads.

    `children` are its submodules where these, one after the other, make its output of the normalised values; None where
    it does something else.
    """

    path: str
    units: int
    axis: int
    layer: str | None
    children: tuple[str, ...] | None

    def takes(self, at_batch_norm: AtBatchNorm) -> bool:
        """Whether a normaliser can come there."""
        return at_batch_norm == "before" or self.children == () or (at_batch_norm == "replace" and bool(self.children))


class _Source(NamedTuple):
    """What a tensor comes from: a layer, a batch norm, another normaliser, or a linear map that a module makes itself.

    Attributes:
        kind: of the module.
        path: of the module that returned it; of a linear map, of the module that makes it.
        units: how many a layer has, along `axis` (from the end).
        module: whether it is a linear or convolution module of torch.
        factor: a number that it was multiplied with since.
        part: the first unit and how many, where some of the layer's units are read alone (a gate that was split off).
    """

    kind: Literal["layer", "batch norm", "normaliser", "map"]
    path: str
    units: int = 0
    axis: int = -1
    module: bool = False
    factor: float = 1.0
    part: tuple[int, int] | None = None


class _Site(NamedTuple):
    """A nonlinearity call: its name, the path of the module, what it reads, whether parameters move what it reads."""

    name: str
    path: str
    source: _Source | None
    moved: bool


class _Looking(Watch):
    """Notes which module's output each nonlinearity and each batch norm reads, if it is one of those that matter."""

    def __init__(self, composites: set[nn.Module]):
        super().__init__(composites)
        self.made: list[tuple[Tensor, int, _Source]] = []
        self.sites: list[_Site] = []
        self.norms: list[_Norm] = []  # a call each
        self.hidden_norms = 0  # as `hidden`, of these
        self.composed: dict[int, tuple[Tensor, Tensor | None]] = {}  # what was normalised, what the module returned

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        path, module = self.stack[-1] if self.stack else ("", None)
        if not (func is F.batch_norm and isinstance(module, _BatchNorm) and args):
            affine = self._affine(func, args, kwargs or {})
            found = super().__torch_function__(func, types, args, kwargs)
            if self.map is not None:
                self.hidden_norms = len(self.norms)
            if self.map is not None and found.ndim >= max(2, -self.map.dim):
                axis = self.map.dim if self.map.dim < 0 else 1 - found.ndim
                self._note(found, _Source("map", path, found.shape[axis], axis))
            elif affine is not None and isinstance(found, Tensor):
                self._note(found, affine)
            return found
        source = self._source(args[0])
        y = func(*args, **(kwargs or {}))
        layer = source.path if source is not None and source.kind == "layer" and source.factor == 1 else None
        plain = type(module).forward is _BatchNorm.forward
        if not plain:
            self.composed[len(self.norms)] = y.clone(), None
        self.norms.append(_Norm(path, y.shape[1], 1 - y.ndim, layer, () if plain else None))
        self._note(y, _Source("batch norm", path))
        return y

    def _affine(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> _Source | None:
        """Where the result of a call comes from, if that is a multiple of what something came from, or it shifted.

        Parameters may scale and shift within the module that makes a linear map; after that, numbers alone.
        """
        if not (func in SCALING or func in SHIFTING or func in RESHAPED) or kwargs.keys() & {"alpha", "rounding_mode"}:
            return None
        operands = args[:2] if func not in RESHAPED else args[:1]
        moving = [t for t in operands if isinstance(t, Tensor) and t not in self.weights]
        source = self._source(moving[0]) if len(moving) == 1 else None
        if source is None or source.kind not in ("map", "layer"):
            return None
        own = source.kind == "map" and self.stack[-1:] and self.stack[-1][0] == source.path
        others = [t for t in operands if t is not moving[0]]
        if own or func in RESHAPED:
            return source
        if not all(isinstance(t, (int, float)) or t.numel() == 1 for t in others):
            return None
        if func in SHIFTING:
            return source
        number = float(others[0])
        divided = func in DIVISIONS
        if number == 0 or (divided and moving[0] is not args[0]):
            return None
        return source._replace(factor=source.factor / number if divided else source.factor * number)

    def keep(self, x: Tensor) -> Tensor:
        self.source = self._source(x) or self._part(x)
        return x

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.sites.append(_Site(name, self.stack[-1][0], self.source, x.requires_grad))
        return post

    def done(self, path: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        source = self._source(output)
        if isinstance(module, FEEDING):
            self._note(output, _Source("layer", path, units_of(module), unit_axis(module), module=True))
        elif source is not None and source.kind == "map" and source.path == path:
            self._note(output, source._replace(kind="layer", factor=1.0))
        elif isinstance(module, _BatchNorm):
            last = len(self.norms) - 1
            if last in self.composed and self.norms[last].path == path:
                self.composed[last] = self.composed[last][0], output.clone()
        elif isinstance(module, NORMALISERS):
            self._note(output, _Source("normaliser", path))

    def _note(self, output: Tensor, source: _Source) -> None:
        self.made.append((output, output._version, source))

    def _source(self, x: Tensor) -> _Source | None:
        """What returned this tensor, or the one that it is a view of all of, if nothing wrote into it since."""
        for t, version, source in reversed(self.made):
            if _memory(t) is _memory(x) and t.numel() == x.numel() and t._version == version:
                told = source.module or source.kind in ("batch norm", "normaliser") or source.axis != -1
                lies = told or (x.shape[-1] == source.units and x.stride(-1) == 1)  # no view has its axis elsewhere
                return source if lies else None
        return None

    def _part(self, x: Tensor) -> _Source | None:
        """The layer of which this is a view of some units, at all samples."""
        for t, version, source in reversed(self.made):
            if _memory(t) is _memory(x) and t._version == version and source.kind == "layer" and source.axis == -1:
                units = source.units
                along = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride == 1 and size > 1]
                whole = t.is_contiguous() and all(stride % units == 0 for stride in x.stride() if stride != 1)
                if whole and len(along) == 1 and x.numel() * units == t.numel() * along[0]:
                    return source._replace(part=((x.storage_offset() - t.storage_offset()) % units, along[0]))
        return None

    def hidden_sites(self) -> list[_Site]:
        """The nonlinearities of hidden layers: cosines of positions, which no parameter moves, are none."""
        hidden = self.sites[: self.hidden]
        hidden = [site for site in hidden if site.moved] or hidden  # none in a forward pass without gradients
        parts: dict[str, set[Any]] = {}
        for site in hidden:
            if site.source is not None and site.source.kind == "layer":
                parts.setdefault(site.source.path, set()).add(site.source.part)
        several = {path for path, read in parts.items() if len(read) > 1}  # as of the gates of an LSTM
        return [s._replace(source=None) if s.source is not None and s.source.path in several else s for s in hidden]

    def sources(self, kind: str) -> list[_Source]:
        """The modules of a kind that a hidden nonlinearity reads, once each."""
        read = [site.source for site in self.hidden_sites()]
        return list({s.path: s for s in reversed(read) if s is not None and s.kind == kind}.values())[::-1]

    def factors(self, path: str) -> set[float]:
        """What a layer's output is multiplied with before hidden nonlinearities read it."""
        read = [site.source for site in self.hidden_sites()]
        return {s.factor for s in read if s is not None and s.kind == "layer" and s.path == path}

    def beside(self) -> list[_Norm]:
        """The hidden batch norms that read a layer, or that a nonlinearity reads."""
        read = [source.path for source in self.sources("batch norm")]
        hidden = [norm for norm in self.norms[: self.hidden_norms] if norm.layer is not None or norm.path in read]
        return list({norm.path: norm for norm in reversed(hidden)}.values())[::-1]

    def left_alone(self, among: Among) -> list[str]:
        """What no normaliser comes before, with the reason."""
        hidden = [site for site in self.hidden_sites() if among(site.path)]
        said = []
        if unfed := [site.name for site in hidden if site.source is None or site.source.kind == "map"]:
            said.append(f"{_counted(unfed)}: no layer feeds them directly")
        for norm in (source.path for source in self.sources("normaliser")):
            sites = _counted([site.name for site in hidden if site.source is not None and site.source.path == norm])
            said += [f"{sites}: normalised by {norm}"] if sites else []
        beside = {norm.path for norm in self.beside()}
        others = dict.fromkeys(
            n.path for n in self.norms[: self.hidden_norms] if n.path not in beside and among(n.path)
        )
        return (
            [*said, f"{', '.join(others)}: a batch norm beside neither a layer nor a nonlinearity"] if others else said
        )


def _memory(t: Tensor) -> Tensor:
    return t if t._base is None else t._base


def _counted(names: list[str]) -> str:
    """Sites by name; several calls of one, as of the steps of a recurrence, by their number."""
    calls: dict[str, list[str]] = {}
    for name in names:
        calls.setdefault(name.partition("#")[0], []).append(name)
    return ", ".join(each[0] if len(each) == 1 else f"{name} ({len(each)} calls)" for name, each in calls.items())


def _looked_at(module: nn.Module, example: Any) -> _Looking:
    module = adapted(module)
    looking = _Looking(elementwise_modules(module))
    args, kwargs = arguments(example)
    for p in module.parameters():
        p.requires_grad_(p.is_floating_point())
    with seeded(0), torch.enable_grad(), looking.over(module):
        module(*args, **kwargs)
    with torch.no_grad():
        for i, (y, output) in looking.composed.items():
            children = dict(module.get_submodule(looking.norms[i].path).named_children())
            for child in children.values():
                y = child(y)
            if output is not None and torch.equal(y, output):
                looking.norms[i] = looking.norms[i]._replace(children=tuple(children))
    return looking


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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{method} cannot be built into {kind} in place of its batch norms: {reason}") from error
    if missed := [path for path in replaced if path not in called]:
        raise ValueError(
            f"{method} cannot replace {', '.join(missed)} of {kind}: its forward pass holds them elsewhere"
        )

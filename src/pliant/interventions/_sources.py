"""What each hidden nonlinearity of a network reads: a layer, a batch norm, another normaliser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pliant.adapter import adapted
from pliant.interventions._building import TRANSPOSED, Among
from pliant.maps import RESHAPED, SHIFTING, functions
from pliant.modules import NORMALISERS, seeded
from pliant.nonlinear import elementwise_modules
from pliant.sites import LAYERS, Watch, arguments

FEEDING = (*LAYERS, *TRANSPOSED)
DIVISIONS = functions("div", "div_", "true_divide", "__truediv__", "__itruediv__")
SCALING = DIVISIONS | functions("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")


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


class Norm(NamedTuple):
    """A batch norm that was called, on how many units along which axis (from the end), and the layer that it reads.

    `children` are its submodules where these, one after the other, make its output of the normalised values; None where
    it does something else.
    """

    path: str
    units: int
    axis: int
    layer: str | None
    children: tuple[str, ...] | None


class Source(NamedTuple):
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


class Reading(NamedTuple):
    """A nonlinearity call: its name, the path of the module, what it reads, whether parameters move what it reads."""

    name: str
    path: str
    source: Source | None
    moved: bool


class Looking(Watch):
    """Notes which module's output each nonlinearity and each batch norm reads, if it is one of those that matter."""

    def __init__(self, composites: set[nn.Module]):
        super().__init__(composites)
        self.made: list[tuple[Tensor, int, Source]] = []
        self.sites: list[Reading] = []
        self.norms: list[Norm] = []  # a call each
        self.hidden_norms = 0  # as `hidden`, of these
        self.composed: dict[int, tuple[Tensor, Tensor | None]] = {}  # what was normalised, what the module returned

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        path, module = self.stack[-1] if self.stack else ("", None)
        if not (func is F.batch_norm and isinstance(module, _BatchNorm) and args):
            affine = self._affine(func, args, kwargs)
            found = super().called(func, args, kwargs)
            if self.map is not None:
                self.hidden_norms = len(self.norms)
            if self.map is not None and found.ndim >= max(2, -self.map.dim):
                axis = self.map.dim if self.map.dim < 0 else 1 - found.ndim
                self._note(found, Source("map", path, found.shape[axis], axis))
            elif affine is not None and isinstance(found, Tensor):
                self._note(found, affine)
            return found
        source = self._source(args[0])
        y = func(*args, **kwargs)
        layer = source.path if source is not None and source.kind == "layer" and source.factor == 1 else None
        plain = type(module).forward is _BatchNorm.forward
        if not plain:
            self.composed[len(self.norms)] = y.clone(), None
        self.norms.append(Norm(path, y.shape[1], 1 - y.ndim, layer, () if plain else None))
        self._note(y, Source("batch norm", path))
        return y

    def _affine(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Source | None:
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
        self.sites.append(Reading(name, self.stack[-1][0], self.source, x.requires_grad))
        return post

    def done(self, path: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        source = self._source(output)
        if isinstance(module, FEEDING):
            self._note(output, Source("layer", path, units_of(module), unit_axis(module), module=True))
        elif source is not None and source.kind == "map" and source.path == path:
            self._note(output, source._replace(kind="layer", factor=1.0))
        elif isinstance(module, _BatchNorm):
            last = len(self.norms) - 1
            if last in self.composed and self.norms[last].path == path:
                self.composed[last] = self.composed[last][0], output.clone()
        elif isinstance(module, NORMALISERS):
            self._note(output, Source("normaliser", path))

    def _note(self, output: Tensor, source: Source) -> None:
        self.made.append((output, output._version, source))

    def _source(self, x: Tensor) -> Source | None:
        """What returned this tensor, or the one that it is a view of all of, if nothing wrote into it since."""
        for t, version, source in reversed(self.made):
            if _memory(t) is _memory(x) and t.numel() == x.numel() and t._version == version:
                told = source.module or source.kind in ("batch norm", "normaliser") or source.axis != -1
                lies = told or (x.shape[-1] == source.units and x.stride(-1) == 1)  # no view has its axis elsewhere
                return source if lies else None
        return None

    def _part(self, x: Tensor) -> Source | None:
        """The layer of which this is a view of some units, at all samples."""
        for t, version, source in reversed(self.made):
            if _memory(t) is _memory(x) and t._version == version and source.kind == "layer" and source.axis == -1:
                units = source.units
                along = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride == 1 and size > 1]
                whole = t.is_contiguous() and all(stride % units == 0 for stride in x.stride() if stride != 1)
                if whole and len(along) == 1 and x.numel() * units == t.numel() * along[0]:
                    return source._replace(part=((x.storage_offset() - t.storage_offset()) % units, along[0]))
        return None

    def hidden_sites(self) -> list[Reading]:
        """The nonlinearities of hidden layers: cosines of positions, which no parameter moves, are none."""
        hidden = self.sites[: self.hidden]
        hidden = [site for site in hidden if site.moved] or hidden  # none in a forward pass without gradients
        parts: dict[str, set[Any]] = {}
        for site in hidden:
            if site.source is not None and site.source.kind == "layer":
                parts.setdefault(site.source.path, set()).add(site.source.part)
        several = {path for path, read in parts.items() if len(read) > 1}  # as of the gates of an LSTM
        return [s._replace(source=None) if s.source is not None and s.source.path in several else s for s in hidden]

    def sources(self, kind: str) -> list[Source]:
        """The modules of a kind that a hidden nonlinearity reads, once each."""
        read = [site.source for site in self.hidden_sites()]
        return list({s.path: s for s in reversed(read) if s is not None and s.kind == kind}.values())[::-1]

    def factors(self, path: str) -> set[float]:
        """What a layer's output is multiplied with before hidden nonlinearities read it."""
        read = [site.source for site in self.hidden_sites()]
        return {s.factor for s in read if s is not None and s.kind == "layer" and s.path == path}

    def beside(self) -> list[Norm]:
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


def looked_at(module: nn.Module, example: Any) -> Looking:
    module = adapted(module)
    looking = Looking(elementwise_modules(module))
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

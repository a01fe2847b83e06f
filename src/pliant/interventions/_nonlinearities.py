"""Something else in place of the hidden nonlinearities of a module, however it calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pliant.adapter import Called, adapted
from pliant.inplace import FLAGGED
from pliant.interventions._building import Among, exchange, prepared
from pliant.modules import seeded
from pliant.nonlinear import NONLINEARITIES, elementwise_modules, is_nonlinearity
from pliant.sites import Recorder, arguments, uncompiled_parts

IN_PLACE = frozenset(f for f in NONLINEARITIES if f.__name__.endswith("_"))  # a set that the compiler takes
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "cos": torch.cos,
}


class Replacement(nn.Module):
    """A function of each number alone, f(x) or f(-x).

    It calls by keyword, which hardly anyone does, so that `_Swap`s around it let the call of a builtin pass; another's
    they would replace by the same.

    >>> Replacement("relu", flip=True)(torch.tensor([-2.0, 3.0]))
    tensor([2., 0.])
    """

    def __init__(self, function: str, flip: bool = False):
        super().__init__()
        self.function, self.flip, self.inplace = function, flip, False

    def extra_repr(self) -> str:
        return f"{self.function}{' of the negative' if self.flip else ''}"

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:  # as what it stands for: the result may be read where the input was
            return x.copy_(self._value(x.clone()))
        return self._value(x)

    def _value(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.function](input=-x if self.flip else x)


class Call(NamedTuple):
    """A nonlinearity call: its site, the path of the module it runs in, by which function (None: it is that module)."""

    site: str
    path: str
    function: str | None
    source: str | None  # the path of the layer whose output it reads
    ndim: int
    moved: bool  # whether parameters move what it reads

    def within(self, among: Among) -> bool:
        """Whether its module or the layer that feeds it may be changed."""
        return among(self.path) or (self.source is not None and among(self.source))


class _Finder(Recorder):
    def __init__(self, composites: set[nn.Module]):
        super().__init__(composites)
        self.calls: list[Call] = []
        self.others: list[Call] = []  # of functions that act on what is no layer's: positions, weights
        self.function = ""

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        self.function, seen = _name(func), len(self.calls)
        found = super().called(func, args, kwargs)
        if self.inside is None and len(self.calls) == seen and is_nonlinearity(func, args, kwargs):
            path, _ = self.stack[-1]
            self.others.append(
                Call(f"{path}.{self.function}".lstrip("."), path, self.function, None, found.ndim, False)
            )
        return found

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        path, module = self.stack[-1]
        by = None if module in self.composites else self.function
        self.calls.append(Call(name, path, by, self.source, before.ndim, x.requires_grad))
        return super().saw(name, x, before, post, function)


def nonlinearity_calls(module: nn.Module, example: Any) -> tuple[list[Call], list[Call]]:
    """The hidden calls of a forward pass, and the others.

    The others are those after the last linear or convolution call, of the output, and those of what no parameter moves,
    such as the cosines of positions.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Tanh())
    >>> [[call.site for call in calls] for calls in nonlinearity_calls(net, torch.ones(1, 2))]
    [['1'], ['3']]
    """
    module = adapted(module)
    finder = _Finder(elementwise_modules(module))
    args, kwargs = arguments(example)
    for p in module.parameters():
        p.requires_grad_(p.is_floating_point())
    with torch.enable_grad(), seeded(0), uncompiled_parts(), finder.over(module):
        module(*args, **kwargs)
    hidden = finder.calls[: finder.hidden]
    hidden = [call for call in hidden if call.moved] or hidden  # none in a forward pass without gradients
    return hidden, [call for call in finder.calls if call not in hidden] + finder.others


def replaced(
    method: str,
    module: nn.Module,
    example: Any,
    wanted: Callable[[Call], bool],
    make: Callable[[list[Call]], nn.Module],
) -> tuple[nn.Module, list[Call]]:
    """A copy in which what `make` returns for the calls at one place stands there, and all those calls.

    A module that is a nonlinearity is exchanged. A module that calls functions gets the new one as a submodule (without
    parameters, so no state-dict key changes), and its forward pass runs inside a mode that redirects the calls.
    """
    built = prepared(method, module)
    kind = type(built).__name__
    if any(isinstance(m, Replacement) for m in built.modules()):
        raise ValueError(f"{method} comes where nonlinearities of {kind} were replaced already: build one such, once")
    hidden, outputs = nonlinearity_calls(built, example)
    chosen = [call for call in hidden if wanted(call)]
    if not chosen:
        raise ValueError(f"{method} found no hidden nonlinearity to replace in {kind}")
    for call in chosen:
        if call.function not in {None, *map(_name, NONLINEARITIES)}:
            raise ValueError(
                f"{method} cannot replace {call.site!r} of {kind}, which is written as {call.function}: write "
                "torch.relu(x), or an nn.Module of its own"
            )
    places: dict[tuple[str, str | None], list[Call]] = {}
    for call in chosen:
        places.setdefault((call.path, call.function), []).append(call)
    for call in [*outputs, *(call for call in hidden if call not in chosen)]:
        if (call.path, call.function) in places:
            other = places[call.path, call.function][0].site
            raise ValueError(
                f"{method} cannot replace {other!r} of {kind} and leave {call.site!r} alone, which is the same call: "
                "write an nn.Module of its own for each"
            )
    for path in dict.fromkeys(call.path for call in chosen):
        layer, calls = built.get_submodule(path), [call for call in chosen if call.path == path]
        new = make(calls)
        if calls[0].function is None:
            if isinstance(new, Replacement):
                new.inplace = bool(getattr(layer, "inplace", False))
            exchange(built, layer, new)
        else:
            if isinstance(vars(layer).get("forward"), Called):
                raise ValueError(
                    f"{method} cannot reach {calls[0].site!r}, called in another method than forward of {kind}: write "
                    "an nn.Module for it, such as self.act = nn.ReLU()"
                )
            name = new.function if isinstance(new, Replacement) else method.lower()
            while hasattr(layer, name):
                name += "_"
            layer.register_module(name, new)
            layer.forward = Redirected(layer, name, {str(call.function) for call in calls})
    return built, chosen


def check_replaced(method: str, built: nn.Module, example: Any, number: int) -> None:
    """Runs what was built: so many of its nonlinearity calls must be replacements."""
    calls, _ = nonlinearity_calls(built, example)
    found = sum(isinstance(built.get_submodule(call.path), Replacement) for call in calls)
    if found != number:
        raise ValueError(
            f"{method} reached {found} of {number} nonlinearity calls of {type(built).__name__}: call functions by "
            "position, as in F.relu(x), in a module's own forward"
        )


class Redirected:
    """The forward pass of a module, in which calls of some functions are redirected to one of its submodules."""

    def __init__(self, module: nn.Module, name: str, functions: set[str]):
        self.module, self.forward, self.name = module, module.forward, name
        self.functions = frozenset(f for f in NONLINEARITIES if _name(f) in functions)
        self.flags = [(f, at) for f, at in FLAGGED.items() if f in self.functions]  # the compiler takes no such dict

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Swap(getattr(self.module, self.name), self.functions, self.flags):
            return self.forward(*args, **kwargs)


class _Swap(TorchFunctionMode):
    def __init__(self, replacement: nn.Module, functions: frozenset[Callable], flags: list[tuple[Callable, int]]):
        super().__init__()
        self.replacement, self.functions, self.flags = replacement, functions, flags

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.functions or not args or args[0].ndim < 2:
            return func(*args, **kwargs)
        flags = [args[at] if len(args) > at else kwargs.get("inplace") for f, at in self.flags if f is func]
        if func in IN_PLACE or any(flags):
            return args[0].copy_(self.replacement(args[0].clone()))
        return self.replacement(args[0])


def _name(func: Callable) -> str:
    return func.__name__.strip("_")

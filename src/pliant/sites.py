"""Seeing the nonlinearities of a forward pass: every call by name, in functional style and in modules alike."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.overrides import TorchFunctionMode

from pliant.adapter import uncheckpointed
from pliant.functional.precision import wide
from pliant.inplace import memory, overwrite, overwritten, spared
from pliant.levels import depth, unmapped
from pliant.maps import Layered, Map, Weights, linear_map
from pliant.nonlinear import everywhere, is_nonlinearity
from pliant.written import Masks

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
UNSEEN = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)


class Inputs(NamedTuple):
    """What a module is called with that takes several inputs, or named ones.

    >>> Inputs((torch.ones(1), torch.ones(2)), {"scale": 2.0}).kwargs
    {'scale': 2.0}
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a forward pass on `x`, which is one input or `Inputs`."""
    return (x.args, x.kwargs) if isinstance(x, Inputs) else ((x,), {})


def several_inputs(x: Any) -> str:
    """What to write in place of a tuple that a model cannot be called with.

    >>> several_inputs((torch.ones(1), torch.ones(2)))
    '; for a model of several inputs write pliant.Inputs((a, b), {})'
    """
    several = isinstance(x, (tuple, list)) and not isinstance(x, Inputs)
    return "; for a model of several inputs write pliant.Inputs((a, b), {})" if several else ""


class Site(NamedTuple):
    """One call of a nonlinearity, as three `(samples, units)` matrices.

    A sample is an example, or an example at one position: a convolution's units are its channels and its samples run
    over batch and space; a transformer's samples run over batch and tokens.

    `pre` is what enters the nonlinearity, `post` what leaves it, `slope` its derivative d post / d pre, elementwise.
    """

    pre: Tensor
    post: Tensor
    slope: Tensor


class Watch(TorchFunctionMode, ABC):
    """Sees nonlinearity calls and linear maps in order.

    With `replaces`, what `saw` returns takes the place of the result, and of the input of a call that is in place.
    Inside a handler the mode is off, so a call made of calls counts once. A site is named after the module it runs in:
    `"act"` for an `nn.ReLU` stored as `act`, `"block.relu"` for a call of `F.relu` in the forward of `block`; the
    second call under one name is `"act#2"`.

    Attributes:
        weights: the parameters of the forward pass.
        map: the latest call as a linear map (see `pliant.maps`), if it was one.
        features: the input of the last linear map so far.
        unit_dim: where the units of the last linear map are.
        hidden: how many sites came before that call.
    """

    replaces: ClassVar[bool] = False

    def __init__(self, composites: set[nn.Module]):
        super().__init__()
        self.composites = composites
        self.stack: list[tuple[str, nn.Module]] = []
        self.inside: tuple[nn.Module, int] | None = None  # the composite whose inner calls are being skipped
        self.pending: tuple[str, Tensor, Tensor, Tensor] | None = None  # its name, input, what was kept, what it got
        self.names: Counter[str] = Counter()
        self.masks = Masks()
        self.depth = depth()  # what is mapped inside the forward pass is seen as a whole
        self.weights, self.map = Weights({}), cast(Map | None, None)
        self.layered = Layered(self.weights)
        self.features: Tensor | None = None
        self.unit_dim = -1
        self.hidden = 0

    @abstractmethod
    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Told of each nonlinearity: its input as passed and as `keep` kept it, its output, itself as a function.

        Returns the output, unless it `replaces` that.
        """

    def keep(self, x: Tensor) -> Tensor:
        """What to keep of an input before the call, which may be in place."""
        return x

    def done(self, path: str, module: nn.Module, output: Any) -> None:
        """Told of each module that returns."""

    def spare(self, target: Tensor) -> None:
        """Told of a tensor that is about to be overwritten."""
        if self.features is not None:
            self.features = spared(self.features, target)

    def over(self, module: nn.Module, begun: bool = False) -> AbstractContextManager[Any]:
        """Watches the forward passes of a module; the hooks are gone afterwards, also after an exception.

        With `begun`, its forward pass is under way, so that only those of its submodules are still to come.
        """
        return _watching(module, self, begun)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self.map = linear_map(func, args, kwargs, self.weights)
        found = self.called(func, args, kwargs)
        if found is None or isinstance(found, (Tensor, tuple, list)):  # None: it writes into the first argument
            self.layered.note(args, kwargs, args[:1] if found is None else found, self.map is not None)
        return found

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What a call of a torch function returns."""
        target = overwritten(func, args, kwargs)
        if self.map is not None:
            if target is not None:
                self.spare(target)
            self.features, _ = unmapped(self.map.input, self.depth)
            self.unit_dim = self.map.dim
            self.hidden = self.names.total()
            return func(*args, **kwargs)
        x, function = self._nonlinearity(func, args, kwargs) if self.inside is None else (None, None)
        before = self.keep(x) if x is not None and _has_units(x, self.depth) else None
        if target is not None:
            self.spare(target)
        if x is None or function is None or before is None:
            found = func(*args, **kwargs)
            self.masks.note(func, args, found)
            self.weights.note(func, args, kwargs, found)
            return found
        apart = self.replaces and target is not None
        post = function(x) if apart else func(*args, **kwargs)
        path, module = self.stack[-1] if self.stack else ("", None)
        name = path if module in self.composites and path else f"{path}.{func.__name__.strip('_')}".lstrip(".")
        found = self.saw(self._numbered(name), x, before, post, function)
        return overwrite(x, found) if apart else found

    def _nonlinearity(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """What a call is a nonlinear function of, and that function; two of None for another call."""
        if is_nonlinearity(func, args, kwargs):
            x = args[0] if args else kwargs["input"]
            if x in self.weights or not (everywhere(func) or self._behind_a_layer(x)):
                return None, None
            rest = {k: v for k, v in kwargs.items() if k != "input"}
            return x, lambda t: func(t.clone(), *(_like(arg, t) for arg in args[1:]), **rest)
        x, function = self.masks.function(func, args) or (None, None)
        return (None, None) if x is None or x in self.weights else (x, function)

    def _behind_a_layer(self, x: Tensor) -> bool:
        """Whether a layer has a part in it; where that is not known, whether there was one before."""
        return self.features is not None and self.layered(x) is not False

    def begin(self, module: nn.Module) -> None:
        """Told of the whole network, with the parameters that it has in this forward pass."""
        self.weights = Weights(dict(module.named_parameters()))
        self.layered = Layered(self.weights)
        self.layered.given([*module.buffers()])

    def enter(self, path: str, module: nn.Module, args: tuple) -> tuple[Tensor] | None:
        self.stack.append((path, module))
        if not path:
            self.begin(module)
        if not (module in self.composites and self.inside is None and len(args) == 1):
            return None
        if not _has_units(args[0], self.depth) or args[0] in self.weights:
            return None
        self.inside = (module, len(self.stack))
        x = args[0].clone() if self.replaces else args[0]  # it may be overwritten
        self.pending = (path or type(module).__name__, args[0], self.keep(args[0]), x)
        return (x,)

    def leave(self, module: nn.Module, output: Any) -> Any:
        if self.inside == (module, len(self.stack)):
            if self.pending is not None and output is not None:  # None: it raised
                name, x, before, got = self.pending
                with torch._C.DisableTorchFunction():
                    found = self.saw(self._numbered(name), x, before, output, lambda t: module.forward(t.clone()))
                    output = overwrite(x, found) if output is got and self.replaces else found
                    self.layered.note((x,), {}, output, False)
            self.inside = self.pending = None
        path, _ = self.stack.pop()
        self.done(path, module, output)
        return output

    def _numbered(self, name: str) -> str:
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"


class Recorder(Watch):
    """Records every site with its slopes, detached, and which layer's output each reads.

    Units run along the channels after a convolution and along the last axis else, unless `axes` names another one.
    With `unit_size`, sites are recorded as if the inputs of each unit had been divided by their root mean square.
    """

    def __init__(
        self,
        composites: set[nn.Module],
        axes: Mapping[str, int] | None = None,
        mask: Tensor | None = None,
        unit_size: bool = False,
    ):
        super().__init__(composites)
        self.axes, self.mask, self.unit_size = axes or {}, mask, unit_size
        self.sites: dict[str, Site] = {}
        self.taken: dict[str, int] = {}  # the axis of the units of sites that are no matrices
        self.outputs: list[tuple[str, Tensor]] = []  # of every linear and convolution module, until overwritten
        self.fed: dict[str, str | None] = {}  # site -> the module whose output it reads

    def keep(self, x: Tensor) -> Tensor:
        self.source = next((path for path, output in reversed(self.outputs) if output is x), None)
        return x.detach().clone()

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        size = unmapped(before, self.depth)[0].ndim
        dim = self.axes.get(name, self.unit_dim % before.ndim - before.ndim if size > 2 else -1)
        if size > 2:
            self.taken[name] = dim % size
        before = wide(before)  # rounding of what leaves a nonlinearity is no part of it
        if self.unit_size:
            before = self._of_unit_size(before, dim % size - size)
        value, pullback = vjp(function, before)  # type: ignore[misc]
        (slope,) = pullback(torch.ones_like(before))
        pre, *rest = (unmapped(t.detach(), self.depth)[0] for t in (before, value, slope))
        self.sites[name] = Site(*(_by_units(t, dim, self.mask) for t in (pre, *rest)))
        self.fed[name] = self.source
        return post

    def _of_unit_size(self, x: Tensor, dim: int) -> Tensor:
        """Divided by the root mean square of each unit's numbers, padding left out; units run along `dim` < 0."""
        size = wide(_by_units(unmapped(x, self.depth)[0], dim, self.mask)).square().mean(0).sqrt().to(x.dtype)
        shape = [1] * x.ndim
        shape[dim] = -1
        return x / torch.where(size > 0, size, 1.0).reshape(shape)

    def done(self, path: str, module: nn.Module, output: Any) -> None:
        if isinstance(module, LAYERS) and isinstance(output, Tensor):
            self.outputs.append((path, output))

    def spare(self, target: Tensor) -> None:
        super().spare(target)
        self.outputs = [(path, output) for path, output in self.outputs if memory(output) is not memory(target)]


def rows(t: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `(samples, units)`, of a tensor with the units last; samples at which a mask of the first axes is False go.

    A tensor without these axes, such as the mean over tokens, keeps all samples.

    >>> rows(torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[True, False, True]]))
    tensor([[0., 1.],
            [4., 5.]])
    """
    if mask is not None and t.ndim > mask.ndim and t.shape[: mask.ndim] == mask.shape:
        t = t[mask]
    return t.flatten(0, -2) if t.ndim > 1 else t[None]


def _by_units(t: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """As `(samples, units)`; of channels, each one's numbers lie side by side, which reductions over samples like."""
    if dim % t.ndim == t.ndim - 1:
        return rows(t, mask)
    return t.movedim(dim, 0).flatten(1).T if mask is None else rows(t.movedim(dim, -1), mask)


class Activity(Watch):
    """Keeps what leaves every site, as it is: with its shape and its graph.

    `order` says of each call of a nonlinear function, one after the other, which site it is, so that `Calls` sees the
    same; None where it is none. There is no order where a site is more than a call.
    """

    def __init__(self, composites: set[nn.Module]):
        super().__init__(composites)
        self.posts: dict[str, Tensor] = {}
        self.calls: list[Any] = []
        self.left: list[Tensor] = []  # what left the sites, as `posts` where nothing was overwritten

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        found = super().called(func, args, kwargs)
        if is_nonlinearity(func, args, kwargs):
            self.calls.append(found)
        return found

    @property
    def order(self) -> list[str | None] | None:
        names = {id(left): name for name, left in zip(self.posts, self.left, strict=True)}
        found = [names.get(id(call)) for call in self.calls]
        return found if [name for name in found if name is not None] == list(self.posts) else None

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.posts[name], _ = unmapped(post, self.depth)
        self.left.append(post)
        return post

    def spare(self, target: Tensor) -> None:
        super().spare(target)
        self.posts = {name: spared(post, target) for name, post in self.posts.items()}


class Calls(TorchFunctionMode):
    """Keeps what every nonlinear function returns, in order, without names and hooks: cheap enough for every step."""

    def __init__(self, params: Mapping[str, Tensor]):
        super().__init__()
        self.weights = Weights(params)
        self.posts: list[Tensor] = []
        self.features: Tensor | None = None
        self.unit_dim, self.depth = -1, depth()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if (target := overwritten(func, args, kwargs or {})) is not None:
            self.posts = [spared(post, target) for post in self.posts]
            if self.features is not None:
                self.features = spared(self.features, target)
        found = func(*args, **(kwargs or {}))
        if (seen := linear_map(func, args, kwargs or {}, self.weights)) is not None:
            self.features, _ = unmapped(seen.input, self.depth)
            self.unit_dim = seen.dim
            return found
        self.weights.note(func, args, kwargs or {}, found)
        if is_nonlinearity(func, args, kwargs or {}):
            self.posts.append(unmapped(found, self.depth)[0])
        return found


@contextmanager
def _watching(root: nn.Module, watch: Watch, begun: bool) -> Iterator[Watch]:
    handles = []
    if begun:
        watch.begin(root)
    else:
        given = root.register_forward_pre_hook(
            lambda m, args, kwargs: watch.layered.given((args, kwargs)), with_kwargs=True
        )
        handles.append(given)
    for path, module in root.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or (begun and module is root):
            continue  # a script takes no hooks; its nonlinearities cannot be seen
        handles.append(module.register_forward_pre_hook(lambda m, args, path=path: watch.enter(path, m, args)))
        handles.append(module.register_forward_hook(lambda m, args, out: watch.leave(m, out), always_call=True))
    try:
        with uncompiled_parts(), nullcontext() if begun else uncheckpointed(), watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def uncompiled_parts() -> AbstractContextManager[Any]:
    """Runs compiled functions inside a module as they were written; nothing is compiled where no compiler is loaded."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _like(value: Any, t: Tensor) -> Any:
    """An argument beside `t`, such as the slopes of a PReLU, in its dtype; other values as they are."""
    return value.to(t.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _has_units(x: Any, depth: int) -> bool:
    """Whether this may be a batch of activations: not a lone vector (a learned deviation, say), nor whole numbers."""
    return isinstance(x, Tensor) and x.is_floating_point() and unmapped(x, depth)[0].ndim > 1

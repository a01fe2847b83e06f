"""What a model shows while its owner trains it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import How, aliases, bare, refuse_unknown
from pliant.modules import penultimate
from pliant.nonlinear import elementwise_modules
from pliant.sites import Activity, Calls, Inputs, arguments, uncompiled_parts

WATCHED = frozenset({"features", "activations"})  # what only a watched forward pass shows


class _Hook:
    """A hook of one model: copies and pickles of the model carry one that does nothing."""

    def __init__(self, call: Callable[..., None] | None = None):
        self.call = call

    def __call__(self, *args: Any) -> None:
        if self.call is not None and not torch.compiler.is_compiling():
            self.call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


class _Noted(dict[str, Any]):
    """What one pass showed, in which interval between steps it fell, and what became of its graph."""

    def __init__(self, shown: dict[str, Any], era: int):
        super().__init__(shown)
        self.era = era
        self.graph: weakref.ref[_Sentinel] | None = None  # lives as long as the graph of the output
        self.backward = False

    @property
    def idle(self) -> bool:
        """Whether no gradient went through it, and none can any more."""
        return self.graph is not None and self.graph() is None and not self.backward


class _Sentinel:
    """Dies with the graph that it is part of."""


class _Around:
    """The two hooks around the call of a model that was compiled in place."""

    def __init__(self, model: nn.Module, before: Callable[..., None], after: Callable[..., None]):
        self._model, self._inner = model, model._compiled_call_impl
        assert self._inner is not None
        inner = self._inner

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return inner(*args, **kwargs)
            output = None
            before(model, args, kwargs)
            try:
                output = inner(*args, **kwargs)
                return output
            finally:
                after(model, args, output)

        self._call = model._compiled_call_impl = call

    def remove(self) -> None:
        """The model is called as before, unless it was compiled anew."""
        if self._model._compiled_call_impl is self._call:
            self._model._compiled_call_impl = self._inner


class _Method:
    """The two hooks around a method of one model: copies and pickles of the model carry the method itself."""

    def __init__(self, model: nn.Module, name: str, before: Callable[..., None], after: Callable[..., None]):
        self._model, self._name, self._before, self._after = model, name, before, after
        self._own = vars(model).get(name)
        self._method = getattr(model, name)
        setattr(model, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = None
        self._before(self._model, args, kwargs)
        try:
            output = self._method(*args, **kwargs)
            return output
        finally:
            self._after(self._model, args, output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self._method,)

    def remove(self) -> None:
        """The model has its own method again."""
        if vars(self._model).get(self._name) is self:
            delattr(self._model, self._name)
            if self._own is not None:
                setattr(self._model, self._name, self._own)


def _same(method: Any) -> Any:
    return method


class _Function:
    """The two hooks around calls of a function of the model, which go through `call`."""

    def __init__(
        self, model: nn.Module, how: Callable[..., Any], before: Callable[..., None], after: Callable[..., None]
    ):
        self._model, self._how, self._before, self._after = model, how, before, after
        self._open = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._open:
            return self._how(self._model, *args, **kwargs)
        output = None
        self._before(self._model, args, kwargs)
        try:
            output = self._how(self._model, *args, **kwargs)
            return output
        finally:
            self._after(self._model, args, output)

    def remove(self) -> None:
        """From now on the function is called by itself."""
        self._open = False


class Forwards:
    """The training forward passes of a model, from two hooks: those in train mode with gradients on.

    Inputs are always noted; features and activations if asked for, as then the pass is watched: by `Calls`, which costs
    least, where names do not matter, else by `Activity`.
    Nothing can be watched inside a compiled model: the original then runs once more, beside it, and leaves no trace.
    A pass is let go when another one comes and no gradient can go through it any more (an agent that acts).

    Args:
        model: the model that is called, compiled or not.
        first: told of the inputs of the first forward pass, in whatever mode.
        before: told of the inputs of each training pass, before it.
        call: the method whose calls are the forward passes, where it is not the model itself that is called; of a
            function of the model and its inputs, the calls of `call` are.

    Attributes:
        call: calls the model, as its loop does.
        latest: what the latest pass showed, with its graph.
        passes: how many there were since the last `ask`.
    """

    def __init__(
        self,
        model: nn.Module,
        first: Callable[[Any], None],
        before: Callable[[Any], None],
        call: How | None = None,
    ):
        self.original = bare(model)
        self.model = model if call is None else self.original
        self._compiled = call is None and (model is not self.original or model._compiled_call_impl is not None)
        self.renew(first)
        self._told = before
        self._open: ExitStack | None = None
        self._pass: tuple[Any, Activity | Calls | None] | None = None
        self._era = 0
        self._beside = False
        self.ask(frozenset(), frozenset())
        self._handles: list[Any] = []
        self.call: Callable[..., Any] = model
        if call is not None:
            refuse_unknown(self.original, call)
        if isinstance(call, str):
            self._handles = [_Method(self.original, call, self._before, self._after)]
            self.call = lambda *args, **kwargs: getattr(self.original, call)(*args, **kwargs)
        elif call is not None:
            self.call = _Function(self.original, call, self._before, self._after)
            self._handles = [self.call]
        elif model._compiled_call_impl is None:
            self._handles = [
                model.register_forward_pre_hook(_Hook(self._before), with_kwargs=True),
                model.register_forward_hook(_Hook(self._after), prepend=True, always_call=True),  # last in, first out
            ]
        else:  # by model.compile(): hooks would be compiled, too
            self._handles = [_Around(model, self._before, self._after)]

    def renew(self, first: Callable[[Any], None]) -> None:
        """The model is another one by now: the next pass is the first."""
        self._first: Callable[[Any], None] | None = first
        self._composites = elementwise_modules(self.original)

    def ask(self, for_penalty: frozenset[str], for_step: frozenset[str] | None) -> None:
        """Forgets all passes; from here on, notes these fields of `Seen`, for the next step (if not None) detached."""
        self._for_penalty, self._for_step = for_penalty, for_step
        self._watched = WATCHED & (for_penalty | (for_step or frozenset()))
        self.latest: dict[str, Any] = {}
        self.passes = 0
        self._noted: list[_Noted] = []

    def stepped(self, again: bool) -> None:
        """An optimizer took a step; if it did so `again`, what belonged to the step before is let go."""
        if again:
            self._noted = [noted for noted in self._noted if noted.era == self._era]
        self._era += 1

    def joined(self, axes: Callable[[], dict[str, int]]) -> dict[str, Any]:
        """What all passes showed, as one batch; `axes` gives the axis along which the units of a site run."""
        passes = self._noted
        if len(passes) < 2:
            return passes[0] if passes else {}
        found: dict[str, Any] = {"x": _joined_inputs([noted["x"] for noted in passes])}
        if "features" in passes[0]:
            found["features"] = _joined([noted["features"] for noted in passes])
        if "activations" in passes[0]:
            parts: dict[str, list[Tensor]] = {}
            for noted in passes:
                for site, post in noted["activations"].items():
                    parts.setdefault(site, []).append(post)
            found["activations"] = {site: _joined(posts, site, axes) for site, posts in parts.items()}
        return found

    def close(self) -> None:
        """Removes the hooks, and lets go of all passes."""
        self._leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pass = None
        self.ask(frozenset(), None)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is not self.model or self._beside:
            return
        self._leave()  # only an interrupt (Ctrl-C in a forward pass) leaves one open
        x = args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs)
        if self._first is not None:
            first, self._first = self._first, None
            first(x)
        self._pass = None
        if not (torch.is_grad_enabled() and self.original.training):
            return
        self._told(x)
        if not self._watched:
            self._pass = x, None
            return
        all_of_it = "activations" in self._watched
        watch = Activity(self._composites) if all_of_it else Calls(dict(self.original.named_parameters()))
        if not self._compiled:
            self._open = ExitStack()
            self._open.enter_context(self._watching(watch, begun=True))
        else:
            self._run_beside(x, watch)
        self._pass = x, watch

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module is not self.model or self._beside:
            return
        self._leave()
        if self._pass is None or output is None:  # None: it raised
            return
        x, watch = self._pass
        self._pass = None
        shown = {"x": x, "output": output}
        if isinstance(watch, Activity):
            shown["activations"] = {site: self._exact(post) for site, post in watch.posts.items()}
        if watch is not None and "features" in self._watched:
            shown["features"] = self._exact(penultimate(watch.features, self.original, watch.unit_dim))
        self.passes += 1
        self.latest = {name: value for name, value in shown.items() if name in self._for_penalty | {"x"}}
        if self._for_step is not None:
            wanted = {name: value for name, value in shown.items() if name in self._for_step | {"x"}}
            noted = _Noted({name: _detached(value) for name, value in wanted.items()}, self._era)
            self._follow(noted, output)
            if self._noted and any(old.idle for old in self._noted):
                self._noted = [old for old in self._noted if not old.idle]
            self._noted.append(noted)

    def _follow(self, noted: _Noted, output: Any) -> None:
        """Notices whether a gradient goes through the output, and when its graph is gone."""
        leaves = [output] if isinstance(output, Tensor) else tree_leaves(output)
        if not all(isinstance(leaf, (Tensor, int, float, str, NoneType)) for leaf in leaves):
            return  # who knows what is inside
        nodes = [leaf.grad_fn for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
        if not nodes:
            return

        def backward(*_: Any) -> None:
            noted.backward = True

        sentinel = _Sentinel()
        noted.graph = weakref.ref(sentinel)
        for node in nodes:
            node.metadata[id(self)] = sentinel  # pyright: ignore[reportIndexIssue]
            node.register_prehook(backward)

    @contextmanager
    def _watching(self, watch: Activity | Calls, begun: bool) -> Iterator[None]:
        if isinstance(watch, Activity):
            with watch.over(self.original, begun):
                yield
        else:
            with uncompiled_parts(), watch:
                yield

    def _run_beside(self, x: Any, watch: Activity | Calls) -> None:
        devices = {p.device for p in self.original.parameters()}
        buffers = {name: b.clone() for name, b in self.original.named_buffers()}
        buffers |= {alias: buffers[name] for alias, name in aliases(self.original).items() if name in buffers}
        self._beside = True
        try:
            with (
                torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
                torch.set_grad_enabled(bool(WATCHED & self._for_penalty)),
                self._watching(watch, begun=False),
            ):
                functional_call(self.original, buffers, *arguments(x), tie_weights=False)
        finally:
            self._beside = False

    def _leave(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened.close()

    def _exact(self, t: Tensor) -> Tensor:
        """Autocast makes activations coarser than the parameters are."""
        like = next(self.original.parameters()).dtype
        return t.to(like) if t.dtype in (torch.float16, torch.bfloat16) else t


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, value)


def _joined(parts: list[Tensor], site: str = "", axes: Callable[[], dict[str, int]] = dict) -> Tensor:
    """Along the batch axis; where sequences or images differ in size, every position becomes an example of its own."""
    if all(part.shape[1:] == parts[0].shape[1:] for part in parts):
        return torch.cat(parts)
    axis = axes().get(site)
    if axis is None:
        return parts[-1]
    flat = [part.movedim(axis, -1).flatten(0, -2) for part in parts]
    return torch.cat(flat).unflatten(0, (-1, *[1] * (parts[0].ndim - 2))).movedim(-1, axis)


def _joined_inputs(inputs: list[Any]) -> Any:
    """Along the batch axis; what does not have one (as long as that of the first input) is the latest."""
    sizes = [next((len(t) for t in tree_leaves(x) if isinstance(t, Tensor) and t.ndim), None) for x in inputs]

    def join(*leaves: Any) -> Any:
        batched = all(
            isinstance(t, Tensor) and t.ndim and len(t) == size and t.shape[1:] == leaves[0].shape[1:]
            for t, size in zip(leaves, sizes, strict=True)
        )
        return torch.cat(leaves) if batched else leaves[-1]

    return tree_map(join, *inputs)

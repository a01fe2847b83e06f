"""What a model shows while its owner trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from pliant.modules import penultimate
from pliant.sites import Activity, Calls, Inputs, arguments, elementwise_modules, uncompiled, uncompiled_parts

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


class Forwards:
    """The training forward passes of a model, from two hooks: those in train mode with gradients on.

    Inputs are always noted; features and activations if asked for, as then the pass is watched: by `Calls`, which costs
    least, where names do not matter, else by `Activity`.
    Nothing can be watched inside a compiled model: the original then runs once more, beside it, and leaves no trace.

    Args:
        model: the model that is called, compiled or not.
        first: told of the inputs of the first forward pass, in whatever mode.

    Attributes:
        latest: what the latest pass showed, with its graph.
        passes: how many there were since the last `ask`.
    """

    def __init__(self, model: nn.Module, first: Callable[[Any], None]):
        self.model, self.original = model, uncompiled(model)
        self._composites = elementwise_modules(self.original)
        self._first: Callable[[Any], None] | None = first
        self._open: ExitStack | None = None
        self._pass: tuple[Any, Activity | Calls | None] | None = None
        self.ask(frozenset(), frozenset())
        self._handles = [
            model.register_forward_pre_hook(_Hook(self._before), with_kwargs=True),
            model.register_forward_hook(_Hook(self._after), prepend=True, always_call=True),  # last in, first out
        ]

    def ask(self, for_penalty: frozenset[str], for_step: frozenset[str] | None) -> None:
        """Forgets all passes; from here on, notes these fields of `Seen`, for the next step (if not None) detached."""
        self._for_penalty, self._for_step = for_penalty, for_step
        self._watched = WATCHED & (for_penalty | (for_step or frozenset()))
        self.latest: dict[str, Any] = {}
        self.passes = 0
        self._noted: list[dict[str, Any]] = []

    def joined(self, axes: Callable[[], dict[str, int]]) -> dict[str, Any]:
        """What all passes showed, as one batch; `axes` gives the axis along which the units of a site run."""
        if len(self._noted) < 2:
            return self._noted[0] if self._noted else {}
        found: dict[str, Any] = {"x": _joined_inputs([noted["x"] for noted in self._noted])}
        if "features" in self._noted[0]:
            found["features"] = _joined([noted["features"] for noted in self._noted])
        if "activations" in self._noted[0]:
            parts: dict[str, list[Tensor]] = {}
            for noted in self._noted:
                for site, post in noted["activations"].items():
                    parts.setdefault(site, []).append(post)
            found["activations"] = {site: _joined(posts, site, axes) for site, posts in parts.items()}
        return found

    def close(self) -> None:
        """Removes the hooks."""
        self._leave()
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is not self.model:
            return
        self._leave()  # only an interrupt (Ctrl-C in a forward pass) leaves one open
        x = args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs)
        if self._first is not None:
            self._first(x)
            self._first = None
        self._pass = None
        if not (torch.is_grad_enabled() and self.original.training):
            return
        if not self._watched:
            self._pass = x, None
            return
        watch = Activity(self._composites) if "activations" in self._watched else Calls()
        if self.model is self.original:
            self._open = ExitStack()
            self._open.enter_context(self._watching(watch, begun=True))
        else:
            self._run_beside(x, watch)
        self._pass = x, watch

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module is not self.model:
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
            shown["features"] = self._exact(penultimate(watch.features, self.original))
        self.passes += 1
        self.latest = {name: value for name, value in shown.items() if name in self._for_penalty | {"x"}}
        if self._for_step is not None:
            noted = {name: value for name, value in shown.items() if name in self._for_step | {"x"}}
            self._noted.append({name: _detached(value) for name, value in noted.items()})

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
        with (
            torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
            torch.set_grad_enabled(bool(WATCHED & self._for_penalty)),
            self._watching(watch, begun=False),
        ):
            functional_call(self.original, buffers, *arguments(x))

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

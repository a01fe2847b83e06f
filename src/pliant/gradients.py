"""The gradient of the training loss of all members of a population: alone, stacked, compiled, or in a loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from pliant.interventions.base import Seen
from pliant.interventions.chain import Chain
from pliant.members import Members
from pliant.modules import convolution_flops
from pliant.network import Forward, Network, Params
from pliant.optim.base import aligned
from pliant.stacking import at, detached, stack, with_numbers
from pliant.words import first_line

SEEN = frozenset({"features", "activations"})  # what only a watched forward pass shows
FLOPS_APART = 3e7  # of convolutions, in the forward pass of one member's batch
Loss = Callable[[Any, Any], Tensor]
Shown = dict[str, Any] | list[dict[str, Any]]


class Gradients:
    """How the members' gradients are computed, settled on the first batch.

    Called with trees with a member axis: parameters, states of the interventions, step counts, learning rates, inputs,
    targets, then the keys of dropout (or None) and whether to show the forward pass. Returns gradients, losses without
    penalties, and what was shown: a tree with the member axis, or one a member where they run apart. It holds what
    `beside` makes of outputs and targets, under that name.

    Attributes:
        members: how all that is not a gradient is computed, in the mode that was settled on.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        chain: Chain,
        numbers: list,
        size: int,
        compile: bool,
        beside: Loss | None = None,
    ):
        self.network, self.loss, self.chain, self.numbers, self.size = network, loss, chain, numbers, size
        self.beside = beside
        penalties = {place: i for place, i in enumerate(chain) if i.overrides("penalty")}
        self._closed = [place for place, i in penalties.items() if i.overrides("penalty_gradient")]
        self._derived = [place for place in penalties if place not in self._closed]
        self._penalties_see = any(i.needs & SEEN for i in penalties.values())
        if not penalties:
            self.numbers = []
        compile = compile and not self._penalties_see  # what watches the forward pass does not compile
        self.members = Members(size, "single" if size == 1 else "compiled" if compile else "vmap")
        self._chosen: Callable | None = None
        self._bound: tuple[list[Tensor], list[tuple[Forward, Params]]] | None = None

    def __call__(self, params: Params, states: list, *rest: Any) -> tuple[Params, Tensor, Shown]:
        args = self._arguments(params, states, *rest)
        if self._chosen is None:
            self._chosen, (grads, losses, watched) = self._decide(args)
        else:
            grads, losses, watched = self._chosen(*args)
        return self._with_penalties(grads, args), losses, watched

    def eagerly(self, params: Params, states: list, *rest: Any) -> Params:
        """The gradients alone, never compiled, for batches of any shape."""
        args = self._arguments(params, states, *rest)
        if self.members.apart:
            one = self._single if self.members.mode == "single" else self._looped
            grads = self.members.without_draws(one, args)[0]
        else:
            grads = self.members.or_loop(self._stacked, self._looped, args)[0]
        return self._with_penalties(grads, args)

    def watched(self, params: Params, x: Tensor, key: Tensor | None) -> dict[str, Any]:
        """What `Seen` holds of every member's forward pass, as a tree."""

        def one(params: Params, x: Tensor, key: Tensor | None) -> dict[str, Any]:
            seen = self.network.watch(params, x, key)
            return {"features": seen.features, "activations": seen.activations}

        with torch.no_grad():
            return self.members.map(one, params, x, key)

    def _arguments(self, params: Params, states: list, *rest: Any) -> tuple:
        """What the gradient is a function of: states only where there are penalties, as each tensor takes its time."""
        return params, states if self._closed or self._derived else [], self.numbers, *rest

    def _objective(
        self,
        forward: Forward,
        params: Params,
        states: list,
        numbers: list,
        step: Tensor,
        lr: Tensor,
        x: Tensor,
        y: Tensor,
        key: Tensor | None,
        see: bool,
    ) -> Any:
        """Loss with the penalties that autograd must derive, and the loss and what was seen, for one network."""
        watched: dict[str, Any] = {}
        if see or self._penalties_see:
            found = self.network.watch(params, x, key, forward)
            output, watched = found.output, {"features": found.features, "activations": found.activations}
        else:
            output = forward(params, x, key)
        loss = total = self.loss(output, y)

        def gradient() -> Params:
            return grad(lambda p: self.loss(self.network(p, x, key), y))(params)

        seen = Seen(step, lr, x, output, gradient=gradient, **watched)
        for place in self._derived:
            penalty = with_numbers(self.chain[place], numbers[place]).penalty(self.network, params, states[place], seen)
            total = total if penalty is None else total + penalty
        shown = watched if see else {}
        if self.beside is not None:
            shown = {**shown, "beside": self.beside(output, y)}
        return total, (loss, shown)

    @torch.no_grad()
    def _with_penalties(self, grads: Params, args: tuple) -> Params:
        """With the gradients of the penalties that need no autograd, added in place."""
        if not self._closed:
            return grads

        def one(params: Params, states: list, numbers: list, step: Tensor, lr: Tensor, x: Any, grads: Params) -> tuple:
            seen = Seen(step, lr, x)
            for place in self._closed:
                i = with_numbers(self.chain[place], numbers[place])
                for name, term in (i.penalty_gradient(self.network, params, states[place], seen) or {}).items():
                    term.add_to(grads[name])
            return ()

        params = args[0]
        grads = dict(zip(params, aligned(params, grads), strict=True))
        self.members.in_place(one, "penalties", *args[:6], grads)
        return grads

    def _one(self, forward: Forward, leaves: Params, *args: Any) -> Any:
        """Gradient and loss of one network by plain autograd."""
        with torch.enable_grad():
            total, (loss, watched) = self._objective(forward, leaves, *args)
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        grads = {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(leaves.items(), found, strict=True)}
        return grads, loss.detach(), detached(watched)

    def _single(self, params: Params, *args: Any) -> Any:
        """The gradient of the only member, as fast as plain PyTorch."""
        ((forward, leaves),) = self._bound_members(params)
        grads, loss, watched = self._one(forward, leaves, *(at(arg, 0) for arg in args))
        return {name: g[None] for name, g in grads.items()}, loss[None], [watched]

    def _looped(self, params: Params, *args: Any) -> Any:
        members = enumerate(self._bound_members(params))
        found = [self._one(forward, leaves, *(at(arg, m) for arg in args)) for m, (forward, leaves) in members]
        grads, losses, watched = zip(*found, strict=True)
        return stack(grads), torch.stack(losses), list(watched)

    def _unseeded(self, *args: Any) -> Any:
        """`_looped`; `ValueError` if a forward pass draws, at whatever step."""
        return self.members.without_draws(self._looped, args)

    def _bound_members(self, params: Params) -> list[tuple[Forward, Params]]:
        """Each member's network, which keeps views of the stacked buffers, and these views."""
        buffers = list(params.values())
        if self._bound is None or not all(a is b for a, b in zip(self._bound[0], buffers, strict=True)):
            self._bound = buffers, [self.network.bound(at(params, m)) for m in range(self.size)]
        return self._bound[1]

    def _stacked(self, *args: Any) -> Any:
        """Gradients and losses of all members under `vmap`."""
        *stacked, key, see = args

        def one(params: Params, *rest: Any) -> Any:
            derived: Callable = grad_and_value(partial(self._objective, self.network), has_aux=True)
            grads, (_, (loss, watched)) = derived(params, *rest, see)
            return grads, loss, watched

        return vmap(one, in_dims=(*[0] * len(stacked), None if key is None else 0))(*stacked, key)

    def _decide(self, args: tuple) -> tuple[Callable, Any]:
        """How gradients are computed from here on: settled on the first batch."""
        if self.members.mode == "single":
            return self._single, self.members.without_draws(self._single, args)
        if self.members.mode == "compiled":
            try:
                compiled = torch.compile(self._stacked, dynamic=False)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", category=DeprecationWarning)  # raised by Inductor's own imports
                    return compiled, compiled(*args)
            except Exception as error:
                reason = first_line(error)
                if " " in torch.__file__:
                    reason += (
                        f": it takes no path with a space, as is that of {torch.__file__}; install torch elsewhere"
                    )
                warnings.warn(f"torch.compile failed, the population runs eagerly: {reason}", stacklevel=5)
                self.members.mode = "vmap"
        if self._faster_apart(*args):
            self.members.mode = "loop"
            return self._unseeded, self._unseeded(*args)
        result = self.members.or_loop(self._stacked, self._looped, args)
        return (self._unseeded if self.members.mode == "loop" else self._stacked), result

    def _faster_apart(
        self, params: Params, states: list, numbers: list, step: Any, lr: Any, x: Any, *rest: Any
    ) -> bool:
        """Whether a loop is faster on a CPU: for two members, and for convolutions in which there is much to compute.

        Convolutions of many networks are one in groups, for which the CPU has worse kernels (`benchmarks/loop.py`).
        """
        if next(iter(params.values())).device.type != "cpu":
            return False
        if self.size == 2:
            return True
        _, key, _ = rest
        return convolution_flops(self.network, *at((params, x, key), 0)) >= FLOPS_APART

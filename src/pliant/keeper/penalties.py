"""The penalties of a chain on somebody's own parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pliant.interventions.base import Intervention, Seen, State
from pliant.network import Network, Params


class Penalties:
    """The penalties among the members of a chain; autograd need not go through those whose gradient is known.

    Attributes:
        members: by their place in the chain.
        needs: the fields of `Seen` that they read.
    """

    def __init__(self, chain: Sequence[Intervention]):
        self.members = {place: member for place, member in enumerate(chain) if member.overrides("penalty")}
        self.needs = frozenset[str]().union(*(member.needs for member in self.members.values()))
        self._closed = {n: member for n, member in self.members.items() if member.overrides("penalty_gradient")}
        self._looked = False

    def total(
        self, network: Network, params: Params, state: list[State], seen: Seen, idle: Callable[[Intervention], None]
    ) -> Tensor:
        """Their sum; `idle` is told of members that depend on no parameter."""
        closed, terms = self._closed, []
        if not self._looked:
            self._looked = True
            with torch.no_grad():
                for n, member in closed.items():
                    if not member.penalty_gradient(network, params, state[n], seen):
                        idle(member)
        if closed:
            bare = Seen(seen.step, seen.lr, seen.x)

            def value() -> Tensor:
                parts = [member.penalty(network, params, state[n], bare) for n, member in closed.items()]
                return _sum([part for part in parts if part is not None], seen)

            def gradient(weight: Tensor) -> Params:
                exact = weight.is_cuda or torch.is_grad_enabled()  # asking a GPU takes longer than multiplying
                factor = weight if exact else weight.item()
                summed: Params = {}
                for n, member in closed.items():
                    found = member.penalty_gradient(network, params, state[n], bare) or {}
                    for name, term in found.items():
                        if name in summed:
                            term.times(factor).add_to(summed[name])
                        else:
                            summed[name] = term.times(factor).value()
                return summed

            leaves = [params[name] for name in network.names]
            terms.append(_ClosedForm.apply(value, gradient, network.names, *leaves))
        for place, member in self.members.items():
            if place in closed:
                continue
            term = member.penalty(network, params, state[place], seen)
            if term is None or (torch.is_grad_enabled() and not term.requires_grad):
                idle(member)
            if term is not None:
                terms.append(term)
        return _sum(terms, seen)


def _sum(terms: list[Tensor], seen: Seen) -> Tensor:
    return sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(seen.lr)


class _ClosedForm(torch.autograd.Function):
    """A value and its gradient, computed when it is asked for."""

    @staticmethod
    def forward(
        ctx: Any, value: Callable[[], Tensor], gradient: Callable[[Tensor], Params], names: Any, *_: Any
    ) -> Tensor:
        ctx.gradient, ctx.names = gradient, names
        return value()

    @staticmethod
    def backward(ctx: Any, *weights: Any) -> tuple[Any, ...]:
        found = ctx.gradient(*weights)
        return None, None, None, *(found.get(name) for name in ctx.names)


def gradient_of(loss: Tensor | None, params: Mapping[str, Tensor]) -> Params:
    """The gradient of the loss without penalties, with its graph."""
    if loss is None:
        raise ValueError("the recipe needs the gradient of the loss: write loss = loss + keeper.penalty(loss)")
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        graph = isinstance(loss, Tensor) and loss.requires_grad
        kind = f"of shape {tuple(loss.shape)}" if graph else "without a graph"
        raise ValueError(
            f"expected the loss before backward(), a scalar tensor, got one {kind}: write loss = loss + "
            "keeper.penalty(loss)"
        )
    found = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
    pairs = zip(params.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}

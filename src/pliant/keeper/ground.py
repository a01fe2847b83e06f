"""What a chain stands on: the network of somebody's model as it is by now, and the states of the members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from pliant.adapter import How, bare, has_forward, how_to_call
from pliant.interventions.base import Intervention, State
from pliant.keeper.carried import carried, merged, rest, without
from pliant.keeper.held import Held
from pliant.modules import purified
from pliant.network import Network, Params
from pliant.outline import Outline


class Ground:
    """The trained part of a model as a network, and one state a member of the chain.

    Args:
        chain: the members.
        held: the parameters that are trained.
        fresh: builds a new model, for draws; or None.
        call: how the loop calls the model.
        say: told what a user should know.

    Attributes:
        params: of the model, by name.
        network: restricted to what is trained.
        states: one a member, once `begun`.
        kept: what an earlier state had of parameters that are frozen by now.
    """

    def __init__(
        self,
        chain: Sequence[Intervention],
        held: Held,
        fresh: Callable[[], nn.Module] | None,
        call: How | None,
        say: Callable[[str], None],
    ):
        self.chain, self.held = chain, held
        self._fresh, self._call, self._say = fresh, call, say
        self.states: list[State] = []
        self.kept: list[State] = [{} for _ in chain]
        self.begun = False
        self.params: Params = dict(held.model.named_parameters())
        self._whole = Network(purified(held.model, call), fresh=fresh)
        self.network = self._restricted()

    @property
    def like(self) -> Tensor:
        """A tensor of the model, where numbers of our own belong."""
        return next(iter((self.held.params or self.params).values()))

    def values(self) -> Params:
        """The live parameters, without graph."""
        return {name: p.detach() for name, p in self.params.items()}

    def exact(self) -> AbstractContextManager[Any]:
        """What is computed here is not computed in the precision of somebody's autocast."""
        kind = self.like.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()

    def see(self, x: Any) -> None:
        """The first inputs, by which units are found."""
        self._whole.example = _example(x)
        self.network = self._restricted()

    def renew(self, before: Outline, x: Any = None) -> bool:
        """Takes the model as it is by now; `x` are inputs, if there are any. Whether there are other parts in it."""
        model = self.held.model
        other = not before.alike(self.held.outline)
        if other:
            example = self._whole.example if x is None else _example(x)
            was = self.like.dtype
            self.params = dict(model.named_parameters())
            self._whole = self._drawing(model)
            self._whole.example = _cast(example, was, self.like.dtype)
        self.network = self._restricted()
        if self.begun:
            gone = before.replaced(model)
            self.kept = [without(merged(old, new), gone) for old, new in zip(self.kept, self.states, strict=True)]
            self.begun = False
        return other

    def begin(self) -> None:
        """Makes the states; what is kept of earlier ones goes on."""
        if self.held.params:
            fresh = self._init()
            self.states = [carried(old, new) for old, new in zip(self.kept, fresh, strict=True)]
            self.kept = [rest(old, new) for old, new in zip(self.kept, fresh, strict=True)]
        self.begun = True

    def load(self, states: list[State], kept: list[State] | None) -> None:
        """Goes on with other states; raises `ValueError`, and changes nothing, where they do not fit."""
        (new, shape), (old, expected) = tree_flatten(states), tree_flatten(self.states)
        if shape != expected or any(a.shape != b.shape for a, b in zip(new, old, strict=True)):
            raise ValueError(
                f"expected the state of {self.chain} for this model, got one of another structure: load it into the "
                "model that it was saved with"
            )
        for buffer, value in zip(old, new, strict=True):
            buffer.copy_(value)
        if kept is not None:
            self.kept = tree_map(torch.clone, kept)

    def tied(self, copied: nn.Module) -> Params:
        """The parameters of a copy, which may be wrapped: of the first module in it that has the model's."""
        if not isinstance(copied, nn.Module):
            raise ValueError(f"expected tied copies of the model, got {type(copied).__name__}: write tied=[target]")
        for module in copied.modules():
            params = {name: p.detach() for name, p in module.named_parameters()}
            if all(name in params and params[name].shape == p.shape for name, p in self.params.items()):
                return params
        found = dict(bare(copied).named_parameters())
        name, p = next((n, p) for n, p in self.params.items() if n not in found or found[n].shape != p.shape)
        raise ValueError(
            f"expected a tied copy to have the parameters of the model, got one without {name} of {tuple(p.shape)}"
        )

    @property
    def what_counts(self) -> str:
        """What to write where no forward pass was seen."""
        model = self.held.model
        if self._call is None and not has_forward(model):
            return f"write recipe.attach(model, optimizer, {how_to_call(model)})"
        called = f"{self._call} of the attached model" if isinstance(self._call, str) else "the attached model"
        if callable(self._call):
            called = "keeper.call(x), which calls the function,"
        return (
            f"call {called} in train mode and with gradients on, between two steps; if it is compiled, write "
            "recipe.attach(torch.compile(model), optimizer), or model.compile() before the attach"
        )

    def _init(self) -> list[State]:
        try:
            with torch.no_grad(), self.exact():
                values = self.values()
                return [member.init(self.network, values) for member in self.chain]
        except Warning:  # that a filter of the caller's makes an error
            raise
        except Exception as error:
            if self._whole.example is None:
                raise ValueError(f"a forward pass must come first: {self.what_counts} ({error})") from error
            if not isinstance(error, ValueError):
                names = " and ".join(type(member).__name__ for member in self.chain)
                reason = str(error).strip().partition("\n")[0]
                raise ValueError(f"{names} cannot begin on {type(self.held.model).__name__}: {reason}") from error
            if self.held.lacking:
                raise ValueError(
                    f"{error}; what the optimizer lacks is left alone, {self.held.lacking[0]} for one: for several "
                    "optimizers write recipe.attach(model, [optimizer_a, optimizer_b])"
                ) from error
            raise

    def _restricted(self) -> Network:
        names = self.held.params
        return self._whole if len(names) == len(self.params) else self._whole.restricted(names, whole_units=True)

    def _drawing(self, model: nn.Module) -> Network:
        """The network of a model that changed, drawn anew as before if the function for that still builds it."""
        pure = purified(model, self._call)
        try:
            return Network(pure, fresh=self._fresh)
        except ValueError:
            self._say(
                "fresh builds another model than this is by now: from here on, each layer's reset_parameters draws"
            )
            return Network(pure)


def _cast(example: Any, was: torch.dtype, now: torch.dtype) -> Any:
    return tree_map(lambda t: t.to(now) if isinstance(t, Tensor) and t.dtype == was else t, example)


def _example(x: Any) -> Any:
    return tree_map(lambda t: t.detach().cpu().clone() if isinstance(t, Tensor) else t, x)

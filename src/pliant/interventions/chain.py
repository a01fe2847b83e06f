"""Interventions in order, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pliant.adapter import How, bare, duplicate, redirect, redirect_back
from pliant.interventions.base import Intervention, State
from pliant.network import Network, Params

if TYPE_CHECKING:
    from pliant.keeper import Keeper


class Chain(tuple[Intervention, ...]):
    """Interventions applied in order, as one.

    The order matters: modules are built from the first to the last (a normaliser, then what is to come around it), and
    after each step every member sees what those before it changed.

    >>> from pliant.interventions import L2, OptimizerReset
    >>> Chain(L2(1e-4), OptimizerReset())
    Chain(L2(strength=0.0001, normalisers=False), OptimizerReset(event='task_switch'))
    """

    def __new__(cls, *members: Intervention) -> Chain:
        for member in members:
            if not isinstance(member, Intervention):
                raise ValueError(f"expected interventions such as L2(1e-4), got {member!r}: write Chain(L2(1e-4), ...)")
        return super().__new__(cls, members)

    def __getnewargs__(self) -> tuple[Intervention, ...]:  # type: ignore[override]
        return tuple(self)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self))})"

    @property
    def events(self) -> frozenset[str]:
        """The events that some member answers to."""
        return frozenset(event for member in self for event in member.events)

    def build(self, module: nn.Module, example: Any, call: How | None = None) -> nn.Module:
        """The module with every intervention built in.

        Args:
            module: the module, which is left alone.
            example: one batch of inputs.
            call: how your loop calls the module, where it does not call its `forward` (an agent without one): the name
                of another method, or a function of the module and its inputs.
        """
        bare(module)
        built = [repr(member) for member in self if member.overrides("build")]
        if call is not None:
            module, _ = duplicate(module)
            redirect(module, call)
        for member in self:
            try:
                module = member.build(module, example)
            except (RuntimeError, TypeError, AttributeError) as error:
                raise ValueError(f"{member} cannot be built in with this example: {error}") from error
        if call is not None:
            redirect_back(module)
        if built:
            module.built_in = (*getattr(module, "built_in", ()), *built)  # type: ignore[assignment]
        return module

    def refuse_unbuilt(self, module: nn.Module) -> None:
        """Raises `ValueError` if a member that changes the module was not built into it."""
        built = {name for part in module.modules() for name in getattr(part, "built_in", ())}
        for member in self:
            if member.overrides("build") and repr(member) not in built:
                raise ValueError(
                    f"{member} is not built into the model: write model = recipe.build(model, example=x) before the "
                    "optimizer is made"
                )

    def init(self, network: Network, params: Params) -> list[State]:
        """One state a member."""
        return [member.init(network, params) for member in self]

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        seed: int = 0,
        fresh: Callable[[], nn.Module] | None = None,
        call: How | None = None,
    ) -> Keeper:
        """The chain at work in a loop of your own; `model` is what `build` returned, or the same compiled.

        Raises `ValueError` where the three do not fit, and warns about what will be left alone.

        Args:
            model: the module that the loop calls.
            optimizer: of the model's parameters, or several in a list; may have taken steps already.
            seed: where everything that is drawn comes from.
            fresh: a function that builds a new model, as large as this one, for models with an initialisation of their
                own; else what is drawn anew is drawn by the `reset_parameters` of each layer.
            call: the method that your loop calls where that is not the model itself, as in
                `call="get_action_and_value"`; or a function of the model and its inputs, as in
                `call=lambda agent, x: agent.actor(x)`: your loop then writes `keeper.call(x)` for it.

        >>> from pliant.interventions import L2
        >>> model = nn.Linear(2, 1)
        >>> keeper = Chain(L2(0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> bool(keeper.penalty() > 0)
        True
        """
        from pliant.keeper import Keeper  # now: the package that `interventions` is part of must be there first

        self.refuse_unbuilt(bare(model))
        return Keeper(self, model, optimizer, seed, fresh, call)

"""The adapter between a chain of interventions and somebody's own model, optimizer and loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import How, bare
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, write
from pliant.keeper.forwards import WATCHED, Forwards
from pliant.keeper.ground import Ground
from pliant.keeper.held import Held
from pliant.keeper.penalties import Penalties, gradient_of
from pliant.keeper.rates import NotingSeen, at_each_rate
from pliant.keeper.saved import refuse_foreign
from pliant.optim.torch_optimizer import Steps
from pliant.outline import Outline


class Keeper:
    """A chain at work in a training loop of your own; made by `Chain.attach`.

    Add `penalty()` to the loss, call `step()` right after `optimizer.step()` and `event(name)` when something happens.
    Parameters and the optimizer's moments are changed in place, entry by entry, with the same numbers as in a
    `Population` of one. Frozen parameters are left alone while they are frozen; the units are learned at the first
    forward pass. Of the forward passes those count that train: in train mode, with gradients on; a step uses all of
    them since the last one (gradient accumulation), a penalty the latest.

    Where the model changes (new heads, swapped or resized layers, another device or dtype, `requires_grad_`), or the
    parameter groups of its optimizers do, the keeper goes on with what is there: what it keeps of layers that are new
    begins anew. A new optimizer is told to it by `follow`.

    With mixed precision, use `autocast` as ever; where a `GradScaler` skips a step, skip `step()`, too:
    `if scaler.get_scale() >= scale_before: keeper.step()`. Parameter groups may have learning rates of their own, and
    several optimizers are given as a list: call `step()` when all that were due have stepped.
    Attach a compiled model as `recipe.attach(torch.compile(model), optimizer)`; where activations are looked at, the
    original runs a second time beside it. The optimizer is one of torch's SGD, Adam, AdamW, RMSprop and Muon, or a
    `pliant.optim.TorchOptimizer`; another one is fine as long as no moments are to be changed.

    Attributes:
        steps: how many steps were taken.

    >>> from pliant.interventions import L2, Chain, WeightNormRescale
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> keeper = Chain(L2(1e-4), WeightNormRescale()).attach(model, optimizer)
    >>> before = model[0].weight.norm().item()
    >>> for _ in range(3):
    ...     loss = model(torch.ones(4, 2)).square().mean() + keeper.penalty()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     keeper.step()
    >>> abs(model[0].weight.norm().item() - before) < 1e-5
    True
    """

    def __init__(
        self,
        chain: Sequence[Intervention],
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        seed: int = 0,
        fresh: Callable[[], nn.Module] | None = None,
        call: How | None = None,
    ):
        original = bare(model)
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(
                f"expected a seed of at least 0, got {seed!r}: write recipe.attach(model, optimizer, seed=0)"
            )
        if isinstance(fresh, nn.Module) or not (fresh is None or callable(fresh)):
            raise ValueError(
                f"expected fresh to be a function that builds the model, got {type(fresh).__name__}: write "
                "fresh=make_model, or fresh=lambda: Net(...)"
            )
        self.chain, self.seed, self.steps = chain, seed, 0
        self._events = frozenset(event for member in chain for event in member.events)
        self._said: set[str] = set()
        self._held = Held(original, optimizer)
        for odd in self._held.oddities():
            warnings.warn(odd, stacklevel=3)
        self._ground = Ground(chain, self._held, fresh, call, self._say)
        self._penalties = Penalties(chain)
        self._steppers = {place: member for place, member in enumerate(chain) if member.overrides("after_step")}
        self._penalised = self._noticed = False
        self._taken = 0  # steps since attach
        self._fired: set[str] = set()
        self._saved: tuple[dict[str, Any], tuple[int, int, set[str]]] | None = None  # loaded, and what was before
        self._forwards = Forwards(model, self._first, self._before, call)
        self._optimized = Steps(self._held.optimizers, self._forwards.stepped)
        self._look_ahead()

    @property
    def state(self) -> list[State]:
        """One state a member of the chain, such as the slow weights of `HareAndTortoise`."""
        return self._ground.states

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, as `call=` of `recipe.attach` says; where that is a function, the loop has to call this.

        >>> from pliant.interventions import L2, Chain
        >>> model = nn.ModuleDict({"actor": nn.Linear(2, 1)})
        >>> recipe, optimizer = Chain(L2(0.1)), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> keeper = recipe.attach(model, optimizer, call=lambda agent, x: agent["actor"](x))
        >>> keeper.call(torch.ones(4, 2)).shape
        torch.Size([4, 1])
        """
        return self._forwards.call(*args, **kwargs)

    def penalty(self, loss: Tensor | None = None) -> Tensor:
        """The sum of the chain's penalties, a scalar to add to the loss; 0 if it has none.

        Call it before `backward()`. Some (`GradientNormPenalty`) need the loss without penalties.
        """
        self._notice()
        self._begin()
        self._penalised = True
        if not (self._penalties.members and self._held.params):
            nothing = self._ground.like.new_zeros(())  # can be differentiated where no optimizer holds what trains
            return nothing.requires_grad_(bool(self._penalties.members and self._held.lacking))
        shown = self._forwards.latest
        for member in self._penalties.members.values():
            self._refuse_unseen(member, shown, "penalty")
        rates = list(self._held.rates())
        lr = rates[0] if len(rates) == 1 else float("nan")  # with several there is not the one
        seen = Seen(
            self._step, self._number(lr), **{"x": None, **shown}, gradient=lambda: gradient_of(loss, self._held.params)
        )
        with self._ground.exact():
            return self._penalties.total(self._ground.network, self._ground.params, self.state, seen, self._idle)

    def step(self) -> None:
        """What the chain does after a step of the optimizer."""
        self._notice()
        self._begin()
        if self._taken == 1 and self._penalties.members and not self._penalised:
            self._say("the recipe has penalties that are not in the loss: write loss = loss + keeper.penalty()")
        if not self._forwards.passes:
            self._say(f"keeper.step() without a forward pass before it: {self._ground.what_counts}")
        if self._taken and not self._optimized.taken:
            kinds = " and ".join(type(optimizer).__name__ for optimizer in self._held.optimizers)
            self._say(
                f"keeper.step() without a step of its {kinds} before it: where a new optimizer is made, write "
                "keeper.follow(optimizer)"
            )
        if self._acting and self._held.params:
            with torch.no_grad(), self._ground.exact():
                shown = self._forwards.joined(self._axes)
                for member in self._acting.values():
                    self._refuse_unseen(member, shown, "step")
                for place, member in self._acting.items():
                    self._after_step(place, member, shown)
        self.steps += 1
        self._taken += 1
        self._optimized.taken.clear()
        self._noticed = False
        self._look_ahead()

    def event(self, name: str, tied: nn.Module | Iterable[nn.Module] = ()) -> None:
        """Something happened, such as `"task_switch"`: every member of the chain that answers to it does.

        `tied` are copies of the model (target networks, averages): the same is done to them, with the same draws. They
        may be wrapped: compiled, distributed, a `torch.optim.swa_utils.AveragedModel`.
        """
        self._noticed = False
        self._notice()
        self._begin()
        if self.chain and name not in self._events:
            near = get_close_matches(name, self._events, 1) or sorted(self._events)[:1]
            meant = f", did you mean {near[0]!r}?" if near else ""
            self._say(f"nobody in the recipe answers to {name!r}{meant}")
        self._fired.add(name)
        listed = tied if isinstance(tied, Iterable) and not isinstance(tied, nn.Module) else [tied]
        copies = [self._ground.tied(module) for module in listed]
        with torch.no_grad(), self._ground.exact():
            for place, member in enumerate(self.chain):
                if name not in member.events:
                    continue
                state, draw = self.state[place], Draw(self.seed, self.steps, place)
                for params in copies:
                    change = member.on_event(self._ground.network, name, params, self._held.moments(), state, draw)
                    write(params, change.params if change else {})
                change = member.on_event(
                    self._ground.network, name, self._ground.values(), self._held.moments(), state, draw
                )
                self._apply(place, member, change)

    def follow(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        """From now on this is the model's optimizer, or these are: one made for a new task, say.

        >>> from pliant.interventions import L2, Chain
        >>> model = nn.Linear(2, 1)
        >>> keeper = Chain(L2(0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> keeper.follow(torch.optim.SGD(model.parameters(), lr=0.01))
        """
        before = self._held
        self._held = self._ground.held = Held(before.model, optimizer)
        self._noticed = True
        for odd in set(self._held.oddities()).difference(before.oddities()):
            self._say(odd)
        self._optimized.close()
        self._optimized = Steps(self._held.optimizers, self._forwards.stepped)
        self._renew(before.outline)

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as a copy; `torch.load(..., weights_only=True)` reads it back."""
        state, kept = (self.state if self._ground.begun else None), self._ground.kept
        if self._saved is not None:
            state, kept = self._saved[0]["state"], self._saved[0].get("kept", kept)
        return {
            "members": [type(member).__name__ for member in self.chain],
            "seed": self.seed,
            "steps": self.steps,
            "fired": sorted(self._fired),
            "state": None if state is None else tree_map(torch.clone, state),
            "kept": tree_map(torch.clone, kept),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises `ValueError` for that of another recipe or model, at the first forward pass if the units are not known
        before; then everything is as it was.
        """
        refuse_foreign(saved, self.chain)
        self._notice()
        before = self.seed, self.steps, self._fired
        self.seed, self.steps, self._fired = saved["seed"], saved["steps"], set(saved["fired"])
        self._saved = saved, before
        if self._ground.begun:
            self._restore()
        elif saved["state"] is None and "kept" in saved:
            self._ground.kept = tree_map(torch.clone, saved["kept"])
        self._look_ahead()

    def detach(self) -> None:
        """Removes the hooks; what was built in stays. Warns about events that were never fired."""
        self._close()
        for event in sorted(self._events - self._fired):
            self._say(f"the event {event!r} was never fired: write keeper.event({event!r}) where it happens")

    def _close(self) -> None:
        self._forwards.close()
        self._optimized.close()

    # -- the beginning -------------------------------------------------------------------------------------------------

    def _first(self, x: Any) -> None:
        """Told of the first inputs; the hooks of a recipe that cannot start are removed."""
        try:
            with torch.inference_mode(False):
                self._notice(x)
                self._noticed = False  # it may be long until training begins
                if not self._ground.begun:
                    self._ground.see(x)
                    self._begin()
        except BaseException:
            if not self._ground.begun:
                self._close()
            raise

    def _before(self, x: Any) -> None:
        """Told of the inputs of a training pass."""
        self._notice(x)

    # -- what changes --------------------------------------------------------------------------------------------------

    def _notice(self, x: Any = None) -> None:
        """Goes on with the model and the parameter groups as they are by now; `x` are inputs of the model.

        Once a step: at its first forward pass, or where the model is first needed.
        """
        if self._noticed:
            return
        self._noticed = True
        if self._held.holds:
            return
        outline, lacking = self._held.outline, self._held.lacking
        self._held.take()
        self._renew(outline, x)
        if new := [name for name in self._held.lacking if name not in lacking]:
            self._say(
                f"no optimizer of the keeper holds {', '.join(new)}, which the model has by now: left alone; write "
                "optimizer.add_param_group(...), or keeper.follow(optimizer) for a new optimizer"
            )

    def _renew(self, before: Outline, x: Any = None) -> None:
        other = self._ground.renew(before, x)
        if other:
            self._forwards.renew(self._first)
        if not other or x is not None:
            self._begin()

    def _begin(self) -> None:
        """The state, made at the first forward pass, or when first wanted."""
        if not self._ground.begun:
            self._ground.begin()
            self._restore()

    def _restore(self) -> None:
        """Goes on with the state that was loaded; where it does not fit, with that before the load."""
        if self._saved is None:
            return
        (saved, before), self._saved = self._saved, None
        if saved["state"] is None:
            return
        try:
            self._ground.load(saved["state"], saved.get("kept"))
        except ValueError:
            self.seed, self.steps, self._fired = before
            self._look_ahead()
            raise

    # -- at work -------------------------------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Who will act after the next step, and what the forward passes until then are to show."""
        self._acting = {n: m for n, m in self._steppers.items() if m.active(self.steps)}
        needs = [member.needs & WATCHED for member in self._acting.values()]
        self._forwards.ask(self._penalties.needs, frozenset[str]().union(*needs) if needs else None)

    def _after_step(self, place: int, member: Intervention, shown: dict[str, Any]) -> None:
        moments = {kind: group for kind, group in self._held.moments().items() if kind != "step"}
        watched = {name: shown[name] for name in member.needs & WATCHED}
        rates, values = self._held.rates(), self._ground.values()

        def after_step(lr: float) -> Change:
            seen = NotingSeen(self.steps, lr, shown.get("x"), **watched)  # type: ignore[arg-type]
            seen.like = self._ground.like
            # each of several rates begins where the optimizer left off
            params = values if len(rates) == 1 else {name: p.clone() for name, p in values.items()}
            return member.after_step(self._ground.network, params, moments, self.state[place], seen) or Change()

        new = at_each_rate(rates, after_step)
        if not (new.params or new.state or tree_leaves(new.moments) or member.overrides("renew")):
            self._idle(member)
        elsewhere = {name: p for name, p in new.params.items() if p is not values[name]}  # not in place
        self._apply(place, member, Change(elsewhere, new.moments, new.state))
        if member.overrides("renew") and self.state[place]["due"]:
            draw = Draw(self.seed, self.steps, place)
            new = member.renew(
                self._ground.network, self._ground.values(), self._held.moments(), self.state[place], draw
            )
            self._apply(place, member, new)

    def _apply(self, place: int, member: Intervention, change: Change | None) -> None:
        if change is None:
            return
        touched = {name for group in change.moments.values() for name in group}
        if touched and (unknown := self._held.unknown):
            strange = [kind for name, kind in unknown.items() if name in touched or "" in touched]
            if strange:
                raise ValueError(
                    f"{member} changes the moments of the optimizer, and those of {strange[0]} are not known: use SGD, "
                    "Adam, AdamW, RMSprop or Muon of torch.optim, or moments='keep'"
                )
        write(self._ground.params, change.params)
        write(self.state[place], change.state)
        if touched:
            self._held.write(change.moments)

    def _axes(self) -> dict[str, int]:
        return {site: axis for units in self._ground.network.units for site, axis in units.sites}

    @property
    def _step(self) -> Tensor:
        return torch.tensor(self.steps, device=self._ground.like.device)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, device=self._ground.like.device, dtype=self._ground.like.dtype)

    def _refuse_unseen(self, member: Intervention, shown: dict[str, Any], method: str) -> None:
        for name in sorted(member.needs & WATCHED):
            if name not in shown:
                raise ValueError(
                    f"{member} needs the {name} of a forward pass before {method}(): {self._ground.what_counts}"
                )

    def _idle(self, member: Intervention) -> None:
        self._say(f"{member} touches nothing in this model")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=3)

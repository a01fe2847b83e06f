"""The adapter between a chain of interventions and somebody's own model, optimizer and loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from pliant.adapter import bare, has_forward, how_to_call
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, write
from pliant.keeper.carried import carried, merged, rest, without
from pliant.keeper.forwards import WATCHED, Forwards
from pliant.keeper.held import Held
from pliant.keeper.penalties import Penalties
from pliant.keeper.rates import NotingSeen, at_each_rate
from pliant.modules import purified
from pliant.network import Network, Params
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
        state: one state a member of the chain, such as the slow weights of `HareAndTortoise`.
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
        call: str | None = None,
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
        self.state: list[State] = []
        self._kept: list[State] = [{} for _ in chain]  # of earlier, for parameters that are frozen now, say
        self._held = Held(original, optimizer)
        for odd in self._held.oddities():
            warnings.warn(odd, stacklevel=3)
        self._params: Params = dict(original.named_parameters())
        self._fresh, self._call = fresh, call
        self._whole = Network(purified(original, call), fresh=fresh)
        self._network = self._restricted()
        self._penalties = Penalties(chain)
        self._steppers = {place: member for place, member in enumerate(chain) if member.overrides("after_step")}
        self._penalised = self._begun = self._noticed = False
        self._taken = 0  # steps since attach
        self._fired: set[str] = set()
        self._saved: tuple[dict[str, Any], tuple[int, int, set[str]]] | None = None  # loaded, and what was before
        self._said: set[str] = set()
        self._forwards = Forwards(model, self._first, self._before, call)
        self._optimized = Steps(self._held.optimizers, self._forwards.stepped)
        self._look_ahead()

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def penalty(self, loss: Tensor | None = None) -> Tensor:
        """The sum of the chain's penalties, a scalar to add to the loss; 0 if it has none.

        Call it before `backward()`. Some (`GradientNorm`) need the loss without penalties.
        """
        self._notice()
        self._begin()
        self._penalised = True
        if not (self._penalties.members and self._held.params):
            return self._like.new_zeros(())
        shown = self._forwards.latest
        for member in self._penalties.members.values():
            self._refuse_unseen(member, shown, "penalty")
        rates = list(self._held.rates())
        lr = rates[0] if len(rates) == 1 else float("nan")  # with several there is not the one
        seen = Seen(self._step, self._number(lr), **{"x": None, **shown}, gradient=lambda: self._gradient(loss))
        with self._exact():
            return self._penalties.total(self._network, self._params, self.state, seen, self._idle)

    def step(self) -> None:
        """What the chain does after a step of the optimizer."""
        self._notice()
        self._begin()
        if self._taken == 1 and self._penalties.members and not self._penalised:
            self._say("the recipe has penalties that are not in the loss: write loss = loss + keeper.penalty()")
        if not self._forwards.passes:
            self._say(f"keeper.step() without a forward pass before it: {self._what_counts}")
        if self._taken and not self._optimized.taken:
            kinds = " and ".join(type(optimizer).__name__ for optimizer in self._held.optimizers)
            self._say(
                f"keeper.step() without a step of its {kinds} before it: where a new optimizer is made, write "
                "keeper.follow(optimizer)"
            )
        if self._acting and self._held.params:
            with torch.no_grad(), self._exact():
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
        copies = [self._tied(module) for module in listed]
        with torch.no_grad(), self._exact():
            for place, member in enumerate(self.chain):
                if name not in member.events:
                    continue
                state, draw = self.state[place], Draw(self.seed, self.steps, place)
                for params in copies:
                    change = member.on_event(self._network, name, params, self._held.moments(), state, draw)
                    write(params, change.params if change else {})
                change = member.on_event(self._network, name, self._values(), self._held.moments(), state, draw)
                self._apply(place, member, change)

    def follow(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        """From now on this is the model's optimizer, or these are: one made for a new task, say.

        >>> from pliant.interventions import L2, Chain
        >>> model = nn.Linear(2, 1)
        >>> keeper = Chain(L2(0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> keeper.follow(torch.optim.SGD(model.parameters(), lr=0.01))
        """
        before, self._held = self._held, Held(self._held.model, optimizer)
        self._noticed = True
        for odd in set(self._held.oddities()).difference(before.oddities()):
            self._say(odd)
        self._optimized.close()
        self._optimized = Steps(self._held.optimizers, self._forwards.stepped)
        self._renew(before.outline)

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as a copy; `torch.load(..., weights_only=True)` reads it back."""
        state, kept = (self.state if self._begun else None), self._kept
        if self._saved is not None:
            state, kept = self._saved[0]["state"], self._saved[0].get("kept", self._kept)
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
        if not (isinstance(saved, dict) and saved.keys() >= {"members", "seed", "steps", "fired", "state"}):
            got = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
            raise ValueError(f"expected what keeper.state_dict() returned, got {got or 'an empty dict'}")
        members = [type(member).__name__ for member in self.chain]
        if saved["members"] != members:
            raise ValueError(
                f"expected the state of {', '.join(members)}, got that of {', '.join(saved['members'])}: attach the "
                "same recipe"
            )
        self._notice()
        before = self.seed, self.steps, self._fired
        self.seed, self.steps, self._fired = saved["seed"], saved["steps"], set(saved["fired"])
        self._saved = saved, before
        if self._begun:
            self._restore()
        elif saved["state"] is None and "kept" in saved:
            self._kept = tree_map(torch.clone, saved["kept"])
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
                if not self._begun:
                    self._whole.example = _example(x)
                    self._network = self._restricted()
                    self._begin()
        except BaseException:
            if not self._begun:
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
        model = self._held.model
        whole = not before.alike(self._held.outline)
        if whole:
            example = self._whole.example if x is None else _example(x)
            was = self._like.dtype
            self._params = dict(model.named_parameters())
            self._whole = self._drawing(model)
            self._whole.example = _cast(example, was, self._like.dtype)
            self._forwards.renew(self._first)
        self._network = self._restricted()
        if self._begun:
            gone = before.replaced(model)
            self._kept = [without(merged(old, new), gone) for old, new in zip(self._kept, self.state, strict=True)]
            self._begun = False
        if not whole or x is not None:
            self._begin()

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

    def _restricted(self) -> Network:
        names = self._held.params
        return self._whole if len(names) == len(self._params) else self._whole.restricted(names, whole_units=True)

    def _begin(self) -> None:
        """The state, made at the first forward pass, or when first wanted; what is kept of an earlier one goes on."""
        if self._begun:
            return
        if self._held.params:
            fresh = self._init()
            self.state = [carried(old, new) for old, new in zip(self._kept, fresh, strict=True)]
            self._kept = [rest(old, new) for old, new in zip(self._kept, fresh, strict=True)]
        self._begun = True
        self._restore()

    def _init(self) -> list[State]:
        try:
            with torch.no_grad(), self._exact():
                values = self._values()
                return [member.init(self._network, values) for member in self.chain]
        except Exception as error:
            if self._whole.example is None or not isinstance(error, ValueError):
                raise ValueError(f"a forward pass must come first: {self._what_counts} ({error})") from error
            if self._held.lacking:
                raise ValueError(
                    f"{error}; what the optimizer lacks is left alone, {self._held.lacking[0]} for one: for several "
                    "optimizers write recipe.attach(model, [optimizer_a, optimizer_b])"
                ) from error
            raise

    def _restore(self) -> None:
        """Goes on with the state that was loaded; where it does not fit, with that before the load."""
        if self._saved is None:
            return
        (saved, before), self._saved = self._saved, None
        if saved["state"] is None:
            return
        (new, shape), (old, expected) = tree_flatten(saved["state"]), tree_flatten(self.state)
        if shape != expected or any(a.shape != b.shape for a, b in zip(new, old, strict=True)):
            self.seed, self.steps, self._fired = before
            self._look_ahead()
            raise ValueError(
                f"expected the state of {self.chain} for this model, got one of another structure: load it into the "
                "model that it was saved with"
            )
        for buffer, value in zip(old, new, strict=True):
            buffer.copy_(value)
        self._kept = tree_map(torch.clone, saved.get("kept", self._kept))

    # -- at work -------------------------------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Who will act after the next step, and what the forward passes until then are to show."""
        self._acting = {n: m for n, m in self._steppers.items() if m.active(self.steps)}
        needs = [member.needs & WATCHED for member in self._acting.values()]
        self._forwards.ask(self._penalties.needs, frozenset[str]().union(*needs) if needs else None)

    def _after_step(self, place: int, member: Intervention, shown: dict[str, Any]) -> None:
        moments = {kind: group for kind, group in self._held.moments().items() if kind != "step"}
        watched = {name: shown[name] for name in member.needs & WATCHED}
        rates, values = self._held.rates(), self._values()

        def after_step(lr: float) -> Change:
            seen = NotingSeen(self.steps, lr, shown.get("x"), **watched)  # type: ignore[arg-type]
            seen.like = self._like
            # each of several rates begins where the optimizer left off
            params = values if len(rates) == 1 else {name: p.clone() for name, p in values.items()}
            return member.after_step(self._network, params, moments, self.state[place], seen) or Change()

        new = at_each_rate(rates, after_step)
        if not (new.params or new.state or tree_leaves(new.moments) or member.overrides("renew")):
            self._idle(member)
        elsewhere = {name: p for name, p in new.params.items() if p is not values[name]}  # not in place
        self._apply(place, member, Change(elsewhere, new.moments, new.state))
        if member.overrides("renew") and self.state[place]["due"]:
            draw = Draw(self.seed, self.steps, place)
            new = member.renew(self._network, self._values(), self._held.moments(), self.state[place], draw)
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
        write(self._params, change.params)
        write(self.state[place], change.state)
        if touched:
            self._held.write(change.moments)

    def _gradient(self, loss: Tensor | None) -> Params:
        if loss is None:
            raise ValueError("the recipe needs the gradient of the loss: write loss = loss + keeper.penalty(loss)")
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            kind = (
                f"of shape {tuple(loss.shape)}"
                if isinstance(loss, Tensor) and loss.requires_grad
                else "without a graph"
            )
            raise ValueError(
                f"expected the loss before backward(), a scalar tensor, got one {kind}: write loss = loss + "
                "keeper.penalty(loss)"
            )
        params = self._held.params
        found = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
        pairs = zip(params.items(), found, strict=True)
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}

    def _values(self) -> Params:
        return {name: p.detach() for name, p in self._params.items()}

    def _tied(self, copied: nn.Module) -> Params:
        """The parameters of a copy, which may be wrapped: of the first module in it that has the model's."""
        if not isinstance(copied, nn.Module):
            raise ValueError(f"expected tied copies of the model, got {type(copied).__name__}: write tied=[target]")
        for module in copied.modules():
            params = {name: p.detach() for name, p in module.named_parameters()}
            if all(name in params and params[name].shape == p.shape for name, p in self._params.items()):
                return params
        found = dict(bare(copied).named_parameters())
        name, p = next((n, p) for n, p in self._params.items() if n not in found or found[n].shape != p.shape)
        raise ValueError(
            f"expected a tied copy to have the parameters of the model, got one without {name} of {tuple(p.shape)}"
        )

    def _axes(self) -> dict[str, int]:
        return {site: axis for units in self._network.units for site, axis in units.sites}

    @property
    def _like(self) -> Tensor:
        """Where numbers of our own belong."""
        return next(iter((self._held.params or self._params).values()))

    @property
    def _step(self) -> Tensor:
        return torch.tensor(self.steps, device=self._like.device)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, device=self._like.device, dtype=self._like.dtype)

    def _exact(self) -> AbstractContextManager[Any]:
        """What is computed here is not computed in the precision of somebody's autocast."""
        kind = self._like.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()

    def _refuse_unseen(self, member: Intervention, shown: dict[str, Any], method: str) -> None:
        for name in sorted(member.needs & WATCHED):
            if name not in shown:
                raise ValueError(f"{member} needs the {name} of a forward pass before {method}(): {self._what_counts}")

    def _idle(self, member: Intervention) -> None:
        self._say(f"{member} touches nothing in this model")

    @property
    def _what_counts(self) -> str:
        """What to write where no forward pass was seen."""
        model = self._held.model
        if self._call is None and not has_forward(model):
            return f"write recipe.attach(model, optimizer, {how_to_call(model)})"
        called = "the attached model" if self._call is None else f"{self._call} of the attached model"
        return (
            f"call {called} in train mode and with gradients on, between two steps; if it is compiled, write "
            "recipe.attach(torch.compile(model), optimizer), or model.compile() before the attach"
        )

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=3)


def _cast(example: Any, was: torch.dtype, now: torch.dtype) -> Any:
    return tree_map(lambda t: t.to(now) if isinstance(t, Tensor) and t.dtype == was else t, example)


def _example(x: Any) -> Any:
    return tree_map(lambda t: t.detach().cpu().clone() if isinstance(t, Tensor) else t, x)

"""Many networks of one architecture, trained as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional.precision import flushed
from pliant.gradients import SEEN, Gradients, Loss, Shown
from pliant.interventions.base import Change, Draw, Seen, State, write
from pliant.interventions.chain import Chain
from pliant.network import Network, Params, Trace
from pliant.optim import Moments, Optimizer
from pliant.stacking import at, differing, stack, with_numbers
from pliant.updates import Updates


@dataclass(frozen=True)
class Member:
    """What one member of a population is made of; members differ in the seed and in any number.

    >>> from pliant.optim import Adam
    >>> Member(seed=3, optimizer=Adam(lr=1e-3))
    Member(seed=3, optimizer=Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, eps_root=0.0), chain=Chain())
    """

    seed: int
    optimizer: Optimizer
    chain: Chain = field(default_factory=Chain)


class Observer(Protocol):
    """What looks at one network: a `Diagnostic`, or anything else with its two parts."""

    @property
    def needs(self) -> frozenset[str]: ...

    def measure(self, seen: Observation) -> dict[str, Tensor]: ...


@dataclass
class PopulationState:
    """Everything that changes in training; every tensor has a leading member axis, except the shared step count.

    `diverged_at[i]` is the step at which member i had no finite loss any more, -1 while it has.
    """

    params: Params
    initial: Params
    moments: Moments
    interventions: list[State]
    step: int
    diverged_at: list[int]


class Population:
    """Members of one architecture, stacked along a leading axis and trained at once.

    A member alone and in a crowd learns the same (to 1e-10 in float64 over 200 steps; in float32 rounding differs and
    ReLU networks then diverge chaotically). A population of one runs without `vmap`; what has no `vmap` rule runs as a
    loop over members, with a warning. With `compile=True` the gradient is compiled, and where that fails the population
    goes on eagerly, with a warning; `mode` says what runs: `"single"`, `"vmap"`, `"compiled"` or `"loop"`.
    On a CPU, two members run as a loop, and so do convolutions in which there is much to compute: that is faster.
    Steps take numbers below 1.2e-38 as 0, which dead units leave in an optimizer's state and which are slow.

    Args:
        network: the function all members share.
        loss: `loss(output, target)`, a scalar for one network and one batch.
        members: at least one; their optimizers and interventions must be of the same kinds in the same order.
        dtype: of all real parameters; None for each one's own.
        compile: compile the gradient (costs 5 to 20 s once; 1.2 times faster at 784-128-128-10, 20 times when tiny).
        beside: `beside(output, target)`, a tensor for one network and one batch (the loss of every example, say), which
            `advance` returns of the step's forward pass.

    >>> from torch import nn
    >>> from pliant.optim import SGD
    >>> network = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> population = Population(network, nn.functional.mse_loss, [Member(s, SGD(lr=0.1)) for s in range(4)])
    >>> state = population.init()
    >>> population.step(state, torch.ones(4, 8, 2), torch.zeros(4, 8, 1)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        members: Sequence[Member],
        *,
        compile: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.float32,
        beside: Loss | None = None,
    ):
        if not members:
            raise ValueError("expected at least one member, got none")
        kinds = {(type(m.optimizer), tuple(type(i) for i in m.chain)) for m in members}
        if len(kinds) > 1:
            raise ValueError(
                "expected members with the same kinds of optimizer and interventions (they may differ in numbers), got "
                + " and ".join(sorted(f"{o.__name__} with ({', '.join(i.__name__ for i in c)})" for o, c in kinds))
            )
        self.network, self.loss, self.members = network, loss, tuple(members)
        self.device, self.dtype = torch.device(device), dtype
        dtype = dtype or torch.float32  # of numbers
        self.chain = members[0].chain
        self._numbers = [differing([m.chain[i] for m in members], self.device, dtype) for i in range(len(self.chain))]
        self._seeds = torch.tensor([m.seed for m in members], device=self.device)
        if any(i.needs & SEEN for i in self.chain) and network.example is not None:
            _ = network.units  # found now: poking draws, which vmap forbids
        self._updates = Updates([m.optimizer for m in members], [m.seed for m in members])
        self._lrs = torch.tensor([m.optimizer.lr for m in members], device=self.device, dtype=dtype)
        self._gradients = Gradients(network, loss, self.chain, self._numbers, len(members), compile, beside)
        self._views: tuple[PopulationState, list[PopulationState]] | None = None

    @property
    def mode(self) -> str:
        """What runs: `"single"`, `"vmap"`, `"compiled"` or `"loop"`."""
        return self._gradients.members.mode

    def __len__(self) -> int:
        return len(self.members)

    def init(self, params: Params | None = None, moments: Moments | None = None) -> PopulationState:
        """Every member at its own fresh draw of the initial distribution, or at given parameters.

        Args:
            params: where to start, with the member axis; they are copied.
            moments: the optimizers' state, likewise (the step count without the axis), in place of a fresh one.
        """
        if params is None:
            draws = [self._place(self.network.fresh(member.seed)) for member in self.members]
        else:
            draws = [self._place(at(params, m)) for m in range(len(self))]
        params = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
        states = [member.chain.init(self.network, draw) for member, draw in zip(self.members, draws, strict=True)]
        fresh = self._updates.init(params)
        if moments is not None:
            write(fresh, moments)
        return PopulationState(
            params=params,
            initial={name: p.clone() for name, p in params.items()},
            moments=fresh,
            interventions=[stack([state[i] for state in states]) for i in range(len(self.chain))],
            step=0,
            diverged_at=[-1] * len(self),
        )

    def step(self, state: PopulationState, x: Any, y: Any) -> Tensor:
        """One optimizer step of every member on its own batch; returns the losses before it, without penalties.

        `x` and `y`, tensors or trees of them, have a leading member axis. `state` is overwritten. A member whose loss
        is not finite is frozen, the others go on (a gradient that overflows under a finite loss shows in the loss
        of the next step).
        """
        return self.advance(state, x, y)[0]

    def advance(self, state: PopulationState, x: Any, y: Any) -> tuple[Tensor, Tensor | None]:
        """`step`; returns the losses and what `beside` makes of the same forward pass, None without it."""
        with flushed():
            key = None
            if self.network.stochastic:
                key = torch.stack([self._seeds, torch.full_like(self._seeds, state.step)], dim=1)
            acting = [i for i in self.chain if i.overrides("after_step") and i.active(state.step)]
            see = any(i.needs & SEEN for i in acting)
            self._check_axis(x, y)
            apart = see and self.mode == "compiled"  # a compiled forward pass shows nothing
            grads, losses, shown = self._gradients(*self._arguments(state, x, y, key), see and not apart)
            beside = None
            if self._gradients.beside is not None:
                beside = shown["beside"] if isinstance(shown, dict) else torch.stack([one["beside"] for one in shown])
            if apart:
                shown = self._gradients.watched(state.params, x, key)
            frozen = self._note_divergence(state, losses)
            kept = {name: p[frozen].clone() for name, p in state.params.items()} if frozen else {}
            if self.members[0].optimizer.ascends:
                grads = self._gradients_at_ascent(state, grads, x, y, key)
            self._updates.update(state.params, grads, state.moments, state.step)
            if acting:
                self._after_step(state, x, shown)
            for name, values in kept.items():
                state.params[name][frozen] = values
            state.step += 1
        return losses, beside

    def settle(self, state: PopulationState, x: Any, y: Any) -> None:
        """Settles how members are computed, as the first step would; nothing is trained. For whoever needs outputs
        before it that are bitwise those of later."""
        key = None
        if self.network.stochastic:
            key = torch.stack([self._seeds, torch.full_like(self._seeds, state.step)], dim=1)
        self._check_axis(x, y)
        self._gradients(*self._arguments(state, x, y, key), False)

    def gradients(self, state: PopulationState, x: Any, y: Any) -> Params:
        """Gradients of the training loss with its penalties, dropout off; what `step` would follow."""
        self._check_axis(x, y)
        return self._gradients.eagerly(*self._arguments(state, x, y, None), False)

    def map(self, function: Callable, *trees: Any) -> Any:
        """`function` of each member's part of the trees (tensors with the member axis), its results stacked."""
        return self._gradients.members.map(function, *trees)

    def outputs(self, params: Params, x: Tensor) -> Any:
        """Every member's output on its own inputs at any parameters (such as a target network's), without dropout or
        gradients."""
        with torch.no_grad():
            self._check_axis(x)
            return self.map(self.network, params, x)

    def trace(self, state: PopulationState, x: Tensor) -> Trace:
        """Every member's `Network.trace` on its own inputs."""
        self._check_axis(x)
        self.network.axes(x[0])  # found now: members run under vmap
        return self.map(self.network.trace, state.params, x)

    def measure(
        self,
        diagnostics: Iterable[Diagnostic | Observer],
        state: PopulationState,
        x: Any,
        y: Any,
        update: Params | None = None,
    ) -> dict[str, Tensor]:
        """All scalars of the given diagnostics, each with one entry a member; training is not touched."""
        diagnostics = list(diagnostics)
        needs = frozenset().union(*(d.needs for d in diagnostics))
        seen: dict[str, Any] = {"params": state.params, "initial": state.initial}
        seen |= {name: batch for name, batch in (("x", x), ("y", y)) if name in needs}
        fixed = {"network": self.network, "loss": self.loss}
        if "trace" in needs:
            seen["trace"] = self.trace(state, x)
        if "gradients" in needs:
            seen["gradients"] = self.gradients(state, x, y)
        if "update" in needs:
            if update is None:
                raise ValueError("expected the latest change of the parameters as update=, got None")
            seen["update"] = update

        if "earlier" in needs:
            raise ValueError("a population keeps no earlier trace: measure what compares moments with pliant.Monitor")

        def everything(seen: dict[str, Any]) -> dict[str, Tensor]:
            return {k: v for d in diagnostics for k, v in d.measure(Observation(**seen, **fixed)).items()}

        with torch.no_grad():
            return self.map(everything, seen)

    def leaves(self, state: PopulationState) -> list[Tensor]:
        """Every tensor of the state in a fixed order, for checkpoints; writing into them restores it."""
        tree = (state.params, state.initial, state.moments, state.interventions)
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

    def fire(self, state: PopulationState, event: str, tied: Sequence[Params] = ()) -> None:
        """An event such as `"task_switch"`, handed to every member's interventions in order.

        `tied` are copies of the parameters (a target network, a moving average; with the member axis): the same is done
        to them, with the same draws.
        """
        for i in range(len(self.chain)):
            for m, member in enumerate(self.members):
                if state.diverged_at[m] >= 0:
                    continue
                one, draw = _member(state, m), Draw(member.seed, state.step, i)
                carried = one.interventions[i]
                for copied in tied:
                    params = at(copied, m)
                    new = member.chain[i].on_event(self.network, event, params, one.moments, carried, draw)
                    if new is not None:
                        write(params, new.params)
                new = member.chain[i].on_event(self.network, event, one.params, one.moments, carried, draw)
                _apply(new, one.params, one.moments, carried)

    def _place(self, params: Params) -> Params:
        kinds = {name: self.dtype if self.dtype and p.is_floating_point() else p.dtype for name, p in params.items()}
        return {name: p.to(self.device, kinds[name]) for name, p in params.items()}

    def _note_divergence(self, state: PopulationState, losses: Tensor) -> list[int]:
        if not math.isfinite(float(losses.sum())):
            for m, loss in enumerate(losses.tolist()):
                if state.diverged_at[m] < 0 and not math.isfinite(loss):
                    state.diverged_at[m] = state.step
        return [m for m, at in enumerate(state.diverged_at) if at >= 0]

    def _arguments(self, state: PopulationState, x: Tensor, y: Tensor, key: Tensor | None) -> tuple:
        """What the gradient is a function of: every tensor with a member axis."""
        steps = torch.full((len(self),), state.step, device=self.device)
        return state.params, state.interventions, steps, self._lrs, x, y, key

    def _check_axis(self, *batches: Any) -> None:
        for leaf in tree_leaves(batches):
            if isinstance(leaf, Tensor) and (leaf.ndim == 0 or len(leaf) != len(self)):
                raise ValueError(
                    f"expected batches with a member axis of length {len(self)}, got shape {tuple(leaf.shape)}: "
                    "write x[None] for one member, x.expand(num_members, *x.shape) for shared inputs"
                )

    # -- updates -------------------------------------------------------------------------------------------------------

    def _gradients_at_ascent(
        self, state: PopulationState, grads: Params, x: Tensor, y: Tensor, key: Tensor | None
    ) -> Params:
        """The gradients where the optimizers want them a second time; the parameters are put back."""
        before = {name: p.clone() for name, p in state.params.items()}
        try:
            write(state.params, self._updates.ascent(state.params, grads))
            return self._gradients(*self._arguments(state, x, y, key), False)[0]
        finally:
            write(state.params, before)

    def _after_step(self, state: PopulationState, x: Tensor, shown: Shown) -> None:
        shared = (torch.full((len(self),), state.step, device=self.device), self._lrs, x)
        for n, i in enumerate(self.chain):
            if not (i.overrides("after_step") and i.active(state.step)):
                continue
            with torch.no_grad():
                self._act(n, state, shared, shown)
            if i.overrides("renew"):
                self._renew(n, state)

    def _act(self, n: int, state: PopulationState, shared: tuple, shown: Shown) -> None:
        """What an intervention does after a step, to all members, in place."""
        needs = self.chain[n].needs & SEEN

        def one(values: Any, params: Params, moments: Moments, state: State, shared: tuple, shown: dict) -> Any:
            i, seen = with_numbers(self.chain[n], values), Seen(*shared, **{name: shown[name] for name in needs})
            new = i.after_step(self.network, params, moments, state, seen) or Change()
            return new.params, new.moments, new.state

        if isinstance(shown, dict):
            shown = {name: shown[name] for name in needs}
        if not self._gradients.members.apart:
            args = (state.params, _without_count(state.moments), state.interventions[n])
            new = self._gradients.members.in_place(one, n, self._numbers[n], *args, shared, shown)
            _apply(Change(*new), *args)
            return
        for m in range(len(self)):
            part = self._part(state, m)
            args = (part.params, _without_count(part.moments), part.interventions[n])
            mine = shown[m] if isinstance(shown, list) else at(shown, m)
            _apply(Change(*one(at(self._numbers[n], m), *args, at(shared, m), mine)), *args)

    def _part(self, state: PopulationState, m: int) -> PopulationState:
        """One member's part of the state; made once, as making views takes its time."""
        if self._views is None or self._views[0] is not state:
            self._views = (state, [_member(state, m) for m in range(len(self))])
        return self._views[1][m]

    def _renew(self, n: int, state: PopulationState) -> None:
        """Draws for the members that are due."""
        due = state.interventions[n]["due"]
        if not due.any():
            return
        for m in due.nonzero().flatten().tolist():
            if state.diverged_at[m] < 0:
                one, member = _member(state, m), self.members[m]
                carried, draw = one.interventions[n], Draw(member.seed, state.step, n)
                with torch.no_grad():
                    new = member.chain[n].renew(self.network, one.params, one.moments, carried, draw)
                _apply(new, one.params, one.moments, carried)


def _member(state: PopulationState, m: int) -> PopulationState:
    """One member's part of the state, as views that write through."""
    moments = {kind: group if kind == "step" else at(group, m) for kind, group in state.moments.items()}
    return PopulationState(
        at(state.params, m), at(state.initial, m), moments, at(state.interventions, m), state.step, [-1]
    )


def _without_count(moments: Moments) -> Moments:
    """The moments that have a member axis."""
    return {kind: group for kind, group in moments.items() if kind != "step"}


def _apply(change: Change | None, params: Params, moments: Moments, state: State) -> None:
    for buffers, new in ((params, change.params), (moments, change.moments), (state, change.state)) if change else ():
        write(buffers, new)

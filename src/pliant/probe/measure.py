"""How well networks can still be fitted to fresh targets, against a network that has never been trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pliant.adapter import How, bare
from pliant.functional.statistics import Interval, interval
from pliant.modules import purified
from pliant.network import Network, Params
from pliant.optim import Optimizer
from pliant.optim.torch_optimizer import several
from pliant.probe.refit import Refits, Start, refit
from pliant.probe.settings import Training, training
from pliant.probe.targets import Probe, Sines, Taken, outputs, part, samples

FRESH = "fresh"
MARGIN = 0.05
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # gone from a module that is purified


@dataclass(frozen=True)
class Plasticity:
    """What the probe found: one curve a target for every checkpoint and for fresh networks.

    `plasticity`, `increase` and `verdict` count final losses up to that of the constant predictor: beyond it nothing is
    left to lose, and one refit that blows up would drown all others. Curves are as they are.

    Attributes:
        names: of the checkpoints; `"fresh"` is the control.
        unit: of all losses.
        steps: `(points,)`, the optimizer steps after which the losses were taken.
        curves: losses by name, `(targets, points)`.
        baseline: the loss of the best constant predictor, `(targets,)`.
        diverged: how many refits lost their finite loss, by name.

    >>> curves = {"now": np.array([[1.0, 0.5], [1.0, 0.7]]), "fresh": np.array([[1.0, 0.1], [1.0, 0.2]])}
    >>> found = Plasticity(("now",), "nats", np.array([0, 10]), curves, np.ones(2), {"now": 0, "fresh": 0})
    >>> round(found.increase("now").mean, 2), found.verdict("now")
    (0.45, 'cannot tell')
    """

    names: tuple[str, ...]
    unit: str
    steps: np.ndarray
    curves: dict[str, np.ndarray]
    baseline: np.ndarray
    diverged: dict[str, int]

    def initial(self, name: str) -> np.ndarray:
        """The loss before the first step, `(targets,)`."""
        return self.curves[name][:, 0]

    def final(self, name: str) -> np.ndarray:
        """The loss after the budget, `(targets,)`."""
        return self.curves[name][:, -1]

    def area(self, name: str) -> np.ndarray:
        """The mean height of the curve, `(targets,)`: the area under it over the number of steps."""
        return np.trapezoid(self.curves[name], self.steps, axis=1) / self.steps[-1]

    def plasticity(self, name: str) -> Interval:
        """P = baseline - E[final loss], with its interval over targets (P1 eq. 4; there the loss is not capped)."""
        return interval(self.baseline - self._capped(name))

    def increase(self, name: str) -> Interval:
        """The final loss less that of a fresh network on the same target: the loss of plasticity, as P1 plots it."""
        return interval(self._capped(name) - self._capped(FRESH))

    def verdict(self, name: str) -> str:
        """`"lost"`, `"healthy"` or `"cannot tell"`, of the interval of `increase` and a margin.

        Lost where the interval lies above 0 and its mean above the margin, healthy where it ends below the margin. The
        margin, 5 % of the constant predictor's loss, is ours.
        """
        return verdict(self.increase(name), float(self.baseline.mean()))

    def _capped(self, name: str) -> np.ndarray:
        """The final loss, at most that of the constant predictor: also where it is infinite or no number."""
        return np.fmin(self.final(name), self.baseline)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON; None where a loss is not finite."""
        return {
            "unit": self.unit,
            "steps": self.steps.tolist(),
            "baseline": self.baseline.tolist(),
            "diverged": self.diverged,
            "curves": {name: [_finite(row) for row in curve] for name, curve in self.curves.items()},
            "increase": {name: self.increase(name)._asdict() for name in self.names},
            "verdict": {name: self.verdict(name) for name in self.names},
        }

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "initial", "final", "area", "against fresh (95 %)", "")]
        for name in (*self.names, FRESH):
            numbers = [f"{values.mean():.3f}" for values in (self.initial(name), self.final(name), self.area(name))]
            gap = self.increase(name)
            against = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if name != FRESH else ""
            rows.append((name, *numbers, against, self.verdict(name) if name != FRESH else "control"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"probe loss ({self.unit}), {len(self.baseline)} targets, {self.steps[-1]} steps"
        return "\n".join([f"{head}, constant predictor {self.baseline.mean():.3f}", *lines])


def plasticity(
    model: nn.Module,
    *,
    inputs: Any,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Optimizer | Training,
    fresh: Callable[[], nn.Module] | None = None,
    probe: Probe | None = None,
    checkpoints: Mapping[str, Params] | None = None,
    actions: Tensor | None = None,
    targets: int = 10,
    steps: int = 2000,
    batch_size: int = 128,
    carry: bool = False,
    purify: bool = False,
    call: How | None = None,
    seed: int = 0,
) -> Plasticity:
    """Refits copies of a network to fresh targets for a fixed budget, next to networks that were never trained.

    P(theta) = b - E_l[l(theta*)], where theta* is what the user's optimizer makes of theta in `steps` steps on a fresh
    target l and b the loss of the best constant predictor (P1 eq. 4). All targets of all checkpoints are one
    population; every checkpoint and every fresh network faces the same targets. The model is never touched. What is
    frozen (`requires_grad=False`), or not held by an optimizer of torch.optim, stays as it is in all refits, and fresh
    networks have it from the model.

    Args:
        model: what is measured; a module without dropout and running statistics (else `purify`).
        inputs: the probe's inputs, a tensor (or a tree of tensors) with samples first; P1 takes the replay buffer's.
        optimizer: that of the main task, or several in a list: torch's SGD, Adam, AdamW, RMSprop, Muon, or ours. It is
            read only; each parameter group trains as its own settings say.
        fresh: a function that builds an untrained network; without it, layers are drawn anew by `reset_parameters`.
        probe: the targets; P1's sines if None.
        checkpoints: state dicts of the same model by name, to be measured in place of its present state (`"now"`).
        actions: the taken action of every input, `(samples,)`: then only that output is fitted.
        targets: how many, each with a fresh network of its own (P1: 10).
        steps: of each refit (P1: 2000).
        batch_size: of the refits.
        carry: whether the optimizer's present state is carried into the refits of the checkpoints; else it is fresh.
        purify: measure a copy without dropout, with batch normalisation by each batch.
        call: what the model computes where that is not its `forward` (an agent without one): the name of another
            method, or a function of the model and its inputs, as in `call=lambda agent, x: agent.actor(x)`.
        seed: of targets, fresh networks and minibatches.

    Raises `ValueError` where these do not fit.

    Source: P1 sections 3.1, 5.1, A.2; targets, budget and offsets as there. Deviations: the control is a fresh network,
    one a target, not the network's own initial parameters; the paper does not say whether the optimizer's state is
    carried, which outputs are fitted and how large batches are.

    >>> from pliant.optim import Adam
    >>> from pliant.probe import RandomLabels
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> found = plasticity(model, inputs=x, optimizer=Adam(1e-2), probe=RandomLabels(2), targets=3, steps=20)
    >>> found.curves["fresh"].shape
    (3, 11)
    """
    network, params = pure(model, inputs, fresh, purify, optimizer, call)
    how = training(optimizer, bare(model), carry)
    if carry and not how.moments:
        got = "a fresh one: leave carry out, or take steps"
        if not how.optimizer.init(params):
            got = f"{how.optimizer!r}, which never has any: leave carry out"
        raise ValueError(f"expected an optimizer with state to carry, got {got}")
    probe = checked(probe, targets)
    if not (checkpoints is None or isinstance(checkpoints, Mapping)):
        raise ValueError(
            f"expected state dicts by name, got {type(checkpoints).__name__}: write checkpoints={{'then': state_dict}}"
        )
    if actions is not None:
        probe = Taken(probe, actions)
    if FRESH in (checkpoints or {}):
        raise ValueError(f"expected another name of a checkpoint than {FRESH!r}, which the control has")
    measured = {"now": params} if checkpoints is None else {n: alike(network, p, n) for n, p in checkpoints.items()}
    starts: list[Start] = []
    for name in (*measured, FRESH):
        for target in range(targets):
            at = measured[name] if name != FRESH else draw(network, params, seed, target)
            y = probe.targets(network, at, inputs, number(seed, target, 0))
            starts.append(Start(at, y, {} if name == FRESH else how.moments))
    refuse_nonfinite(network, measured, inputs)
    found = refit(network, probe, starts, inputs, how, steps=steps, batch_size=batch_size, seed=seed)
    baseline = np.array([probe.baseline(start.y) for start in starts[-targets:]])
    return report(found, tuple(measured), probe, baseline, targets)


def checked(probe: Probe | None, targets: int) -> Probe:
    """The probe, P1's sines if there is none; `ValueError` for what is no probe, and for too few targets."""
    if not isinstance(targets, Integral) or targets < 2:
        raise ValueError(f"expected at least 2 targets, for an interval, got {targets!r}")
    if not (probe is None or isinstance(probe, Probe)):
        raise ValueError(f"expected a probe such as Sines() or RandomLabels(10), got {probe!r}: write probe=Sines()")
    return probe or Sines()


def report(found: Refits, names: tuple[str, ...], probe: Probe, baseline: np.ndarray, targets: int) -> Plasticity:
    """The refits of several checkpoints and the control, in this order, as one `Plasticity`."""
    rows = {name: slice(i * targets, (i + 1) * targets) for i, name in enumerate((*names, FRESH))}
    return Plasticity(
        names, probe.unit, found.steps, {name: found.scores[at] for name, at in rows.items()}, baseline,
        {name: int(found.diverged[at].sum()) for name, at in rows.items()},
    )  # fmt: skip


def verdict(gap: Interval, baseline: float) -> str:
    """What an interval of the loss of plasticity says (see `Plasticity.verdict`)."""
    if gap.low > 0 and gap.mean > MARGIN * baseline:
        return "lost"
    return "healthy" if gap.high < MARGIN * baseline else "cannot tell"


def pure(
    model: nn.Module,
    inputs: Any,
    fresh: Callable[[], nn.Module] | None,
    purify: bool,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Optimizer | Training | None = None,
    call: How | None = None,
) -> tuple[Network, Params]:
    """The model as a pure function on its own device, with the unit map's example, and a copy of its parameters.

    Restricted to what is trained, where something is frozen or not held by an optimizer of torch.optim.
    """
    original = bare(model)
    if isinstance(fresh, nn.Module) or not (fresh is None or callable(fresh)):
        raise ValueError(
            f"expected fresh to be a function that builds a network, got {type(fresh).__name__}: write fresh=make_model"
        )
    if not samples(inputs):
        raise ValueError(f"expected inputs with samples along the first axis, got {type(inputs).__name__}")
    if fixed := [leaf for leaf in tree_leaves(inputs) if not isinstance(leaf, Tensor)]:
        raise ValueError(
            f"expected tensors as inputs, got a {type(fixed[0]).__name__} ({fixed[0]!r}) among them: write "
            "torch.tensor(...) for a number, or a module that holds what is no tensor"
        )
    lengths = sorted({len(leaf) for leaf in samples(inputs)})
    if len(lengths) > 1:
        raise ValueError(
            "expected as many samples in each of the inputs, along its first axis, got "
            f"{' and '.join(map(str, lengths))}: samples that depend on each other (nodes of a graph) cannot be probed "
            "in batches; what belongs to all samples goes into a module that holds it"
        )
    if not list(original.parameters()):
        raise ValueError(f"expected a model with parameters, got a {type(original).__name__} without any")
    module = purified(original, call).to(next(original.parameters()).device) if purify else original
    network = Network(module, part(inputs, slice(0, 4)), None if purify else call, fresh)
    params = network.params()
    try:
        with torch.no_grad():
            network(params, network.example)
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the model cannot be called on the inputs: {line}") from error
    trained = _trained(original, optimizer)
    return (network if len(trained) == len(params) else network.restricted(trained)), params


def _trained(model: nn.Module, optimizer: Any) -> list[str]:
    """Names of the parameters that the user's own training changes."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(optimizer, (torch.optim.Optimizer, list, tuple)):
        held = {p for one in several(optimizer) for group in one.param_groups for p in group["params"]}
        named = {name: p for name, p in named.items() if p in held}
    if not named:
        raise ValueError(
            "expected parameters that are trained, got a model with all of them frozen: write requires_grad_(True)"
        )
    return list(named)


def alike(network: Network, params: Mapping[str, Tensor], what: str) -> Params:
    """A state dict's parameters, if they fit the network."""
    built = {name: tuple(p.shape) for name, p in network.module.named_parameters()}
    wrong = sorted(n for n in built if n not in params or tuple(params[n].shape) != built[n])
    known = {*network.module.state_dict()}
    extra = sorted(name for name in set(params) - known if name.rpartition(".")[2] not in STATISTICS)
    if wrong or extra:
        first = (wrong + extra)[0]
        sizes = [tuple(params[first].shape) if first in params else "nothing", built.get(first, "nothing")]
        raise ValueError(
            f"expected the same architecture, got {what} with {sizes[0]} where a fresh network has {sizes[1]} "
            f"({first}): hand over the function that built it"
        )
    for name, held in network._buffers.items():
        if held.is_floating_point() and name in params and not torch.equal(params[name].to(held), held):
            raise ValueError(
                f"expected the buffers of the model, got {what} with another {name}: write model.load_state_dict(...) "
                "and measure each by itself, or purify=True for batch statistics"
            )
    return {name: params[name].detach().clone() for name in built}


def refuse_nonfinite(network: Network, measured: Mapping[str, Params], inputs: Any) -> None:
    """Networks that give no finite outputs cannot be compared."""
    for name, params in measured.items():
        found = [t for t in tree_leaves(outputs(network, params, inputs)) if isinstance(t, Tensor)]
        if not all(t.isfinite().all() for t in found):
            raise ValueError(f"expected finite outputs, got NaN or infinity from {name!r} on these inputs")


def draw(network: Network, like: Params, seed: int, target: int) -> Params:
    """The fresh network that is the control of a target; what is never trained is as in `like`."""
    fresh = network.fresh(number(seed, target, 1))
    return {name: fresh[name].to(p) if name in network.names else p.clone() for name, p in like.items()}


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def number(seed: int, target: int, purpose: int) -> int:
    """A seed for one purpose of one target: targets (0), controls (1) and repairs (2) share no numbers."""
    words = [seed, target, purpose, *b"probe"]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)

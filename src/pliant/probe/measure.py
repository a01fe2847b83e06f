"""How well networks can still be fitted to fresh targets, against a network that has never been trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pliant.adapter import How, bare
from pliant.diagnostics._poke import ordered
from pliant.modules import purified
from pliant.network import Network, Params
from pliant.optim import Optimizer
from pliant.optim.torch_optimizer import several
from pliant.probe.budget import Budget, chosen
from pliant.probe.draws import draw, number
from pliant.probe.padding import masked
from pliant.probe.refit import Refits, Start, refit
from pliant.probe.result import FRESH, Plasticity
from pliant.probe.settings import Training, training
from pliant.probe.targets import Probe, Sines, Taken, outputs, part, samples
from pliant.sites import several_inputs
from pliant.words import first_line

GRAPH = (
    "samples that depend on each other (nodes of a graph) cannot be probed in batches; what belongs to all samples "
    "goes into a module that holds it, and a sample is then a whole graph"
)
TURNED = 8  # samples whose order is turned, to see whether it matters
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # gone from a module that is purified


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
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int = 128,
    carry: bool = False,
    purify: bool = False,
    call: How | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Plasticity:
    """Refits copies of a network to fresh targets for a budget, next to networks that were never trained.

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
        steps: of each refit (P1: 2000). If None, the smallest of a few budgets at which fresh networks learn control
            targets, which are not used afterwards.
        lr: learning rate of the refits; if None, the optimizer's, under a scheduler the one before it set in.
        batch_size: of the refits.
        carry: whether the optimizer's present state is carried into the refits of the checkpoints; else it is fresh.
        purify: measure a copy without dropout, with batch normalisation by each batch.
        call: what the model computes where that is not its `forward` (an agent without one): the name of another
            method, or a function of the model and its inputs, as in `call=lambda agent, x: agent.actor(x)`.
        mask: of sequences, `(samples, tokens)` and boolean: False at padding, of which nothing is asked, in a network
            that answers for each token.
        seed: of targets, fresh networks and minibatches.

    Raises `ValueError` where these do not fit.

    Source: P1 sections 3.1, 5.1, A.2; targets, budget and offsets as there. Deviations: the control is a fresh network,
    one a target, not the network's own initial parameters; the paper does not say whether the optimizer's state is
    carried, which outputs are fitted and how large batches are.

    >>> from pliant.optim import Adam
    >>> from pliant.probe import FreshLabels
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> found = plasticity(model, inputs=x, optimizer=Adam(1e-2), probe=FreshLabels(2), targets=3, steps=20)
    >>> found.curves["fresh"].shape
    (3, 11)
    """
    network, params = pure(model, inputs, fresh, purify, optimizer, call)
    how = training(optimizer, bare(model), carry, lr)
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
    if mask is not None:
        before = probe
        probe, _ = masked(probe, mask, network, params, inputs)
        if probe is before:
            warnings.warn(
                f"mask= has no effect: {type(bare(model)).__name__} gives no output for each token", stacklevel=2
            )
    if actions is not None:
        probe = Taken(probe, actions)
    if FRESH in (checkpoints or {}):
        raise ValueError(f"expected another name of a checkpoint than {FRESH!r}, which the control has")
    measured = {"now": params} if checkpoints is None else {n: alike(network, p, n) for n, p in checkpoints.items()}
    refuse_nonfinite(network, measured, inputs)
    budget = chosen(network, params, inputs, how, probe, steps, batch_size, seed)
    starts: list[Start] = []
    for name in (*measured, FRESH):
        for target in range(targets):
            at = measured[name] if name != FRESH else draw(network, params, seed, target)
            y = probe.targets(network, at, inputs, number(seed, target, 0))
            starts.append(Start(at, y, {} if name == FRESH else how.moments))
    found = refit(network, probe, starts, inputs, how, steps=budget.steps, batch_size=batch_size, seed=seed)
    baseline = np.array([probe.baseline(start.y) for start in starts[-targets:]])
    return report(found, tuple(measured), probe, baseline, targets, how, budget)


def checked(probe: Probe | None, targets: int) -> Probe:
    """The probe, P1's sines if there is none; `ValueError` for what is no probe, and for too few targets."""
    if not isinstance(targets, Integral) or targets < 2:
        raise ValueError(f"expected at least 2 targets, for an interval, got {targets!r}")
    if not (probe is None or isinstance(probe, Probe)):
        raise ValueError(f"expected a probe such as Sines() or FreshLabels(10), got {probe!r}: write probe=Sines()")
    return probe or Sines()


def report(
    found: Refits,
    names: tuple[str, ...],
    probe: Probe,
    baseline: np.ndarray,
    targets: int,
    how: Training,
    budget: Budget,
) -> Plasticity:
    """The refits of several checkpoints and the control, in this order, as one `Plasticity`."""
    rows = {name: slice(i * targets, (i + 1) * targets) for i, name in enumerate((*names, FRESH))}
    return Plasticity(
        names, probe.unit, found.steps, {name: found.scores[at] for name, at in rows.items()}, baseline,
        {name: int(found.diverged[at].sum()) for name, at in rows.items()}, how.optimizer.lr,
        tuple(note for note in (budget.note, how.note) if note),
    )  # fmt: skip


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
            f"{' and '.join(map(str, lengths))}: {GRAPH}"
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
        line = first_line(error)
        if _callable(network, params, inputs):
            raise ValueError(f"the model can be called on all inputs, not on some of them ({line}): {GRAPH}") from error
        raise ValueError(f"the model cannot be called on the inputs: {line}{several_inputs(inputs)}") from error
    few = part(inputs, slice(0, TURNED))
    if ordered(network, params, few, outputs(network, params, few)):
        raise ValueError(f"expected outputs that do not depend on the order of the samples, got others: {GRAPH}")
    trained = _trained(original, optimizer)
    return (network if len(trained) == len(params) else network.restricted(trained)), params


def _callable(network: Network, params: Params, inputs: Any) -> bool:
    """Whether the network takes all inputs at once."""
    try:
        with torch.no_grad():
            network(params, inputs)
    except Exception:
        return False
    return True


def _trained(model: nn.Module, optimizer: Any) -> list[str]:
    """Names of the parameters that the user's own training changes."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(optimizer, (torch.optim.Optimizer, list, tuple)):
        held = {p for one in several(optimizer) for group in one.param_groups for p in group["params"]}
        named = {name: p for name, p in named.items() if p in held}
    if not named:
        frozen = not any(p.requires_grad for p in model.parameters())
        got = "a model with all of them frozen: write requires_grad_(True)"
        held = "an optimizer that holds none of the model's: write torch.optim.Adam(model.parameters()), or the like"
        raise ValueError(f"expected parameters that are trained, got {got if frozen else held}")
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

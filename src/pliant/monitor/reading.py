"""What diagnostics read of a watched model at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pliant.diagnostics import Diagnostic
from pliant.monitor.once import Once
from pliant.monitor.past import Past
from pliant.monitor.sinks import Row
from pliant.monitor.subject import Subject
from pliant.network import Trace

FROZEN = (
    "no parameter of the model is trained: gradients, kernels and curvature are measured as if all were; where it is "
    "to be trained, write requires_grad_(True)"
)


class Reading(NamedTuple):
    """The numbers of each diagnostic, and why others have none."""

    found: dict[Diagnostic, Row]
    failed: dict[Diagnostic, Exception]


def read(subject: Subject, due: Sequence[Diagnostic], past: Past, once: Once) -> Reading:
    """Measures what is due; the trace of this moment is the next one's earlier trace, where nothing was marked."""
    needs = frozenset[str]().union(*(diagnostic.needs for diagnostic in due))
    if "earlier" in needs:
        needs |= {"trace"}  # the next time's
    before: dict[str, Any] = {"initial": past.initial, "earlier": past.earlier}
    if "update" in needs:
        before["update"] = past.update(subject.params())
    seen = subject.observe(needs, before)
    if subject.frozen and any("gradients" in d.needs or d.cost == "full" for d in due):
        once("frozen", FROZEN)
    found: dict[Diagnostic, Row] = {}
    failed: dict[Diagnostic, Exception] = {}
    for diagnostic in due:
        try:
            numbers = {name: torch.as_tensor(value).double() for name, value in diagnostic.measure(seen).items()}
            found[diagnostic] = dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))
        except Exception as error:
            failed[diagnostic] = error
    if "earlier" in needs and not past.marked:
        past.earlier = seen.trace
    if seen.trace is not None and (where := not_finite(seen.trace)):
        once("finite", f"the activations are not finite on the probe, first {where}")
    return Reading(found, failed)


def not_finite(trace: Trace) -> str:
    """Where in a forward pass numbers were first not finite; empty where all are.

    >>> from pliant.network import Site
    >>> bad = torch.tensor([[torch.nan]])
    >>> not_finite(Trace(bad, bad, {"act": Site(torch.ones(1, 1), bad, bad)}))
    "in what leaves 'act'"
    """
    ends = [trace.features, *(t for t in tree_leaves(trace.output) if isinstance(t, Tensor))]
    if all(t.isfinite().all() for t in ends):
        return ""
    for name, site in trace.sites.items():
        if not site.pre.isfinite().all():
            return f"in what enters {name!r}"
        if not site.post.isfinite().all():
            return f"in what leaves {name!r}"
    return "in the features or the output"

"""What a monitor keeps of earlier moments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pliant.network import Params, Trace
from pliant.sites import Site


class Past:
    """Parameters at the start and at the call before, and the trace of an earlier moment; None where nobody asks.

    Args:
        now: the parameters at this moment.
        initial: those before training, if they are wanted and known.
        wanted: which of `"initial"`, `"update"`, `"earlier"` diagnostics ask for.

    Attributes:
        fresh: whether `before` are the parameters at the call before.
        marked: whether `earlier` stays until the next mark.
    """

    def __init__(self, now: Params, initial: Mapping[str, Tensor] | None, wanted: Collection[str]):
        self.initial = _copies(now) if "initial" in wanted else None
        if self.initial is not None and initial is not None:
            if odd := [name for name, p in now.items() if name not in initial or initial[name].shape != p.shape]:
                raise ValueError(
                    f"expected initial to hold the parameters of the model, {odd[0]!r} is missing or differs"
                )
            self.initial = {name: initial[name].detach().to(p, copy=True) for name, p in now.items()}
        self.before = _copies(now) if "update" in wanted else None
        self.earlier: Trace | None = None
        self.fresh, self.marked = True, False

    def update(self, now: Params) -> Params | None:
        """What changed since the call before."""
        return None if self.before is None else {name: p - self.before[name].to(p) for name, p in now.items()}

    def keep(self, now: Params) -> None:
        """Takes these for the parameters at the call before the next one."""
        assert self.before is not None
        torch._foreach_copy_([self.before[name] for name in now], list(now.values()))

    def renew(self, now: Params, new: Collection[str], layers: bool) -> None:
        """Begins anew for parameters that are `new`, and with everything on the way where `layers` are others."""
        if self.initial is not None:
            old = {name: p for name, p in self.initial.items() if name not in new}
            self.initial = {name: old[name].to(p) if name in old else p.clone() for name, p in now.items()}
        if self.before is not None:
            old = {name: p for name, p in self.before.items() if name not in new}
            self.fresh = self.fresh and old.keys() == now.keys()
            self.before = {name: old[name].to(p) if name in old else p.clone() for name, p in now.items()}
        if layers:
            self.earlier = None

    def state_dict(self) -> dict[str, Any]:
        """All of it, as copies and plain containers."""
        earlier = None
        if self.earlier is not None:
            sites = {name: tuple(t.clone() for t in site) for name, site in self.earlier.sites.items()}
            output = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, self.earlier.output)
            earlier = {"output": output, "features": self.earlier.features.clone(), "sites": sites}
        return {
            "initial": self.initial and _copies(self.initial),
            "before": self.before and _copies(self.before),
            "earlier": earlier,
            "fresh": self.fresh,
            "marked": self.marked,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on where the state was taken; raises `ValueError`, and changes nothing, where it does not fit."""
        for kind, own in (("initial", self.initial), ("before", self.before)):
            there = saved[kind]
            shapes = [{n: tuple(p.shape) for n, p in params.items()} if params else {} for params in (own, there)]
            if own is not None and shapes[0] != shapes[1]:
                odd = next(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
                raise ValueError(
                    f"expected the state of a monitor of this model with the same diagnostics, {odd!r} is "
                    f"{shapes[1].get(odd, 'not there')} in its {kind} parameters"
                )
        for kind, own in (("initial", self.initial), ("before", self.before)):
            for name, p in (own or {}).items():
                p.copy_(saved[kind][name])
        if (earlier := saved["earlier"]) is not None:
            like = next(iter((self.initial or self.before or {"": earlier["features"]}).values())).device
            there = tree_map(lambda t: t.to(like, copy=True) if isinstance(t, Tensor) else t, earlier)
            sites = {name: Site(*parts) for name, parts in there["sites"].items()}
            self.earlier = Trace(there["output"], there["features"], sites)
        self.fresh, self.marked = saved["fresh"], saved["marked"]


def _copies(params: Mapping[str, Tensor]) -> Params:
    return {name: p.detach().clone() for name, p in params.items()}

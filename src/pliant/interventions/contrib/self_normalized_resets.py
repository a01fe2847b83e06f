"""Self-normalized resets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pliant.interventions._recycling import activity, none_due, recycle, refuse_without_units
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class SelfNormalizedResets(Intervention):
    """A hidden unit is drawn anew when it has been silent for longer than its own history makes likely.

    A unit fires in a step if any sample of the batch gives it a positive activation; a step without a sample (of an
    expert without tokens) does not count. Its last `history` times between firings are kept; once there are so many, it
    is reset when the steps since its last firing exceed their (1 - p) quantile (the k-th smallest with
    k = ceil((1 - p) history)). After a reset its history starts again.

    A unit whose times between firings stay alike is reset all the same, for chance: in a share
    1 - k / (history + 1) of these times or a little more, so that p buys 2 p with the shortest history, 1 / p, and p
    with a long one. At p = 0.01, a unit that fires in one step of twenty is reset in 0.022 of them with a history of
    100, in 0.015 with 200. A history below 1 / p is refused: its quantile would be the largest of the few times
    (0.11 of them with a history of 10, whatever p below 0.1).

    What a reset does, and what it leaves alone, is as in `ReDo`.

    Args:
        p: rejection probability, in (0, 1): the smaller, the longer the silence that is tolerated.
        history: number of inter-firing times kept a unit; at least 1 / p.
        moments: of the entries that were reset: `"clear"` or `"keep"`; the step count is left alone (see `cleared`).
        side_effects: whether to draw units anew whose reset moves others.

    >>> from torch import nn
    >>> network = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), example=torch.ones(1, 1))
    >>> method = SelfNormalizedResets(p=0.5, history=3)
    >>> method.init(network, network.params())["times"]["1"].shape
    torch.Size([2, 3])

    Source: Farias & Jozefiak 2025. Deviations: the history is a window of fixed length where the paper speaks of the
    distribution of inter-firing times; a unit that never fired often enough to fill it is never reset.
    """

    reference: ClassVar[str] = "farias2025"
    touches: ClassVar[str] = "units, moments"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    p: float
    history: int
    moments: Literal["clear", "keep"] = "clear"
    side_effects: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"expected p of SelfNormalizedResets to be in (0, 1), got {self.p!r}")
        if not (isinstance(self.history, int) and self.history * self.p >= 1 - 1e-9):
            raise ValueError(
                f"expected history of SelfNormalizedResets to be a whole number of at least 1 / p = {1 / self.p:.4g}, "
                f"below which p sets no threshold, got {self.history!r}"
            )
        check_choice("SelfNormalizedResets", "moments", self.moments, ("clear", "keep"))

    def init(self, network: Network, params: Params) -> State:
        refuse_without_units(network, "SelfNormalizedResets", self.side_effects)
        none = none_due(network, params)
        counts = {name: units.long() for name, units in none["units"].items()}
        times = {name: count[:, None].repeat(1, self.history) for name, count in counts.items()}
        return {**none, "times": times, "count": counts, "silent": {name: c.clone() for name, c in counts.items()}}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        assert seen.activations is not None
        new: State = {"units": {}, "times": {}, "count": {}, "silent": {}}
        for units in network.units:
            silent, count, times = (state[kind][units.name] for kind in ("silent", "count", "times"))
            h = activity(units, seen.activations)
            if h is None:
                new["units"][units.name] = torch.zeros(units.size, dtype=torch.bool, device=count.device)
                continue
            fired = (h > 0).any(0)
            silent = silent + 1
            place = torch.arange(self.history, device=count.device) == (count % self.history)[:, None]
            times = torch.where(fired[:, None] & place, silent[:, None], times)
            count = count + fired
            threshold = _quantile(times, self.p)
            new["units"][units.name] = ~fired & (count >= self.history) & (silent > threshold)
            new["times"][units.name], new["count"][units.name] = times, count
            new["silent"][units.name] = torch.where(fired, 0, silent)
        return Change(state={"due": torch.cat(list(new["units"].values())).any(), **new})

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        chosen = state["units"]
        new = recycle(
            network, chosen, params, moments, draw, side_effects=self.side_effects, clear=self.moments == "clear"
        )
        started = {
            kind: {name: torch.where(chosen[name], 0, values) for name, values in state[kind].items()}
            for kind in ("count", "silent")
        }
        return Change(new.params, new.moments, started)


def _quantile(times: torch.Tensor, p: float) -> torch.Tensor:
    """The (1 - p) quantile of each row, one of its entries; `p` may be a tensor."""
    history = times.shape[1]
    place = torch.as_tensor((1 - p) * history).ceil().long().clamp(1, history) - 1
    return torch.where(torch.arange(history, device=times.device) == place, times.sort(dim=1).values, 0).sum(1)

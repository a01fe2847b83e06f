"""The zoo's checks find what is planted: a check that cannot fail says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pliant import Monitor, Network
from pliant.units import Entries, UnitGroup
from tests.extras.zoo.checks import CHECKS
from tests.extras.zoo.networks import NETWORKS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def next_one(found: dict[str, Entries]) -> dict[str, Entries]:
    """Entries that belong to the next unit."""
    return {n: Entries(torch.where(e.codes < 0, -1, (e.codes + 1) % e.size), e.size) for n, e in found.items()}


def fed_by_others(units: UnitGroup) -> UnitGroup:
    return replace(units, incoming=next_one(units.incoming))


def unread(units: UnitGroup) -> UnitGroup:
    """Half of the reading entries forgotten."""
    kept = {n: Entries(torch.where(e.codes < e.size // 2, -1, e.codes), e.size) for n, e in units.outgoing.items()}
    return replace(units, outgoing=kept)


def read_by_others(units: UnitGroup) -> UnitGroup:
    return replace(units, outgoing=next_one(units.outgoing))


@pytest.mark.parametrize("name", ["vae", "dueling", "unet"])
@pytest.mark.parametrize("wrong", [fed_by_others, unread, read_by_others])
def test_wrong_maps_are_found(
    name: str, wrong: Callable[[UnitGroup], UnitGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Network.units.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Network, "units", property(lambda network: tuple(map(wrong, found(network)))))
    with pytest.raises(AssertionError):
        CHECKS["units"](NETWORKS[name])


def test_units_that_are_missed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Network.units.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Network, "units", property(lambda network: found(network)[1:]))
    with pytest.raises(AssertionError, match="by hand"):
        CHECKS["units"](NETWORKS["unet"])


def test_a_claim_that_units_may_be_reset_which_others_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Network.units.func  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Network, "units", property(lambda network: tuple(replace(u, exact=True) for u in found(network)))
    )
    with pytest.raises(AssertionError):
        CHECKS["units"](NETWORKS["densenet"])


def test_missing_and_doubled_sites_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Network.trace
    for change in (lambda sites: dict(list(sites.items())[1:]), lambda sites: {**sites, "again": sites["relu"]}):

        def trace(self: Network, *args: Any, change: Callable = change, **kwargs: Any) -> Any:
            found = whole(self, *args, **kwargs)
            return found._replace(sites=change(found.sites))

        monkeypatch.setattr(Network, "trace", trace)
        with pytest.raises(AssertionError, match="kernels"):
            CHECKS["sites"](NETWORKS["vae"])


def test_other_outputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda *args: whole(*args) + 1e-3)
    with pytest.raises(AssertionError):
        CHECKS["function"](NETWORKS["dueling"])


def test_a_monitor_that_draws_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Monitor.__call__
    monkeypatch.setattr(Monitor, "__call__", lambda *args: (torch.rand(1), whole(*args))[1])
    with pytest.raises(AssertionError):
        CHECKS["monitor"](NETWORKS["vae"])


def test_resets_that_move_the_function_and_resets_that_do_nothing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import pliant.interventions.redo as redo
    from pliant.interventions.base import Change

    whole = redo.recycle
    monkeypatch.setattr(redo, "recycle", lambda *args, **kwargs: Change())
    with pytest.raises(AssertionError, match="drawn anew"):
        CHECKS["redo"](NETWORKS["dueling"])

    def read_still(network: Any, *args: Any, **kwargs: Any) -> Any:
        change = whole(network, *args, **kwargs)
        read = {name for units in network.units for name in units.outgoing}
        fed = {name for units in network.units for name in units.incoming}
        return Change({name: p for name, p in change.params.items() if name not in read - fed}, change.moments)

    monkeypatch.setattr(redo, "recycle", read_still)
    with pytest.raises(AssertionError, match="not close"):
        CHECKS["redo"](NETWORKS["vae"])

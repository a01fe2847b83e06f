"""What every repair keeps, on every kind of network; a new one is found in its file."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch

import pliant.causes
from pliant.causes import EVERY, REPAIRS, HiddenSchedule, NormaliserScales, Repair, Repaired
from pliant.causes.repairs import axes
from pliant.interventions import Draw
from pliant.network import Network
from pliant.optim import Adam
from pliant.papers.toolbox import planted
from pliant.papers.toolbox.situations import PRESCRIBED
from pliant.plots.base import MECHANISMS
from tests.bitwise import assert_same, streams
from tests.interventions.nets import NETS
from tests.listed import assert_public, classes

KINDS = [kind for kind in classes(pliant.causes) if issubclass(kind, Repair) and not inspect.isabstract(kind)]
UNPLANTED = {"output layer"}  # one that holds a network back by more than its norm and its mean is not made by hand
every_repair = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def setting(net) -> tuple[Network, Repaired, torch.Tensor]:
    """An aged network: large weights, the first layer's to one side, a dead and a linear unit, a state without a 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, *net.shape, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(net.module().double(), example=x[:4])
    params = {name: 3 * p for name, p in network.fresh(1).items()}
    params[f"{net.layers[0]}.weight"] += 2
    params[f"{net.layers[0]}.weight"][0], params[f"{net.layers[0]}.bias"][0] = 0, -1
    params[f"{net.layers[0]}.bias"][1] = 90
    moments = Adam().init(params)
    for kind in ("exp_avg", "exp_avg_sq"):
        moments[kind] = {name: torch.ones_like(p) for name, p in params.items()}
    return network, Repaired(params, moments), x


def test_every_repair_is_listed() -> None:
    assert_public(KINDS)
    for kind in KINDS:
        assert kind in {type(repair) for repair in EVERY}, f"write in EVERY of repairs.py: {kind.__name__}()"
        assert kind.name in MECHANISMS, f'write in src/pliant/plots/base.py, in MECHANISMS, a colour of "{kind.name}"'
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_the_cause_of_every_repair_is_planted() -> None:
    setup = planted.EXPERIMENT.setup(planted.EXPERIMENT.settings("smoke"))
    for kind in KINDS:
        claimed = any(f": {kind.name} takes the largest share" in claim.text for claim in setup.claims)
        assert kind.name in UNPLANTED or claimed, (
            f"write in toolbox/planted a Plant of its own, in `damage`, and in toolbox/answers, in `causes`, that its "
            f"mechanism is {kind.name!r}, with a label"
        )


def test_the_cure_of_every_repair_that_it_asks_for_is_prescribed() -> None:
    for repair in REPAIRS:
        assert repair.name in PRESCRIBED, (
            f"write in toolbox/situations, in PRESCRIBED, the cures of {repair.name!r}, of those that `cures` makes"
        )


@every_repair
def test_says_what_it_mends_and_how_that_is_treated(kind) -> None:
    doc = inspect.getdoc(kind) or ""
    assert ">>> " in doc
    assert "Source: " in doc, "write at the end of the docstring: Source: ours; or the paper"
    for name in ("name", "kept", "undone", "cure"):
        assert getattr(kind, name, ""), f"write in {kind.__name__}: {name}: ClassVar[str] = ..., see Repair"
    assert pickle.loads(pickle.dumps(kind())) == kind()


@every_net
@every_repair
def test_gives_back_a_network_of_the_same_structure_and_leaves_its_own_alone(kind, net) -> None:
    network, before, x = setting(net)
    kept, stream, draw = copy.deepcopy(before), streams(), Draw(3, 0)
    after = kind().repair(network, before, x, draw)
    assert_same(tuple(before), tuple(kept))
    assert streams() == stream, "draws are those of `draw`"
    assert_same(tuple(kind().repair(network, before, x, draw)), tuple(after))
    assert list(after.params) == list(before.params)
    for name, p in after.params.items():
        assert (p.shape, p.dtype) == (before.params[name].shape, before.params[name].dtype), name
        assert p.isfinite().all(), name
    assert after.moments == {} or after.moments.keys() == before.moments.keys(), "{} is a fresh state"
    for kind_of, group in after.moments.items():
        assert group.keys() == before.moments[kind_of].keys()


@every_net
@every_repair
def test_evidence_is_finite_numbers(kind, net) -> None:
    network, before, x = setting(net)
    trace = network.trace(before.params, x, axes(network))
    found = kind().evidence(network, before, x, trace, network.fresh(2))
    assert all(isinstance(number, (int, float)) and math.isfinite(number) for number in found.values()), found


@every_repair
def test_something_is_mended(kind) -> None:
    network, before, x = setting(NETS["attention" if kind in (HiddenSchedule, NormaliserScales) else "MLP"])
    after = kind().repair(network, before, x, Draw(3, 0))
    moved = any(not torch.equal(p, before.params[name]) for name, p in after.params.items())
    assert moved or after.moments == {}

"""Definitions as text: alike exactly where the same is defined, whatever was added or moved since."""

from __future__ import annotations

import functools
import math
import pickle
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pliant.experiment import Arm, experiments
from pliant.interventions import L2, Chain, LayerNorm, ReDo
from pliant.nets import MLP
from pliant.optim import SGD, Adam
from pliant.own import Built
from pliant.probe import FreshLabels
from pliant.run.identity import canonical, code, definition, differences, edited, files, parts

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner).map(tuple) | st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


class Colour(Enum):
    RED = 1


def doubled(x: int) -> int:
    return 2 * x


@dataclass(frozen=True)
class Rate:
    rate: float
    steps: int = 5
    inner: Any = field(default_factory=lambda: SGD(0.1))

    def __call__(self, x: int) -> int:
        return x


@dataclass
class Loose:
    rate: float = 1.0


@given(NESTED, NESTED)
def test_texts_are_the_same_exactly_where_values_are(one: Any, two: Any) -> None:
    assert (canonical(one) == canonical(two)) == (_exactly(one) == _exactly(two))
    assert canonical(pickle.loads(pickle.dumps(one))) == canonical(one)


def _exactly(value: Any) -> Any:
    """A value that `==` tells apart to the bit and by kind; absolute paths are their last parts."""
    match value:
        case float():
            return ("float", "nan" if math.isnan(value) else value.hex())
        case str():
            return ("str", Path(value).name if "\0" not in value and Path(value).is_absolute() else value)
        case tuple() | list():
            return (type(value).__name__, *map(_exactly, value))
        case dict():
            return ("dict", sorted((_exactly(k), repr(_exactly(v))) for k, v in value.items()))
    return (type(value).__name__, value)


@given(st.floats(allow_nan=False))
def test_floats_are_exact(value: float) -> None:
    assert float(canonical(value)).hex() == value.hex()


@given(st.floats(allow_nan=False), st.dictionaries(st.sampled_from("bcdef"), st.integers(), max_size=5), st.randoms())
def test_a_new_field_with_a_default_and_another_order_change_nothing(
    rate: float, more: dict[str, int], random: Any
) -> None:
    named = {"__module__": "studies", "__qualname__": "Trial"}
    added = [(name, int, field(default=value)) for name, value in more.items()]
    random.shuffle(added)
    module = ModuleType("studies")
    sys.modules["studies"] = module
    try:
        before = module.Trial = make_dataclass("Trial", [("a", float)], frozen=True, namespace=named)  # type: ignore[attr-defined]
        was, parts_were = canonical(before(rate)), parts(before(rate))
        later = module.Trial = make_dataclass("Trial", [("a", float), *added], frozen=True, namespace=named)  # type: ignore[attr-defined]
        assert canonical(later(rate)) == was == f"studies.Trial(a={rate!r})"
        assert parts(later(rate)) == parts_were == {"kind": "studies.Trial", "a": repr(rate)}
        for name, value in more.items():
            assert canonical(replace(later(rate), **{name: value + 1})) != was
    finally:
        del sys.modules["studies"]


def test_import_paths_are_those_of_packages() -> None:
    assert canonical(Chain(LayerNorm(), L2(0.5))) == (
        "(pliant.interventions.LayerNorm(), pliant.interventions.L2(strength=0.5))"
    )
    assert canonical(MLP) == "pliant.nets.MLP"
    assert canonical(functools.partial(MLP, hidden=(8,))) == "pliant.nets.MLP[hidden=(8,)]"
    assert canonical(sys.modules["pliant.nets.mlp"]) == "pliant.nets.mlp"
    assert canonical(torch.nn.functional.cross_entropy) == "torch.nn.functional.cross_entropy"
    assert canonical(doubled).endswith("test_identity.doubled")
    assert canonical(Colour.RED).endswith("test_identity.Colour.RED")
    assert canonical(Rate(0.5).__call__) == f"{canonical(Rate)}(rate=0.5).__call__"
    planted = experiments()["toolbox/planted"].setup(experiments()["toolbox/planted"].tiers["smoke"]).arms["units-mlp"]
    assert canonical(planted.trial.chain) == "(pliant.papers.toolbox.planted.KillUnits(at=20),)"


def test_defaults_of_factories_count_and_numbers_of_numpy_are_numbers() -> None:
    assert canonical(Rate(0.5, inner=SGD(0.1))) == f"{canonical(Rate)}(rate=0.5)"
    assert canonical(Rate(np.float64(0.5), np.int64(6))) == f"{canonical(Rate)}(rate=0.5, steps=6)"  # type: ignore[arg-type]
    assert canonical({"b": {2, 1}, "a": torch.float32}) == "{'a': torch.float32, 'b': {1, 2}}"
    same = np.arange(3.0), torch.arange(3.0, dtype=torch.float64)
    assert canonical(same[0]) == canonical(same[1]) != canonical(same[0] + 1)


def test_folders_of_this_machine_define_nothing() -> None:
    assert canonical("/home/someone/mine.npz") == canonical(Path("/elsewhere/mine.npz")) == "'mine.npz'"
    assert canonical("mnist") == "'mnist'"


def test_files_of_the_users_are_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_net.py").write_text("raise SystemExit  # reading a source does not run it\n")
    (tmp_path / "mine.npz").write_bytes(b"1")
    net = Built("my_net:build")
    first = files((net, "mine.npz", MLP, torch.nn.functional.relu, "none.npz", doubled))
    assert sorted(first) == ["mine.npz", "my_net:build", __name__]
    assert files(str(tmp_path / "mine.npz")) == {"mine.npz": first["mine.npz"]}
    (tmp_path / "mine.npz").write_bytes(b"2")
    assert edited(first, files((net, "mine.npz"))) == ["mine.npz"]
    (tmp_path / "my_net.py").write_text("")
    assert edited(first, files((net, "mine.npz"))) == ["mine.npz", "my_net:build"]
    assert edited(None, files(net)) == edited({}, files(net)) == []


def test_what_has_no_import_path_is_refused() -> None:
    def inner() -> None: ...

    @dataclass(frozen=True)
    class Inner: ...

    for value in (lambda x: x, inner, Inner(), (1, {"a": inner})):
        with pytest.raises(ValueError, match=r"no import path: write a function of a module, or functools\.partial"):
            canonical(value)
    for value in (Loose(), object(), torch.nn.Linear(1, 1)):
        with pytest.raises(ValueError, match="is no definition: expected frozen dataclasses"):
            canonical(value)


def test_what_is_trained_is_told_by_part() -> None:
    experiment = experiments()["lyle2024/swiss_cheese"]
    setup = experiment.setup(experiment.tiers["smoke"])
    found = definition(setup.arms["l2"])
    assert found["chain"] == "(pliant.interventions.L2(normalisers=True, strength=0.001),)"
    assert found["net"] == "pliant.nets.MLP[hidden=(32, 32)]"
    assert "standardize" not in found
    trial = setup.arms["l2"].trial
    edited = Arm("another label", replace(trial, chain=Chain(L2(0.07, normalisers=True))))
    (told,) = differences(found, definition(edited))
    assert told == (
        "chain (pliant.interventions.L2(normalisers=True, strength=0.001),), "
        "here (pliant.interventions.L2(normalisers=True, strength=0.07),)"
    )
    raw = Arm("L2", replace(trial, standardize=False))
    assert differences(found, definition(raw)) == ["standardize the default, here False"]


def test_what_was_stored_under_a_former_name_is_the_same() -> None:
    stored = {"measures": "(pliant.trials.Causes(probe=pliant.probe.RandomLabels(classes=10)),)"}
    here = {"measures": "(pliant.trials.Causes(probe=pliant.probe.FreshLabels(classes=10)),)"}
    assert differences(stored, here) == []
    assert (
        differences({"task": "pliant.tasks.RandomLabels(every=1)"}, {"task": "pliant.tasks.RandomLabels(every=1)"})
        == []
    )
    assert canonical(FreshLabels(10)) == "pliant.probe.FreshLabels(classes=10)"


def test_arms_of_every_experiment_are_told_apart_where_they_train_differently() -> None:
    """An arm may be another one's under a second name, where two questions ask for the same."""
    for experiment in experiments().values():
        for settings in experiment.tiers.values():
            arms = experiment.setup(settings).arms.values()
            assert len({str(definition(arm)) for arm in arms}) == len({repr(arm.trial) for arm in arms})


def test_the_checksum_of_the_code_follows_what_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pliant.run.identity as identity

    (tmp_path / "tasks").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "tasks" / "one.py").write_text("a = 1\n")
    (tmp_path / "study.py").write_text("b = 1\n")
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)
    monkeypatch.setattr(identity, "_source", lambda name: tmp_path / "study.py" if "identity" in name else None)
    monkeypatch.setattr(identity, "ELSEWHERE", {"report", "study.py"})
    found = [code(ReDo(0.1, every=10)), code((Rate(1.0), Adam()))]
    (tmp_path / "report" / "page.py").write_text("c = 1\n")
    assert [code(ReDo(0.1, every=10)), code((Rate(1.0), Adam()))] == found
    (tmp_path / "study.py").write_text("b = 2\n")
    assert code(ReDo(0.1, every=10)) == found[0]
    assert code((Rate(1.0), Adam())) != found[1]
    (tmp_path / "tasks" / "one.py").write_text("a = 2\n")
    assert code(ReDo(0.1, every=10)) != found[0]

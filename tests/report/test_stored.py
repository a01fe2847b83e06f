"""Runs opened from their folders: what is read, when, and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pliant import cite
from pliant.claims import Claim
from pliant.experiment import experiments
from pliant.report.stored import bibliography, find_run, opened
from pliant.run.cells import Columns
from pliant.run.files import read_json, write_json
from pliant.run.store import Store, folder_name
from tests.report.stores import KNOWN, run, written
from tests.report.synthetic import SETUP, Settings, results


def test_a_run_is_what_was_asked_for_with_its_numbers(tmp_path: Path) -> None:
    found = run(tmp_path, Settings(l2=0.25, hidden=(4, 4)))
    assert found.settings == Settings(l2=0.25, hidden=(4, 4))
    assert (found.arms, found.seeds, found.tier) == (("none", "l2"), (0, 1, 2), "laptop")
    assert found.changes() == {"hidden": "4,4", "l2": "0.25"}
    assert found.commits() == ["abc1234"]
    for key, table in results().tables.items():
        for name, values in table.items():
            np.testing.assert_array_equal(found.results.tables[key][name], values)
    assert [repr(c.effect) for c in found.checked()] == [repr(c.check(results()).effect) for c in found.setup.claims]


def test_columns_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    table = run(tmp_path).results.tables["l2", 0]
    assert isinstance(table, Columns)
    assert "norm" in table
    assert len(table) == len(list(table)) == 6
    assert list(table.read) == []
    assert table["norm"].dtype == np.float64
    assert list(table.read) == ["norm"]
    with pytest.raises(KeyError, match="nrom"):
        table["nrom"]


@dataclass(frozen=True)
class Grown(Settings):
    """The same settings a version later."""

    momentum: float = 0.9


def test_a_setting_of_later_is_the_tiers_and_named(tmp_path: Path) -> None:
    folder = written(tmp_path, Settings(l2=0.25))
    later = replace(KNOWN["made/up"], tiers={"laptop": Grown()})
    found = opened(folder, {"made/up": later})
    assert found.settings == Grown(l2=0.25, momentum=0.9)
    assert found.later == ("momentum",)
    assert len(found.checked()) == 3


def test_a_setting_that_is_gone_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    kept = read_json(folder / "settings.json")
    assert kept is not None
    settings = kept["settings"] | {"depht": 3}
    write_json(folder / "settings.json", kept | {"settings": settings})
    with pytest.raises(ValueError, match="is not called after its settings: expected laptop-"):
        opened(folder, KNOWN)
    folder = folder.rename(folder.with_name(folder_name("made/up", "laptop", settings)))
    with pytest.raises(ValueError, match="unknown setting 'depht'"):
        opened(folder, KNOWN)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder OUT/EXPERIMENT/TIER-HASH"):
        opened(tmp_path, KNOWN)
    folder = written(tmp_path)
    with pytest.raises(ValueError, match="unknown experiment 'made/up'"):
        opened(folder)
    with pytest.raises(ValueError, match="unknown tier 'laptop': did you mean 'labtop'"):
        opened(folder, {"made/up": replace(KNOWN["made/up"], tiers={"labtop": Settings()})})
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run\.json: run it again"):
        opened(folder, KNOWN)


def test_missing_and_altered_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no arm l2 seed 1 yet"):
        _ = run(tmp_path, missing=[("l2", 1)]).results
    whole = run(tmp_path)
    path = whole.store.cell("l2", 1) / "metrics.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics.parquet is unreadable .*checksum"):
        _ = whole.results


def test_a_claim_needs_the_arms_that_it_reads(tmp_path: Path) -> None:
    own = Claim("L2 ends above 0.", lambda r: r.last("l2", "accuracy"))
    setup = replace(SETUP, claims=(*SETUP.claims, own))
    some = run(tmp_path, arms=["l2"], experiment=replace(KNOWN["made/up"], setup=lambda settings: setup))
    checked = some.checked()
    assert [one.verdict for one in checked] == ["inconclusive"] * 3 + ["holds"]
    assert checked[0].reason == "arm 'none' was not run"
    assert [one.missing for one in checked] == [True, True, True, False]


def test_a_run_is_found_by_folder_or_experiment(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert find_run(str(folder), tmp_path) == folder
    with pytest.raises(ValueError, match="is no run"):
        find_run(str(folder.parent), tmp_path)
    with pytest.raises(ValueError, match="unknown run or experiment 'lyle2023/fgi1': did you mean 'lyle2023/fig1'"):
        find_run("lyle2023/fgi1", tmp_path)
    with pytest.raises(ValueError, match="no run of lyle2023/fig1"):
        find_run("lyle2023/fig1", tmp_path)


def test_the_bibliography_of_a_run_is_that_of_its_arms(tmp_path: Path) -> None:
    everything = cite.parse(bibliography([]))
    assert set(cite.parse(bibliography(["lyle2024/swiss_cheese"]))) <= set(everything)
    with pytest.raises(ValueError, match="unknown experiment or folder of a run"):
        bibliography(["lyle2024"])
    experiment = experiments()["lyle2024/swiss_cheese"]
    store = Store(tmp_path, experiment, "smoke", experiment.tiers["smoke"])
    store.prepare()
    store.begin(["none"], [0], "cpu")
    folder = store.folder
    assert "ba2016" in cite.parse(bibliography([str(folder)]))  # what it reproduces names it
    assert set(cite.parse(bibliography([str(folder)]))) <= set(everything)

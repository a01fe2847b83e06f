"""Training packs, storing them and sweeping over them, on networks of a few units."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import pliant.run.sweep as sweep_module
from pliant.claims import Claim
from pliant.diagnostics import DeadUnits, ParameterNorm
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import L2, Chain, ShrinkAndPerturb, WeightNormRescale
from pliant.nets import MLP
from pliant.optim import SGD, Adam, RMSProp
from pliant.plots import Lines
from pliant.run import files
from pliant.run.checkpoint import Checkpoint, Damaged, conditions
from pliant.run.files import read_json, write_json
from pliant.run.progress import plan
from pliant.run.store import Store, latest
from pliant.run.sweep import sweep
from pliant.run.train import Interrupted, train
from pliant.tasks import RandomLabels
from pliant.trials import Fit, Numbers, Steps, Supervised, When


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    every: int = 5


def net(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return MLP(shape, outputs, hidden=(8,))


def trial(settings: Settings) -> Supervised:
    task = RandomLabels(num_examples=40, batch_size=10, every=settings.every, num_tasks=3)
    often = When(every=2)
    measures = (Fit(often), Numbers((DeadUnits(), ParameterNorm()), often), Steps(When(first=1)))
    return Supervised(task, "digits", net, SGD(settings.rate), measures=measures)


def setup(settings: Settings) -> Setup:
    plain = trial(settings)
    return Setup(
        arms={"plain": Arm("plain", plain), "l2": Arm("L2", replace(plain, chain=Chain(L2(1e-2))))},
        claims=(
            Claim("l2 shrinks", lambda r: r.ends("plain", "norm_ratio")[:, -1] - r.ends("l2", "norm_ratio")[:, -1]),
        ),
        plots=(Lines("accuracy", "accuracy"),),
        table=(Column("last", "accuracy"),),
        deviations=(),
    )


def broken(settings: Settings) -> Setup:
    made = setup(settings)
    return replace(made, arms={**made.arms, "broken": Arm("broken", replace(trial(settings), chain=Chain(Broken())))})


class Broken(L2):
    """Fails when training starts."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def build(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        raise ValueError("expected a network that works")


EXPERIMENT = Experiment("test/tiny", "tiny", "nothing", (), {"smoke": Settings()}, setup)


def store(root: Path, experiment: Experiment = EXPERIMENT, **changes: float) -> Store:
    return Store(root, experiment, "smoke", replace(Settings(), **changes))


def test_a_run_keeps_the_arms_that_it_had(tmp_path: Path) -> None:
    """Arms trained one call after the other are one run, unless they are other arms by now, or of fewer seeds."""
    made, here = setup(Settings()), store(tmp_path)

    def arms(made: Setup, *asked: str, seeds: int = 1) -> list[str]:
        sweep(here, made, asked, seeds)
        return json.loads((here.folder / "run.json").read_text())["arms"]

    assert arms(made, "l2") == ["l2"]
    assert arms(made, "plain") == ["plain", "l2"]
    assert arms(made, "plain", seeds=2) == ["plain"]
    assert arms(made, "l2", "plain", seeds=2) == ["l2", "plain"]
    stronger = replace(made.arms["l2"], trial=replace(trial(Settings()), chain=Chain(L2(1e-1))))
    assert arms(replace(made, arms={**made.arms, "l2": stronger}), "plain", seeds=2) == ["plain"]


def test_sweeps_of_other_arms_at_once_end_as_one_run(tmp_path: Path) -> None:
    made, here, begun = setup(Settings()), store(tmp_path), False

    def asked() -> list[str]:
        return json.loads((here.folder / "run.json").read_text())["arms"]

    def another(_: object) -> None:
        nonlocal begun
        if not begun:
            begun = True
            sweep(here, made, ["l2"], 1)
            assert asked() == ["l2"]

    sweep(here, made, ["plain"], 1, on_progress=another)
    assert asked() == ["plain", "l2"]


def test_rows_say_what_was_measured_when() -> None:
    table = train(trial(Settings()), [0, 1]).tables[1]
    assert table["step"].tolist() == [1, 2, 4, 5, 6, 8, 10, 11, 12, 14, 15]  # dense, every second, and task ends
    assert table["step"][table["end"]].tolist() == [5, 10, 15]
    assert table["task"].tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert np.isfinite(table["update_norm"]).all()
    assert np.isnan(table["accuracy"][0])
    assert np.isfinite(table["accuracy"][1])
    assert [name for name in table if name.endswith("_seconds")] == ["elapsed_seconds"]


def test_the_same_pack_trains_to_the_same_numbers_and_seeds_differ() -> None:
    one, two = (train(trial(Settings()), [3, 4]).tables for _ in range(2))
    np.testing.assert_array_equal(one[3]["batch_loss"], two[3]["batch_loss"])
    assert one[3]["batch_loss"][0] != one[4]["batch_loss"][0]


def test_accuracy_and_loss_are_those_of_the_trained_network() -> None:
    made = replace(trial(Settings()), measures=(Fit(),))
    table = train(made, [0], dtype=torch.float64).tables[0]
    stream = made.task.bind(__import__("pliant.data").data.load("digits"), [0], dtype=torch.float64)
    from pliant.network import Network

    network = Network(net((1, 8, 8), 10))
    params = {k: p.double() for k, p in network.fresh(0).items()}
    for x, y in stream.batches(0, 5):
        leaves = {k: p.requires_grad_() for k, p in params.items()}
        loss = nn.functional.cross_entropy(network(leaves, x[0]), y[0])
        grads = torch.autograd.grad(loss, list(leaves.values()))
        params = {k: (p - 0.1 * g).detach() for (k, p), g in zip(leaves.items(), grads, strict=True)}
    x, y = stream.examples(0)
    output = network(params, x[0])
    assert table["accuracy"][0] == pytest.approx((output.argmax(1) == y[0]).double().mean().item())
    assert table["loss"][0] == pytest.approx(nn.functional.cross_entropy(output, y[0]).item(), rel=1e-10)


def test_a_member_that_diverges_is_marked_and_the_others_go_on() -> None:
    tables = train(replace(trial(Settings()), optimizer=SGD(1e30)), [0, 1]).tables
    assert (tables[0]["diverged_at"] >= 0).all()
    after = tables[0]["step"] > tables[0]["diverged_at"][0]
    assert np.isnan(tables[0]["accuracy"][after]).all()


def test_paths_depend_on_the_settings_alone(tmp_path: Path) -> None:
    assert store(tmp_path).folder == store(tmp_path).folder
    assert store(tmp_path, rate=0.2).folder != store(tmp_path).folder
    assert store(tmp_path).folder.relative_to(tmp_path).parts[:2] == ("test", "tiny")


def test_a_sweep_keeps_what_is_there_and_equals_itself(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b")
    done = sweep(a, setup(Settings()), ["plain", "l2"], 2)
    assert (done.finished, done.kept, done.failed) == (2, 0, {})
    again = sweep(a, setup(Settings()), ["plain", "l2"], 2)
    assert (again.finished, again.kept) == (0, 2)
    sweep(b, setup(Settings()), ["plain", "l2"], 2)
    for arm in ("plain", "l2"):
        for seed in (0, 1):
            one, two = (pq.ParquetFile(s.cell(arm, seed) / "metrics.parquet").read() for s in (a, b))
            assert one.drop_columns(["elapsed_seconds"]).equals(two.drop_columns(["elapsed_seconds"]))
    assert setup(Settings()).claims[0].check(a.results(["plain", "l2"], [0, 1])).effect.mean > 0


def test_a_pack_of_another_shape_is_trained_anew(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    done = sweep(kept, setup(Settings()), ["plain"], 2)
    assert (done.finished, done.kept) == (1, 0)
    made = setup(Settings())
    assert plan(made, ["plain", "l2"], 7)[1] == ("plain", (5, 6))
    assert plan(replace(made, arms={"a": Arm("a", replace(trial(Settings()), together=2))}), ["a"], 3)[1] == ("a", (2,))


def test_a_failed_pack_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    experiment = replace(EXPERIMENT, setup=broken)
    kept = store(tmp_path, experiment)
    done = sweep(kept, broken(Settings()), ["plain", "broken"], 1)
    assert done.finished == 1
    assert ["expected a network that works" in error for error in done.failed.values()] == [True]
    with pytest.raises(ValueError, match="no arm broken seed 0"):
        kept.results(["plain", "broken"], [0])


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    path = kept.cell("plain", 0) / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="unreadable"):
        kept.results(["plain"], [0])


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]
    with pytest.raises(ValueError, match=r"cannot write .*: No space left on device: choose another folder with --out"):
        store(tmp_path / "y").prepare()


def test_what_is_missing_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pliant run test/tiny --tier smoke"):
        latest(tmp_path, EXPERIMENT, "smoke")
    assert "--set rate=0.2" in store(tmp_path, rate=0.2).command(["plain"], 3)


def test_the_record_says_how_it_ran(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 3)
    cell = json.loads((kept.cell("plain", 1) / "cell.json").read_text())
    assert cell["pack"] == [0, 1, 2]
    assert (cell["mode"], cell["threads"]) == ("vmap", 1)
    run = json.loads((kept.folder / "run.json").read_text())
    assert run["environment"]["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(run)


def interrupted_at(step: int) -> object:
    def on_progress(now: int) -> None:
        if now >= step:
            raise Interrupted

    return on_progress


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]], ids=["single", "loop", "vmap"])
@pytest.mark.parametrize("arm", ["adam", "everything"])
def test_an_interrupted_training_equals_an_uninterrupted_one_bitwise(
    tmp_path: Path, arm: str, seeds: list[int]
) -> None:
    made = trial(Settings(every=60))
    if arm == "adam":
        made = replace(made, optimizer=Adam(1e-3, eps_root=1e-3))
    else:
        chain = Chain(L2(1e-3), ShrinkAndPerturb(0.9, 0.1), WeightNormRescale())
        made = replace(made, optimizer=RMSProp(1e-3, centered=True), chain=chain)
    whole = train(made, seeds).tables
    checkpoint = Checkpoint(tmp_path / "c.safetensors", conditions("cpu", seeds, {}, {}, ""))
    for stop in (50, 100):
        with pytest.raises(Interrupted):
            train(made, seeds, checkpoint=checkpoint, on_progress=interrupted_at(stop))
    resumed = train(made, seeds, checkpoint=checkpoint).tables
    for seed in seeds:
        assert list(whole[seed]) == list(resumed[seed])
        for name in whole[seed]:
            if name != "elapsed_seconds":
                np.testing.assert_array_equal(whole[seed][name], resumed[seed][name], err_msg=name)
    assert (np.diff(resumed[seeds[0]]["elapsed_seconds"]) > 0).all()


def stopped_checkpoint(folder: Path) -> tuple[Supervised, Checkpoint]:
    made = trial(Settings(every=60))
    about = conditions("cpu", [0], {"optimizer": "SGD(lr=0.1)"}, {"mine.npz": "1f"}, "1")
    checkpoint = Checkpoint(folder / "c.safetensors", about)
    with pytest.raises(Interrupted):
        train(made, [0], checkpoint=checkpoint, on_progress=interrupted_at(50))
    return made, checkpoint


def test_a_resume_under_other_conditions_is_refused_with_what_to_do(tmp_path: Path) -> None:
    made, checkpoint = stopped_checkpoint(tmp_path)
    other = Checkpoint(checkpoint.path, {**checkpoint.conditions, "threads": 7})
    with pytest.raises(ValueError, match=r"with threads .*, here it is 7, .* or start this pack over with rm "):
        train(made, [0], checkpoint=other)
    for name, value, told in (
        ("files", {"mine.npz": "2e"}, r"made from other files \(mine.npz\), and one curve has one source"),
        (
            "definition",
            {"optimizer": "SGD(lr=0.2)"},
            r"another definition \(optimizer SGD\(lr=0.1\), here SGD",
        ),
        ("code", "2", "by other code, so going on might not give the same numbers: go back to that code, or start"),
    ):
        other = Checkpoint(checkpoint.path, {**checkpoint.conditions, name: value})
        with pytest.raises(ValueError, match=told):
            train(made, [0], checkpoint=other)
    content, facts = checkpoint.load() or ({}, {})
    checkpoint.save(content, {**{k: v for k, v in facts.items() if k != "conditions"}, "mode": "compiled"})
    with pytest.raises(ValueError, match="made by a compiled population, here it is single"):
        train(made, [0], checkpoint=checkpoint)


@pytest.mark.parametrize("at", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_pack_starts_over(tmp_path: Path, how: str, at: float) -> None:
    made, checkpoint = stopped_checkpoint(tmp_path)
    content = bytearray(checkpoint.path.read_bytes())
    place = int(at * len(content))
    if how == "flipped":
        content[place] ^= 0x10
    checkpoint.path.write_bytes(content[:place] if how == "truncated" else content)
    whole = train(made, [0]).tables[0]
    with pytest.warns(UserWarning, match=r"c.safetensors .* set aside as c.damaged and the pack starts over"):
        again = train(made, [0], checkpoint=checkpoint).tables[0]
    np.testing.assert_array_equal(whole["batch_loss"], again["batch_loss"])


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "owned"), "w"))

    checkpoint = Checkpoint(tmp_path / "c.safetensors", {})
    checkpoint.path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Damaged):
        checkpoint.load()
    assert not (tmp_path / "owned").exists()


def test_altered_files_are_named(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    for name in ("arm=plain/seed=0/metrics.parquet", "arm=plain/seed=0/cell.json", "settings.json"):
        path = kept.folder / name
        good = path.read_bytes()
        for place in (5, len(good) // 2, len(good) - 5):
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x01]) + good[place + 1 :])
            with pytest.raises(ValueError, match=path.name):
                kept.results(["plain"], [0])
        path.write_bytes(good)
    assert kept.results(["plain"], [0]).seeds == [0]


def test_a_newer_schema_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.prepare()
    write_json(kept.folder / "settings.json", {"schema": 99, "pliant": "7.0"})
    with pytest.raises(ValueError, match=r"written by pliant 7.0 \(schema 99\)"):
        kept.prepare()


def test_results_of_another_commit_are_kept_with_a_warning_and_rerun_makes_them_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    monkeypatch.setattr(sweep_module, "commit", lambda: "another")
    with pytest.warns(UserWarning, match="results of another commit .* are kept; --rerun makes them anew"):
        assert sweep(kept, setup(Settings()), ["plain"], 1).kept == 1
    assert sweep(kept, setup(Settings()), ["plain"], 1, rerun=True).finished == 1


def test_a_killed_worker_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    experiment = replace(EXPERIMENT, setup=suicidal)
    done = sweep(store(tmp_path, experiment), suicidal(Settings()), ["plain", "broken"], 1)
    assert done.finished == 1
    assert list(done.failed.values()) == ["its process ended without a word: killed by signal 9 (out of memory?)"]


def suicidal(settings: Settings) -> Setup:
    made = setup(settings)
    return replace(made, arms={**made.arms, "broken": Arm("", replace(trial(settings), chain=Chain(Suicide())))})


class Suicide(L2):
    """Kills its process when training starts, as the out-of-memory killer would."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def build(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        os.kill(os.getpid(), signal.SIGKILL)
        return module

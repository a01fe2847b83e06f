"""The command line, in this process and as a program of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.cli import _parser, main
from pliant.experiment import experiments, find
from pliant.run import sinks
from pliant.run.files import read_json
from pliant.study import _warn_without_effect
from pliant.trials import Mechanisms
from tests.waiting import until

PLIANT = [sys.executable, "-c", "import sys; from pliant.cli import main; sys.exit(main())"]


def test_list_shows_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {e["id"] for e in listed} == set(experiments())
    assert all(e["claims"] and {"smoke", "laptop", "paper"} <= set(e["tiers"]) for e in listed)
    costs = {e["id"]: e["tiers"]["smoke"] for e in listed}
    setup = experiments()["toolbox/causes"].setup(experiments()["toolbox/causes"].tiers["smoke"])
    trial: Any = setup.arms["none"].trial
    (probing,) = (m for m in trial.measures if isinstance(m, Mechanisms))
    subsets = len([some for n in range(6) for some in combinations(probing.repairs, n)])
    fits = len(probing.when.tasks or ()) * probing.targets * (subsets + 1)  # and a fresh network
    assert costs["toolbox/causes"]["refit_steps"] == fits * probing.steps
    assert costs["lyle2023/fig1"]["refit_steps"] == 0
    assert main(["list"]) == 0
    assert "lyle2023/fig1" in capsys.readouterr().out


def test_listing_runs_imports_nothing_slow(tmp_path: Path) -> None:
    heavy = {"torch", "scipy", "matplotlib", "pyarrow", "sklearn"}
    code = f"import sys; from pliant.cli import main; main(); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, "list", "runs", "--out", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "run lyle2024/swis_cheese",
            "unknown experiment 'lyle2024/swis_cheese': did you mean 'lyle2024/swiss_cheese'?",
        ),
        ("run lyle2023/fig1 --tier labtop", "unknown tier 'labtop': did you mean 'laptop'?"),
        ("run lyle2023/fig1 --set evry=3", "unknown setting 'evry': did you mean 'every'?"),
        ("run lyle2023/fig1 --arms tund", "unknown arm 'tund': did you mean 'tuned'?"),
        ("run lyle2023/fig1 --set data=mnits", "unknown set 'mnits', did you mean 'mnist'?"),
        ("run lyle2023/fig1 --set data=nowhere.npz", "nowhere.npz"),
        ("run lyle2023/fig1 --set net=mpl", "unknown net 'mpl': did you mean 'mlp'?"),
        ("run lyle2023/fig1 --set net=no.such:thing", "net=no.such:thing cannot be imported"),
        ("run lyle2023/fig1 --tier smoke --set lr=-1", "expected lr of Adam to be at least 0, got -1.0"),
        ("run lyle2023/fig1 --tier smoke --set batch_size=201", "expected batch_size to be at most num_examples=200"),
        ("run lyle2023/fig1 --tier smoke --set num_examples=9999", "the size of digits, got 9999"),
        ("run lyle2023/fig1 --tier smoke --set num_tasks=0", "expected num_tasks to be at least 1, got 0"),
        ("run lyle2023/fig6 --tier smoke --set gamma=1", "expected gamma in [0, 1), got 1.0"),
        ("run lyle2024/bandit --tier smoke --set gammas=0,1", "expected gamma in [0, 1), got 1.0"),
        ("run lyle2024/smoothness --tier smoke --set fractions=0,1", "expected fraction to be in (0, 1], got 0.0"),
        ("run lyle2024/smoothness --tier smoke --set fractions=-1,1", "expected fraction to be in (0, 1], got -1.0"),
        ("run lyle2024/robustness --tier smoke --set offset=1e9", "which is a phase error of 32 rad"),
        ("run lyle2024/robustness --tier smoke --set num_examples=9999", "the size of digits, got 9999"),
        ("run lyle2024/offset --tier smoke --set offsets=0,1e39", "which is a phase error of inf rad"),
        ("run lyle2023/fig1 --seeds 0", "expected --seeds to be at least 1, got 0"),
        ("run lyle2023/fig1 --seeds few", "invalid int value: 'few'"),
        ("run lyle2023/fig1 --teir smoke", "unknown argument '--teir': did you mean '--tier'?"),
        ("run lyle2023/fig1 --tier smoke --device warp", "device 'warp' cannot be used"),
        ("rnu", "unknown command 'rnu': did you mean 'run'?"),
        ("check lyle2023/fig1", "no run of lyle2023/fig1"),
        ("data fetch mnits", "did you mean 'mnist'?"),
        ("data fetch", "the following arguments are required: NAME"),
    ],
)
def test_a_bad_call_is_one_line_exit_code_two_and_nothing_written(
    call: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(call.split())
    except SystemExit as exited:
        code = exited.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_check_prints_every_claim_and_its_exit_code_tells(
    swiss_cheese: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", "lyle2024/swiss_cheese", "--out", str(swiss_cheese), "--json"])
    (checked,) = json.loads(capsys.readouterr().out)
    verdicts = [claim["verdict"] for claim in checked["claims"]]
    assert len(verdicts) == 8
    assert code == (0 if set(verdicts) == {"holds"} else 1)
    assert main(["check", "lyle2024/swiss_cheese", "--out", str(swiss_cheese), "--tier", "smoke"]) == code
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_report_writes_a_page_without_paths_of_this_machine(
    swiss_cheese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = shutil.copytree(swiss_cheese, tmp_path / "runs")
    assert main(["report", "lyle2024/swiss_cheese", "--out", str(ran)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert "<svg" in page
    assert str(ran) not in page
    assert str(swiss_cheese) not in page  # where it was made
    assert str(Path.home()) not in page


def test_a_second_run_keeps_what_is_there(
    swiss_cheese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = shutil.copytree(swiss_cheese, tmp_path / "runs")
    assert main(["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--seeds", "2", "--out", str(ran)]) == 0
    assert "5 of 5 packs were there already" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_packs_are_sent_to_a_sink_and_one_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["run", "lyle2023/fig1", "--tier", "smoke", "--seeds", "1", "--out", str(tmp_path)]
    sent: list[str] = []

    def kept(runs: list[sinks.Tracked], folder: Path) -> None:
        sent.extend(f"{folder.name} {run.name} {len(list(run.rows())) > 0}" for run in runs)

    def full(runs: list[sinks.Tracked], folder: Path) -> None:
        if runs:
            raise OSError("No space left on device")

    monkeypatch.setitem(sinks.SINKS, "wandb", kept)
    monkeypatch.setitem(sinks.SINKS, "mlflow", full)
    for options in ([], [], ["--rerun"]):
        assert main([*call, "--sink", "wandb", *options]) == 0
        assert sorted(sent) == ["wandb default/seed=0 True", "wandb tuned/seed=0 True"]
        sent.clear()
    capsys.readouterr()
    assert main([*call, "--sink", "mlflow"]) == 0
    error = capsys.readouterr().err
    assert error.count("mlflow gets no more curves (No space left on device); when all is done: pliant export") == 1
    assert main([*call, "--sink", "wandbb"]) == 2
    assert "unknown sink 'wandbb': did you mean 'wandb'?" in capsys.readouterr().err


def test_check_says_which_arms_a_claim_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["lyle2023/fig1", "--tier", "smoke", "--out", str(tmp_path)]
    assert main(["run", *call, "--seeds", "1", "--arms", "tuned"]) == 0
    assert main(["check", *call]) == 1
    assert "arm 'default' was not run" in " ".join(capsys.readouterr().out.split())


def test_users_own_arrays_and_module_run_in_the_same_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=generator.normal(size=(300, 6)).astype("float32"), y=np.arange(300) % 3)
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def build(shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(shape[0], 16), nn.Tanh(), nn.Linear(16, outputs))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    call = ["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--seeds", "1", "--out", str(tmp_path / "runs")]
    assert main([*call, "--set", f"data={tmp_path / 'mine.npz'}", "--set", "net=mynet:build"]) == 0
    assert "layer norm + L2" in capsys.readouterr().out


LONG = ["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--set", "num_tasks=60", "--seeds", "1", "--arms", "both"]


def assert_says_how_to_go_on(folder: Path, error: str) -> None:
    assert "To go on: pliant run lyle2024/swiss_cheese --tier smoke --seeds 1 --arms both --set num_tasks=60" in error
    assert "Traceback" not in error
    assert len(list(folder.glob("**/.checkpoint-0-0.safetensors"))) == 1


def test_ctrl_c_ends_cleanly_keeps_what_was_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PLIANT, *LONG, "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PLIANT_CHECKPOINT_SECONDS": "0.1"},
    )
    until(lambda: list(tmp_path.glob("**/.checkpoint-0-0.safetensors")), process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert_says_how_to_go_on(tmp_path, error)
    assert main([*LONG, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_that_ask_for_the_end_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """In this process, to which a thread sends the signal; one that comes before or after the training fails here."""
    monkeypatch.setenv("PLIANT_CHECKPOINT_SECONDS", "0.1")
    missed: list[int] = []
    before = signal.signal(number, lambda number, _: missed.append(number))

    def ask() -> None:
        until(lambda: list(tmp_path.glob("**/.checkpoint-0-0.safetensors")))
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert main([*LONG, "--out", str(tmp_path)]) == 130
    finally:
        asking.join()
        signal.signal(number, before)
    assert missed == []
    assert_says_how_to_go_on(tmp_path, capsys.readouterr().err)


def test_a_disk_that_fills_up_is_reported_and_what_was_written_stays_readable(tmp_path: Path) -> None:
    call = ["run", "lyle2023/fig1", "--tier", "smoke", "--seeds", "1", "--out", str(tmp_path)]

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))  # room for settings, none for metrics

    ran = subprocess.run([*PLIANT, *call], capture_output=True, text=True, preexec_fn=limited, timeout=120)
    assert ran.returncode == 1
    assert "File too large" in ran.stderr
    assert "2 of 2 packs failed" in ran.stderr
    assert "Traceback" not in ran.stderr
    for path in tmp_path.glob("**/*.json"):
        assert read_json(path) is not None
    assert main(call) == 0


def test_an_unwritable_folder_is_named_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "lyle2023/fig1", "--tier", "smoke", "--out", str(tmp_path / "file")]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("id", "changes", "idle"),
    [
        ("lyle2023/fig1", ["hidden=8,8", "net=cnn"], ["hidden"]),  # which the CNN has not
        ("lyle2023/fig12", ["targets=2", "gamma=0.5"], ["targets"]),  # no probe there
        ("lyle2023/fig5", ["bins=7"], ["bins"]),
        ("lyle2024/bandit", ["bins=3"], ["bins"]),  # whose width is set
        ("lyle2024/kernels", ["lr=0.002"], []),
        ("lyle2024/kernels", ["lr=0.001"], []),  # the tier's own
    ],
)
def test_a_setting_without_effect_warns(id: str, changes: list[str], idle: list[str]) -> None:
    experiment = find(id)
    settings = experiment.settings("smoke", changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_without_effect(experiment, experiment.tiers["smoke"], settings, list(experiment.setup(settings).arms))
    assert [str(one.message) for one in caught] == [
        f"--set {key} has no effect on what is trained here" for key in idle
    ]


@pytest.mark.parametrize("name", ["demo", "pilot"])
def test_commands_that_train_say_all_that_run_asks(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = vars(_parser().parse_args(["run", "lyle2024/swiss_cheese"]))
    found: list[dict[str, Any]] = []

    def stop(given: Any, *_: Any) -> Any:
        found.append(dict(vars(given)))
        raise ValueError("seen")

    monkeypatch.setattr("pliant.cli.train.prepared", stop)
    monkeypatch.setattr("pliant.cli.pilot.prepared", stop)
    ids = ["lyle2024/swiss_cheese"] if name == "pilot" else []
    assert main([name, *ids, "--seeds", "2", "--out", str(tmp_path)]) == 2
    (given,) = found
    own = {"run", "parser", "command", "ids", "tier", "seeds", "out"}
    assert {key: given[key] for key in asked if key not in own} == {k: v for k, v in asked.items() if k not in own}

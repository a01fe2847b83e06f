"""Output as people and pipes get it: whole names at any width, any encoding, exit codes that survive."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pliant import data, diagnostics, interventions
from pliant.cli import main
from pliant.experiment import experiments
from pliant.formats import Grid
from pliant.terminal import TWINS, plain, print_grid

RESULTS = Path(__file__).parents[1] / "results"
RUN = RESULTS / "lyle2023" / "fig1" / "laptop-66f4ad8b"
RUNS = [str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob("run.json")]
LISTS = {
    "interventions": [kind.__name__ for kind in interventions.registered()],
    "diagnostics": [kind.__name__ for kind in diagnostics.registered()],
    "list": list(experiments()),
    f"list runs --out {RESULTS}": RUNS,
    "data list": [info.name for info in data.available()],
    f"check {RUN}": ["Default", "threshold);", "accuracy"],
    f"compare {RUN}": ["lyle2023/fig1", "experiment"],
}


def pliant(*call: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **more.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run([sys.executable, "-m", "pliant", *call], env=environment, **more)  # type: ignore[call-overload]


@pytest.mark.parametrize("columns", ["30", "60", "80", ""])
@pytest.mark.parametrize("call", LISTS)
def test_names_are_never_broken_or_cut(
    call: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(call.split()) in (0, 1)
    out = capsys.readouterr().out
    assert LISTS[call]
    words = set(out.replace("*", " ").split())
    assert [name for name in LISTS[call] if name not in words] == []
    assert all(line == line.rstrip() for line in out.splitlines())


def test_in_a_pipe_a_row_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["interventions"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "NormalizeAndProject" in line)
    assert re.split(r"\s{2,}", line)[1:3] == ["build, step", "layers, weights"]
    assert line.endswith("Lyle et al. 2024")


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ("interventions ReDo", ["from pliant import ReDo\n", "ReDo(tau: ", "Sokar et al. 2023", "dormancy threshold"]),
        (
            "diagnostics LinearizedUnits",
            ["from pliant.diagnostics import LinearizedUnits\n", "at the start: linearized"],
        ),
    ],
)
def test_one_is_shown_with_all_that_is_known_of_it(
    call: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call.split()) == 0
    out = capsys.readouterr().out
    for part in parts:
        assert part in out
    assert main([*call.split(), "--json"]) == 0
    assert capsys.readouterr().out.count('"name"') == 1
    assert main([call.split()[0], "Rdo"]) == 2
    assert f"unknown {call.split()[0][:-1]} 'Rdo'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("call", ["interventions ReDo", "diagnostics LinearizedAtUnitSize", "diagnostics Churn"])
def test_what_is_known_of_one_fits_the_terminal(
    call: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(call.split()) == 0
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(call.split()) == 0
    out = capsys.readouterr().out
    assert out.split() == whole.split()  # the same words, none broken
    examples = {line for line in whole.splitlines() if line.startswith((">>>", "..."))}
    assert examples
    assert examples <= set(out.splitlines())
    prose = [line for line in out.partition(">>>")[0].splitlines() if " " in line.strip() and " import " not in line]
    assert max(map(len, prose)) <= columns
    assert "'float'" not in out
    assert "<class" not in out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_standard_output_works(encoding: str) -> None:
    code = "import sys; from pliant.terminal import *\nwith streams():\n for f in 'out', 'err':\n  "
    code += "print(sys.argv[1], file=getattr(sys, f'std{f}'))"
    text = "".join(map(chr, TWINS)) + "\u6f22"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run([sys.executable, "-c", code, text], env=environment, capture_output=True, check=True)
    for stream in (ran.stdout, ran.stderr):
        assert plain(stream.decode(encoding)) == plain(text) + "\n"
    assert (ran.stdout.decode(encoding) == text + "\n") == (encoding == "utf-8")


def test_verdicts_are_printed_in_ascii() -> None:
    ran = pliant("check", str(RUN), env={"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert ran.returncode == main(["check", str(RUN)])
    assert ran.stderr == b""
    assert "needs > -0.1" in ran.stdout.decode("ascii")


@pytest.mark.parametrize(
    ("call", "code"), [(["check", str(RUN)], 1), (["list", "runs", "--out", str(RESULTS)], 0), (["rnu"], 2)]
)
def test_exit_codes_survive_a_pipe_that_is_closed(call: list[str], code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    closed = pliant(*call, stdout=write, stderr=subprocess.PIPE)
    both = pliant(*call, stdout=write, stderr=write)
    os.close(write)
    assert (closed.returncode, both.returncode) == (code, code)
    assert b"Broken pipe" not in closed.stderr
    assert b"Traceback" not in closed.stderr


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        ran = pliant("list", "runs", "--out", str(RESULTS), stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == 1
    assert ran.stderr == b"pliant: No space left on device\n"


def test_a_table_is_as_wide_as_its_longest_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "20")
    grid = Grid(["name", "about"], [["a-long-name_of/9", "some words unbreakable-word"], ["b", "c"]], "lp", ["a note"])
    print_grid(Console(), grid)
    lines = capsys.readouterr().out.splitlines()
    pad = " " * 16
    expected = ["name              about", "a-long-name_of/9  some words", f"{pad}  unbreakable-word"]
    assert lines == [*expected, "b                 c", "a note"]

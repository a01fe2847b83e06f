"""Stores and checkpoints from somebody else: numbers, or one line that says what is wrong, in bounded memory."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save, save_file

from pliant.cli import main, saved
from pliant.report.index import index
from pliant.report.keep import keep
from pliant.report.ledger import evidence
from pliant.report.listing import runs
from pliant.report.page import page
from pliant.report.stored import Stored, opened
from pliant.run.checkpoint import Checkpoint, Damaged
from pliant.run.files import read_json, write_json
from tests.report.stores import KNOWN, written
from tests.report.synthetic import Settings

RESULTS = Path(__file__).parents[2] / "results"
BAD = (
    None, True, -1, 0.5, 10**30, float("inf"), "", "x/../../evil", "[/bold]", "\0", "a" * 5_000, [], {}, [[]], [{}],
    {"a": {}}, json.loads("[" * 400 + "]" * 400),
)  # fmt: skip
BOUNDED = """
import resource, sys
from pathlib import Path
import pliant.cli.saved, pliant.report.stored, pliant.run.cells, pyarrow.parquet, torch
from tests.report.stores import KNOWN
pliant.run.cells.MOST_VALUES = 1 << 22
pliant.report.stored.opened(Path(sys.argv[1]), KNOWN).results.tables["none", 0]["accuracy"]
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (100 << 20),) * 2)
for call in sys.argv[2:]:
    try:
        eval(call)
    except ValueError as error:
        print(error)
"""


def bounded(calls: Sequence[str], good: Path) -> list[str]:
    """What calls refuse, in a process that can have 100 MB more than it has after reading a good run."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    call = [sys.executable, "-c", BOUNDED, str(good), *calls]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in JSON."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*at, key))


def altered(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """JSON with something else at a place."""
    value = copy.copy(value)
    value[at[0]] = new if len(at) == 1 else altered(value[at[0]], at[1:], new)
    return value


def without(value: Any, at: tuple[Any, ...]) -> Any:
    """JSON without what stands at a place."""
    value = copy.copy(value)
    if len(at) == 1:
        del value[at[0]]
    else:
        value[at[0]] = without(value[at[0]], at[1:])
    return value


def read_all(run: Stored) -> None:
    """Everything that pages, tables and claims are made of."""
    for table in run.results.tables.values():
        for name in table:
            _ = table[name]
    _ = run.definitions, run.shown, run.date, run.data, run.commits(), run.changes(), run.verdicts()
    run.store.command(run.arms, len(run.seeds))


@pytest.fixture(params=["trained", "kept"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A store, and its one run."""
    folder = written(tmp_path / "runs", arms=["none"], seeds=[0], recorded=True, dated="2026-01-01")
    if request.param == "trained":
        return tmp_path / "runs", folder
    return tmp_path / "kept", keep(opened(folder, KNOWN), tmp_path / "kept").folder


def test_whatever_json_says_its_reader_gets_numbers_or_one_line(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = made
    monkeypatch.setattr(os, "fsync", lambda file: None)
    refused = 0
    for path in sorted(folder.rglob("*.json")):
        right = read_json(path) or {}
        for at in list(places(right)):
            for new in (without(right, at), *(altered(right, at, bad) for bad in BAD)):
                write_json(path, new)
                (listed,) = runs(root)
                assert len(listed.problem) < 100
                said = ""
                try:
                    read_all(opened(folder, KNOWN))
                except ValueError as error:
                    said = str(error).replace(str(folder), "")
                    refused += 1
                assert len(said) < 500, said
                assert "\n" not in said
        write_json(path, right)
    assert refused > 100
    read_all(opened(folder, KNOWN))


def test_facts_of_others_are_text_on_pages(tmp_path: Path) -> None:
    folder = written(tmp_path, replace(Settings(), data="[/bold]<b>.npz"), arms=["none"], seeds=[0])
    evil = "[/bold]<script>alert(1)</script>"
    for path in folder.rglob("*.json"):
        content = read_json(path) or {}
        if path.name != "settings.json":
            content |= {name: evil for name, value in content.items() if isinstance(value, str) and "sha" not in name}
        if "environment" in content:
            content["environment"] = dict.fromkeys([*content["environment"], evil], evil)
        write_json(path, content | ({"definition": {evil: evil}} if path.name == "cell.json" else {}))
    run = opened(folder, KNOWN)
    assert "<script>alert" not in page(run, run.checked()).replace("P1 has <script>", "")
    assert "<script>alert" not in index(tmp_path, KNOWN)


def test_one_bad_run_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    good = written(tmp_path, recorded=True)
    bad = [written(tmp_path, Settings(l2=rate)) for rate in (0.1, 0.2, 0.3, 0.4)]
    (bad[0] / "run.json").write_bytes(b"[" * 100_000)
    (bad[1] / "arm=l2" / "seed=1" / "metrics.parquet").write_bytes(b"PAR1" + bytes(100))
    write_json(bad[2] / "arm=l2" / "seed=1" / "cell.json", {"pack": {"a": []}})
    (bad[3] / "settings.json").unlink()
    os.mkfifo(bad[3] / "settings.json")
    assert len(runs(tmp_path)) == 5
    shown = index(tmp_path, KNOWN)
    assert all(folder.name in shown for folder in (good, *bad))
    found, silent = evidence(tmp_path, KNOWN)
    assert len(silent) == 4
    assert {len(one.verdicts) for one in found} == {1}


def test_square_brackets_in_paths_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = sorted((RESULTS / "lyle2023/fig1").iterdir())[0]
    root = tmp_path / "[bold] runs [/red]"
    folder = Path(shutil.copytree(kept, root / "lyle2023/fig1" / kept.name))
    odd = root / "[link=evil]" / folder.name
    odd.mkdir(parents=True)
    for name in ("run.json", "settings.json"):
        (odd / name).write_text("{}")
    for reading in (
        ["list", "runs", "--out", str(root)],
        ["report", str(folder), "--to", str(root / "page.html")],
        ["check", str(odd)],
    ):
        assert main(reading) in (0, 1, 2)
    told = capsys.readouterr()
    assert str(odd.relative_to(root)) in told.out
    assert str(folder.relative_to(root)) in told.out
    assert str(root / "page.html") in told.out
    assert str(odd) in told.err
    assert main(["keep", str(folder), "--to", str(tmp_path / "[/kept]")]) == 0
    assert "[/kept]" in capsys.readouterr().out


def bomb(path: Path, **columns: Any) -> None:
    """A run's numbers replaced by others, with the checksum right."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", row_group_size=1 << 26)
    (path / "metrics.parquet").write_bytes(buffer.getvalue())
    assert len(buffer.getvalue()) < 1 << 17
    digest = sha256(buffer.getvalue()).hexdigest()
    write_json(path / "cell.json", (read_json(path / "cell.json") or {}) | {"sha256_metrics": digest})


def test_what_unpacks_to_gigabytes_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    """Columns of many rows and of long lists, an archive of torch, which does not compress, and one with it inside."""
    size, calls = 1 << 22, []
    zeros = pa.array(np.zeros(size + 1024, np.int8))
    lists = pa.FixedSizeListArray.from_arrays(zeros, 1024)
    for kind, column in {"rows": zeros[: size + 1], "lists": lists}.items():
        folder = written(tmp_path / kind, arms=["none"], seeds=[0])
        step = np.zeros(len(column), np.int8)
        bomb(folder / "arm=none" / "seed=0", step=step, diverged_at=step, accuracy=column)
        calls.append(f"pliant.report.stored.opened(Path({str(folder)!r}), KNOWN).results.tables['none', 0]['accuracy']")
    torch.save({"a": torch.zeros(1 << 27, dtype=torch.int8)}, content := io.BytesIO())
    with zipfile.ZipFile(content) as plain, zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name), compresslevel=1)
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as packed:
        packed.write(tmp_path / "model.pt", "policy.pth")
    calls += [f"pliant.cli.saved.read(Path({str(tmp_path / name)!r}))" for name in ("model.pt", "agent.zip")]
    rows, lists, model, agent = bounded(calls, written(tmp_path / "good", arms=["none"], seeds=[0]))
    assert "accuracy would have 4,194,305 rows of 1 values" in rows
    assert "accuracy would have 4,097 rows of 1,024 values" in lists
    assert model.endswith("data/0 expands more than 10 times: refused")
    assert "policy.pth: " in agent
    assert agent.endswith("data/0 expands more than 10 times: refused")


def safetensors(header: bytes, *, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


LYING = {
    "no tensors": safetensors(b"{}"),
    "nothing but metadata": safetensors(b'{"__metadata__": {"a": "b"}}'),
    "a header that never ends": safetensors(b"{}", length=1 << 62),
    "a deep header": safetensors(b"{" + b'"a": {' * 20_000),
    "deep arrays": safetensors(b'{"a": ' + b"[" * 100_000),
    "a shape of terabytes": safetensors(b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}'),
    "offsets beyond the file": safetensors(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
    "offsets backwards": safetensors(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', data=bytes(4)),
    "no dtype that exists": safetensors(b'{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}', data=bytes(4)),
    "cut": save({"a": torch.ones(100)})[:-7],
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_safetensors_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no tensors|damaged safetensors file") as told:
        saved.read(path)
    assert "\n" not in str(told.value)
    with pytest.raises(Damaged, match="is no readable checkpoint"):
        Checkpoint(path, {}).load()


@pytest.mark.parametrize("facts", ["[" * 100_000, "[]", "3", "null", '{"conditions": []}', '{"conditions": null}', ""])
def test_facts_of_a_checkpoint_that_are_no_facts_are_damage(tmp_path: Path, facts: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "checkpoint", {"facts": facts, "sha256": ""})
    with pytest.raises(Damaged, match="no readable checkpoint"):
        Checkpoint(tmp_path / "checkpoint", {}).load()

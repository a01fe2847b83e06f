"""Checkpoints: one safetensors file, whole or absent, with a checksum; nothing in it can run code."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from pliant.run.files import write_bytes
from pliant.run.identity import Definition, differences, edited

SECONDS = 5.0  # of training that a killed process may lose, where checkpoints are cheap
SHARE = 100.0  # seconds of training for each second of writing checkpoints, at least


class Damaged(ValueError):
    """A checkpoint that cannot be read: truncated, altered, or no checkpoint at all."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a pack's training may be taken up again, and under which conditions that gives the same numbers.

    `conditions` (threads, torch version, device, the pack, what is trained by which code) are written along; a resume
    under others is refused.
    """

    path: Path
    conditions: dict[str, Any]

    def save(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Writes tensors and JSON-ready facts, atomically."""
        tensors = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
        facts = json.dumps({"conditions": self.conditions, **about}, sort_keys=True)
        write_bytes(self.path, serialise(tensors, {"facts": facts, "sha256": _digest(tensors, facts)}))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last, or None; raises `Damaged`, and `ValueError` where conditions differ."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                written = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(written["facts"])
            _ = facts["conditions"].keys()
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{self.path} is no readable checkpoint ({error})") from None
        if _digest(tensors, written["facts"]) != written.get("sha256"):
            raise Damaged(f"{self.path} has been altered (its checksum does not fit)")
        for name, value in self.conditions.items():
            if (was := facts["conditions"].get(name)) != value:
                raise ValueError(f"{self.path.name} was made {self._otherwise(name, was, value)}")
        return tensors, facts

    def _otherwise(self, name: str, was: Any, here: Any) -> str:
        """How a condition differs, and the line to write."""
        over = f"start this pack over with rm {shlex.quote(str(self.path))}"
        if name == "definition":
            told = "; ".join(differences(was, here)) if isinstance(was, dict) else "it is not recorded"
            return f"of another definition ({told}), and one curve has one: undo that edit, or {over}"
        if name == "files":
            told = ", ".join(edited(was, here)) or "they are not recorded"
            return f"from other files ({told}), and one curve has one source: undo that edit, or {over}"
        if name == "code":
            return f"by other code, so going on might not give the same numbers: go back to that code, or {over}"
        return (
            f"with {name} {was!r}, here it is {here!r}, so going on would not give the same numbers: go on with "
            f"{name} {was!r}, or {over}"
        )

    @property
    def replay(self) -> Path:
        """The folder for what replays hold."""
        return self.path.with_suffix(".replay")

    def discard(self) -> None:
        """Removes the file, if there is one, and what replays held."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.replay, ignore_errors=True)

    def set_aside(self) -> Path:
        """Renames a damaged file, so that the pack can start over."""
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        return aside


class Pace:
    """When the next checkpoint is due: so often that a killed process loses little, so seldom that it costs little.

    Checkpoints are `seconds` apart, or 100 times as long as the last one took to write, whichever is longer: writing
    them takes 1 % of the time at most. One is due when another step as long as the last would make the time longer.

    Args:
        seconds: between two checkpoints, where they are cheap.
        clock: the time in seconds.

    >>> time = iter([0.0, 1.0, 4.0, 6.0, 9.0])  # a step of 1 s, then steps of 3 s; writing takes 2 s
    >>> pace = Pace(5.0, clock=lambda: next(time))
    >>> pace.due(), pace.due()
    (False, True)
    >>> pace.wrote()
    >>> pace.due(), pace.apart
    (False, 200.0)
    """

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic):
        self.clock, self.apart = clock, seconds
        self.least, self.kept = seconds, clock()
        self.last = self.kept

    def due(self) -> bool:
        """Whether to write now; to be asked after every step."""
        now = self.clock()
        step, self.last = now - self.last, now
        return now - self.kept + step > self.apart

    def wrote(self) -> None:
        """Takes note of a checkpoint that was written just after `due`."""
        self.kept = self.clock()
        self.apart = max(self.least, SHARE * (self.kept - self.last))
        self.last = self.kept


def conditions(
    device: str, seeds: Sequence[int], trained: Definition, files: dict[str, str], code: str
) -> dict[str, Any]:
    """What must not change between two parts of one training."""
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device}
    return {**machine, "pack": list(seeds), "definition": trained, "files": files, "code": code}


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    found = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        t = tensors[name]
        found.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

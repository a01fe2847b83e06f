"""Checkpoints: one safetensors file, whole or absent, with a checksum; nothing in it can run code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from pliant.run.files import write_bytes


class Damaged(ValueError):
    """A checkpoint that cannot be read: truncated, altered, or no checkpoint at all."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a pack's training may be taken up again, and under which conditions that gives the same numbers.

    `conditions` (threads, torch version, device, the pack) are written along; a resume under others is refused.
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
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise Damaged(f"{self.path} is no readable checkpoint ({error})") from None
        if _digest(tensors, written["facts"]) != written.get("sha256"):
            raise Damaged(f"{self.path} has been altered (its checksum does not fit)")
        for name, value in self.conditions.items():
            was = facts["conditions"].get(name)
            if was != value:
                raise ValueError(
                    f"{self.path.name} was made with {name} {was!r}, here it is {value!r}, so going on would not "
                    f"give the same numbers: go on with {name} {was!r}, or start over with --rerun"
                )
        return tensors, facts

    def discard(self) -> None:
        """Removes the file, if there is one."""
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Renames a damaged file, so that the pack can start over."""
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        return aside


def conditions(device: str, seeds: list[int]) -> dict[str, Any]:
    """What must not change between two parts of one training."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device, "pack": seeds}


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    found = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        t = tensors[name]
        found.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

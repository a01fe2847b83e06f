"""What replays hold, on disk: files that are only ever added, beside the checkpoint that says which of them count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from pliant.run.checkpoint import Damaged
from pliant.run.files import sha256, write_bytes

Ring = tuple[Tensor, Sequence[int]]
"""A tensor `(members, room, ...)` in which entry n of a member is at n % room, and how many of each were added."""

Facts = dict[str, Any]


class Segments:
    """The entries of rings, a file for what came between two checkpoints; what was overwritten since is dropped.

    A file counts once a checkpoint lists it: a process that is killed between the two leaves one that the next
    checkpoint removes. Files are mapped into memory when they are read.

    >>> import tempfile
    >>> ring, added = torch.arange(4.0)[None], [0]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     segments = Segments(Path(folder) / "replay")
    ...     for added in ([3], [7]):  # 0, 1, 2; then 3, 4, 5, 6, of which the last overwrote 0, 1, 2
    ...         segments.settle(listed := segments.add({"frame": (ring, added)}))
    ...     again = torch.zeros(1, 4)
    ...     segments.read(listed, {"frame": (again, [7])})
    >>> [(part["first"], part["last"]) for part in listed], torch.equal(again, ring)
    ([({'frame': [3]}, {'frame': [7]})], True)
    """

    def __init__(self, folder: Path):
        self.folder, self.listed = folder, list[Facts]()

    def add(self, rings: Mapping[str, Ring]) -> list[Facts]:
        """Writes what was added since the latest file; returns the files that hold all entries, for a checkpoint."""
        before = self.listed[-1]["last"] if self.listed else {}
        first, last, tensors = {}, {}, {}
        for path, (ring, added) in rings.items():
            room, last[path] = ring.shape[1], list(added)
            known = before.get(path, [0] * len(added))
            first[path] = [max(a, b - room) for a, b in zip(known, added, strict=True)]
            for m, (a, b) in enumerate(zip(first[path], added, strict=True)):
                if a < b:
                    tensors[f"{path}/{m}"] = ring[m, _places(a, b, room).to(ring.device)].cpu().contiguous()
        listed = self.listed
        if tensors:
            number = int(Path(listed[-1]["file"]).stem) + 1 if listed else 0
            path = self.folder / f"{number:08d}.safetensors"
            self.folder.mkdir(exist_ok=True)
            write_bytes(path, serialise(tensors))
            listed = [*listed, {"file": path.name, "sha256": sha256(path), "first": first, "last": last}]
        return [facts for facts in listed if self._of_use(facts, rings)]

    def settle(self, listed: list[Facts]) -> None:
        """Takes note that a checkpoint lists these files; all others are removed."""
        self.listed = listed
        names = {facts["file"] for facts in listed}
        for path in self.folder.glob("*"):
            if path.name not in names:
                path.unlink()

    def check(self, listed: list[Facts]) -> None:
        """Raises `Damaged` where a file that a checkpoint lists is missing or altered."""
        for facts in listed:
            path = self.folder / facts["file"]
            if not path.is_file() or sha256(path) != facts["sha256"]:
                raise Damaged(f"{path} is missing, or has been altered (its checksum does not fit)")

    def read(self, listed: list[Facts], rings: Mapping[str, Ring]) -> None:
        """Fills the rings, to each of which so many entries were added, from the files that a checkpoint lists."""
        self.listed = listed
        for facts in listed:
            for path, m, entries in self._entries(facts):
                ring, added = rings[path]
                room, (a, b) = ring.shape[1], (facts["first"][path][m], facts["last"][path][m])
                start = max(a, added[m] - room)
                if start < b:
                    ring[m, _places(start, b, room).to(ring.device)] = entries[start - a :].to(ring.device)

    def _entries(self, facts: Facts) -> Iterator[tuple[str, int, Tensor]]:
        try:
            with safe_open(self.folder / facts["file"], framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    path, _, m = name.rpartition("/")
                    yield path, int(m), file.get_tensor(name)
        except SafetensorError as error:
            raise Damaged(f"{self.folder / facts['file']} is no readable segment ({error})") from None

    def _of_use(self, facts: Facts, rings: Mapping[str, Ring]) -> bool:
        """Whether any of its entries is still there."""
        return any(
            b > max(a, now - ring.shape[1])
            for path, (ring, added) in rings.items()
            for a, b, now in zip(facts["first"][path], facts["last"][path], added, strict=True)
        )


def _places(first: int, last: int, room: int) -> Tensor:
    return torch.arange(first, last) % room

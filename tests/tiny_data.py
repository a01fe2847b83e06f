"""A tiny data set with the real formats, and sources that need no network."""

import gzip
import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pliant.data import cache, catalogue
from pliant.data.catalogue import Spec
from pliant.data.formats import IDX_FILES, NAMES, Arrays, Form, idx_header
from pliant.data.sources import Source, Undelivered


@dataclass(frozen=True)
class Fake:
    """A source that copies prepared files, or fails with `error`; `ask` runs at each delivery."""

    label: str
    form: Form
    folder: Path
    error: str | None = None
    ask: Callable[[], None] = lambda: None

    def unavailable(self, name: str) -> str | None:
        return None

    def deliver(self, name: str, into: Path) -> list[Path]:
        self.ask()
        if self.error is not None:
            raise Undelivered(self.error)
        return [Path(shutil.copy(self.folder / file, into)) for file in self.form.files]


def tiny_arrays(shape: tuple[int, ...] = (1, 5, 4), seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for part, count in (("train", 12), ("test", 6)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count, dtype=np.int64) % 3
    return arrays


def idx_files(arrays: Arrays) -> dict[str, bytes]:
    images = {name: array[:, 0] if name.startswith("x") else array for name, array in arrays.items()}
    return {
        file: idx_header(images[name].shape) + images[name].astype(np.uint8).tobytes()
        for file, name in zip(IDX_FILES, NAMES, strict=True)
    }


def write_tgz(path: Path, files: dict[str, bytes], folder: str = "package") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_gzipped(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in idx_files(arrays).items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def tiny_spec(arrays: Arrays, *sources: Source, idx: bool = True) -> Spec:
    train, test = arrays["x_train"], arrays["x_test"]
    hashes = tuple(cache.digest(arrays[name], idx) for name in NAMES)
    return replace(
        catalogue.MNIST,
        name="tiny",
        shape=train.shape[1:],
        num_train=len(train),
        num_test=len(test),
        num_classes=3,
        mean=(0.5,) * train.shape[1],
        std=(0.25,) * train.shape[1],
        sha256=hashes,
        idx_hashes=idx,
        sources=sources,
    )

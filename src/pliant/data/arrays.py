"""A user's own arrays, from an .npz file, checked before anything trains on them."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pliant.data.dataset import Dataset, channel_moments

KEYS = ("x", "y", "x_test", "y_test")
LARGE, RATIO = 1 << 30, 100  # an array above this many bytes is compressed so many times at most
BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, EOFError, TypeError, KeyError, OverflowError,
    NotImplementedError, RuntimeError, SyntaxError, MemoryError,
)  # fmt: skip
"""What a damaged or hostile .npz file makes its readers raise."""


def load_npz(path: Path) -> Dataset:
    """A data set from an .npz file holding x and y, and optionally x_test and y_test.

    x is (n, d) or (n, C, H, W), uint8 (scale 255) or floating (scale 1); y is (n,), integers 0..K-1 for K classes, or
    floating for regression. Raises ValueError that names the argument for anything else.

    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mine.npz", x=np.eye(4), y=[0, 1, 1, 0])
    ...     load_npz(Path(folder, "mine.npz"))
    Dataset('mine', train (4, 4) float64, no test set, 2 classes)
    """
    arrays = _read(path)
    x, y = _inputs("x", arrays["x"]), _targets("y", arrays["y"], len(arrays["x"]))
    x_test = y_test = None
    if "x_test" in arrays:
        x_test = _inputs("x_test", arrays["x_test"])
        y_test = _targets("y_test", arrays["y_test"], len(x_test))
        if (x_test.shape[1:], x_test.dtype) != (x.shape[1:], x.dtype):
            raise ValueError(
                f"x_test: expected examples like those of x, {x.shape[1:]} {x.dtype}, got {x_test.shape[1:]} "
                f"{x_test.dtype}; write both with the same shape and dtype"
            )
        if y_test.dtype != y.dtype:
            raise ValueError(f"y_test: expected dtype {y.dtype} as in y, got {y_test.dtype}; write it with that dtype")
    num_classes = _count_classes(y, y_test) if y.dtype == np.int64 else None
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    mean, std = channel_moments(x, scale)
    return Dataset(path.stem, x, y, x_test, y_test, num_classes, scale, mean, std)


def read_npz(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the named arrays that an .npz file holds, and the names of all; raises one of `BROKEN` for a bad file.

    A header is believed only where as many bytes follow it, and no array beyond a gigabyte is more than 100 times as
    large as in the file: neither a lying header nor a few kilobytes that unpack to terabytes take memory.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in [name for name in names if name in found]:
            about = archive.getinfo(f"{name}.npy")
            size = about.file_size
            if size > max(LARGE, RATIO * about.compress_size):
                raise ValueError(f"{name} would be {size:,} bytes, from {about.compress_size:,}: write np.savez")
            with archive.open(f"{name}.npy") as file:
                major, _ = np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = header(file)
                if dtype.hasobject:
                    raise ValueError(f"{name} holds pickled objects")
                if any(part < 0 for part in shape) or math.prod(shape) * dtype.itemsize > size:
                    raise ValueError(f"{name} claims shape {shape} and has {size:,} bytes")
                content = file.read(math.prod(shape) * dtype.itemsize)
            flat = np.frombuffer(content, dtype) if content else np.zeros(0, dtype)
            arrays[name] = flat.reshape(shape, order="F" if fortran else "C").copy()
    return arrays, found


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"data: expected a file of arrays, got {str(path)!r}, which does not exist")
    try:
        arrays, found = read_npz(path, KEYS)
    except (*BROKEN, OSError) as error:
        raise ValueError(
            f"data: expected an .npz file of plain arrays, got {str(path)!r}, which cannot be read ({error}); "
            f"write np.savez(path, x=x, y=y)"
        ) from error
    missing = [key for key in ("x", "y") if key not in arrays]
    if not missing and ("x_test" in arrays) != ("y_test" in arrays):
        missing = [key for key in KEYS[2:] if key not in arrays]
    if missing:
        raise ValueError(
            f"{missing[0]}: expected in {str(path)!r}, got only {', '.join(found) or 'an empty file'}; "
            f"write np.savez(path, x=x, y=y) or np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)"
        )
    return arrays


def _inputs(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"{name}: expected uint8 or floating, got {x.dtype}; write {name}={name}.astype(np.float32)")
    if x.ndim not in (2, 4):
        raise ValueError(
            f"{name}: expected shape (n, d) or (n, C, H, W), got {x.shape}; write {name}[:, None] to add a channel to "
            f"images, or {name}.reshape(len({name}), -1)"
        )
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one example, got shape {x.shape}")
    if x.dtype.kind == "f" and not (finite := np.isfinite(x)).all():
        bad = np.argwhere(~finite)
        first = tuple(map(int, bad[0]))
        raise ValueError(
            f"{name}: expected finite values, got {len(bad)} that are NaN or infinite, the first ({x[first]}) at "
            f"{list(first)}; write {name}=np.nan_to_num({name}) or drop those examples"
        )
    return x


def _targets(name: str, y: np.ndarray, num_examples: int) -> np.ndarray:
    if y.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected integer labels or floating targets, got {y.dtype}; write np.int64 labels")
    if y.ndim != 1:
        raise ValueError(
            f"{name}: expected shape (n,), got {y.shape}; write {name}.argmax(1) for one-hot labels, {name}.ravel() "
            f"for a column"
        )
    if len(y) != num_examples:
        raise ValueError(
            f"{name}: expected one target an example, {num_examples}, got {len(y)}; write {name}[:{num_examples}] or "
            f"check how the two were made"
        )
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            first = int(np.flatnonzero(~np.isfinite(y))[0])
            raise ValueError(f"{name}: expected finite targets, got {y[first]} at [{first}]; drop those examples")
        return y
    return y.astype(np.int64)


def _count_classes(y: np.ndarray, y_test: np.ndarray | None) -> int:
    """K when the labels are exactly 0..K-1; gaps would give the network outputs that no example ever uses."""
    labels = np.unique(y)
    num_classes = len(labels)
    for name, used in (("y", labels), ("y_test", labels[:0] if y_test is None else np.unique(y_test))):
        outside = used[(used < 0) | (used >= num_classes)]
        if len(outside):
            raise ValueError(
                f"{name}: expected labels 0..{num_classes - 1} (y has {num_classes} different ones), got {outside[0]}; "
                f"write y=np.unique(y, return_inverse=True)[1] (floating targets mean regression)"
            )
    return num_classes

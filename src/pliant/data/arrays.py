"""A user's own arrays, from an .npz file, checked before anything trains on them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from pliant.data.dataset import Dataset, channel_moments

KEYS = ("x", "y", "x_test", "y_test")


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


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"data: expected a file of arrays, got {str(path)!r}, which does not exist")
    try:
        # Opened here: on a broken archive, np.load would leave its own file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in KEYS}
            found = archive.files
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError) as error:
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

"""Fetching once, verifying always: nothing enters the cache before its hash was right, nor by halves."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from pliant.data.catalogue import PUBLISHED, Spec
from pliant.data.dataset import channel_moments
from pliant.data.formats import NAMES, Arrays, Damaged, Form, idx_header
from pliant.data.sources import Source, Undelivered

Progress = Callable[[str], None]


class DataUnavailable(OSError):
    """A data set cannot be had: no source delivered it, or the cache folder cannot be written.

    >>> issubclass(DataUnavailable, OSError)
    True
    """


def cache_folder() -> Path:
    """The folder of all cached data sets: `PLIANT_CACHE`, or where this platform keeps caches."""
    if chosen := os.environ.get("PLIANT_CACHE"):
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("pliant"))


def cached_arrays(spec: Spec) -> Arrays | None:
    """The cached arrays, memory-mapped and verified; None when they were not fetched. Raises Damaged."""
    arrays = open_arrays(spec)
    if arrays is not None:
        verify(spec, arrays, _paths(spec))
    return arrays


def open_arrays(spec: Spec) -> Arrays | None:
    """The cached arrays as they lie there, not verified."""
    paths = _paths(spec)
    if not all(path.is_file() for path in paths):
        return None
    arrays: Arrays = {}
    for name, path in zip(NAMES, paths, strict=True):
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise Damaged(path, f"cannot be read ({error})") from error
    return arrays


def verify(spec: Spec, arrays: Arrays, paths: list[Path]) -> None:
    """Raises Damaged, with the path at fault, unless these are the published arrays. 0.4 s for CIFAR-10."""
    sizes = {"train": spec.num_train, "test": spec.num_test}
    for index, name in enumerate(NAMES):
        array = arrays[name]
        path = paths[min(index, len(paths) - 1)]  # one file an array, or one archive
        kind, _, part = name.partition("_")
        shape, dtype = ((sizes[part], *spec.shape), np.uint8) if kind == "x" else ((sizes[part],), np.int64)
        if array.shape != shape or array.dtype != dtype:
            raise Damaged(
                path, f"expected {name} as {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}: other data"
            )
        # Labels are hashed as bytes: one outside their range would wrap around unnoticed.
        in_range = kind == "x" or (array.min() >= 0 and array.max() < spec.num_classes)
        got, expected = digest(array, spec.idx_hashes), spec.sha256[index]
        if not in_range or got != expected:
            raise Damaged(path, f"expected {name} with SHA-256 {expected[:12]}..., got {got[:12]}...: other data")


def digest(array: np.ndarray, idx: bool) -> str:
    """SHA-256 of images (n, C, H, W) or labels (n,) as the published uint8 bytes, images channels-last."""
    published = array if array.ndim == 1 else np.moveaxis(array, 1, -1)
    sha = hashlib.sha256()
    if idx:
        sha.update(idx_header(array.shape if array.ndim == 1 else (len(array), *array.shape[2:])))
    for start in range(0, len(array), 1000):  # in pieces, so that no second copy of the whole is made
        sha.update(np.ascontiguousarray(published[start : start + 1000], dtype=np.uint8).data)
    return sha.hexdigest()


def measured(spec: Spec, progress: Progress | None = None) -> Spec:
    """The entry with what follows from the data, from the first source that delivers; nothing is verified or kept.

    Raises DataUnavailable with the reason of every source.
    """
    failures: list[str] = []
    for source in spec.sources:
        if (reason := source.unavailable(spec.name)) is None:
            say(progress, f"{spec.name}: trying {source.label}")
            with tempfile.TemporaryDirectory() as incoming:
                try:
                    arrays = _decode(source.form, source.deliver(spec.name, Path(incoming)))
                    return replace(spec, **_facts(arrays, spec))
                except (Undelivered, Damaged) as failure:
                    reason = str(failure)
        failures.append(f"  {source.label}: {reason}")
    raise DataUnavailable("\n".join([f"{spec.name} could not be measured:", *failures]))


def _facts(arrays: Arrays, spec: Spec) -> dict[str, Any]:
    x, y = arrays["x_train"], arrays["y_train"]
    moments = channel_moments(x, spec.scale)
    mean, std = (tuple(round(number, 4) for number in numbers) for numbers in moments)
    return {
        "shape": x.shape[1:], "num_train": len(x), "num_test": len(arrays["x_test"]),
        "num_classes": int(max(y.max(), arrays["y_test"].max())) + 1, "mean": mean, "std": std,
        "sha256": tuple(digest(arrays[name], spec.idx_hashes) for name in NAMES),
    }  # fmt: skip


def fetch_spec(spec: Spec, progress: Progress | None = None) -> Path:
    """The folder with the cached arrays, fetched from the first source that delivers the published data.

    `progress` gets a line for each step; without it, only files that had to be rejected are warned about. Raises
    DataUnavailable with the reason of every source, ValueError for an entry without hashes.
    """
    if not spec.sha256:
        raise ValueError(f"data: {spec.name} has no hashes yet: `pliant data measure {spec.name}`, and into its entry")
    folder = cache_folder() / spec.name
    failures: list[str] = []
    # Before anything is written: a shared cache may be read-only.
    with contextlib.suppress(Damaged):
        if cached_arrays(spec) is not None:
            return folder
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, spec.name, progress):
            try:
                if cached_arrays(spec) is not None:  # another process fetched it meanwhile
                    return folder
            except Damaged as damage:
                say(progress, f"{spec.name}: {_set_aside(damage, folder, spec, progress)}")
            for source in spec.sources:
                reason = _fetch_from(source, spec, folder, progress)
                if reason is None:
                    say(progress, f"{spec.name}: verified, in {folder}")
                    return folder
                failures.append(f"  {source.label}: {reason}")
    offline = ["digits", *(name for name, other in PUBLISHED.items() if is_cached(other))]
    raise DataUnavailable(
        "\n".join(
            [
                f"{spec.name} could not be fetched:",
                *failures,
                f"Without a network these work: {', '.join(offline)}.",
                f"Or put {' or '.join(_offers(spec))} into a folder and set PLIANT_DATA to it.",
            ]
        )
    )


def _fetch_from(source: Source, spec: Spec, folder: Path, progress: Progress | None) -> str | None:
    """Why nothing came from this source, or None when its arrays are verified and stored."""
    if reason := source.unavailable(spec.name):
        return reason
    say(progress, f"{spec.name}: trying {source.label}")
    # Inside the cache folder, so that moving a file out of it is one atomic step.
    with tempfile.TemporaryDirectory(prefix="incoming-", dir=folder) as incoming:
        try:
            paths = source.deliver(spec.name, Path(incoming))
            arrays = _decode(source.form, paths)
            verify(spec, arrays, paths)
            _store(arrays, Path(incoming), folder)
            return None
        except Undelivered as failure:
            reason = str(failure)
        except Damaged as damage:
            reason = _set_aside(damage, folder, spec, progress)
    say(progress, f"{spec.name}: not from {source.label}: {reason}")
    return reason


def is_cached(spec: Spec) -> bool:
    """Whether all four arrays lie in the cache with the right shapes; `cached_arrays` looks inside them."""
    try:
        arrays = open_arrays(spec)
    except (Damaged, OSError):
        return False
    return arrays is not None and arrays["x_train"].shape == (spec.num_train, *spec.shape)


def _paths(spec: Spec) -> list[Path]:
    return [cache_folder() / spec.name / f"{name}.npy" for name in NAMES]


def _offers(spec: Spec) -> list[str]:
    return list(dict.fromkeys(", ".join(source.form.files) for source in spec.sources))


def _decode(form: Form, paths: list[Path]) -> Arrays:
    if form.sha256 is not None:
        with open(paths[0], "rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != form.sha256:
            raise Damaged(paths[0], f"expected SHA-256 {form.sha256[:12]}..., got {got[:12]}...: truncated or corrupt")
    return form.decode(paths)


def _store(arrays: Arrays, incoming: Path, folder: Path) -> None:
    """Written and synced next door, then renamed: a reader sees a whole file or none, whenever we are interrupted."""
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        with open(incoming / f"{name}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)  # np.save would report a full disk without saying that it is full
            file.flush()
            os.fsync(file.fileno())
    for name in arrays:
        os.replace(incoming / f"{name}.npy", folder / f"{name}.npy")


def _set_aside(damage: Damaged, folder: Path, spec: Spec, progress: Progress | None) -> str:
    """Renames a file of ours to `*.rejected`, for whoever wants to look; a user's own file is left as it is."""
    reason = f"{damage}; left as it is"
    if damage.path.is_relative_to(folder):
        kept = folder / f"{damage.path.name}.rejected"
        os.replace(damage.path, kept)
        reason = f"{damage}; set aside as {kept}"
    if progress is None:
        warnings.warn(f"{spec.name}: {reason}; trying the next source", stacklevel=3)
    return reason


def say(progress: Progress | None, line: str) -> None:
    """Tells somebody who wants to know how far it is."""
    if progress is not None:
        progress(line)


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[None]:
    """DataUnavailable, with the folder, in place of an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataUnavailable(
            f"the cache folder {folder} cannot be written: {reason}; nothing was kept by halves. Free some room or "
            f"write PLIANT_CACHE=FOLDER to use another folder"
        ) from error


@contextlib.contextmanager
def lock(folder: Path, name: str, progress: Progress | None) -> Iterator[None]:
    """Held by one process at a time, released by the system when that process dies."""
    with open(folder / "lock", "w") as file:
        if _locked(file, name, progress):
            for stale in folder.glob("incoming-*"):  # of a process that was killed: nobody else is writing here now
                shutil.rmtree(stale, ignore_errors=True)
        yield


def _locked(file: IO[str], name: str, progress: Progress | None) -> bool:
    try:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(progress, f"{name}: waiting for another process that is fetching it")
            fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        # Windows and some cluster file systems have no such lock. Two processes may then both fetch, which is only
        # waste: files are renamed into place whole.
        return False
    return True

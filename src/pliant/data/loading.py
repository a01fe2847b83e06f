"""Names and paths to data sets."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pliant.data.arrays import load_npz
from pliant.data.cache import Progress, cache_folder, cached_arrays, fetch_spec, is_cached, measured
from pliant.data.cameras import COMPOSITED, Cameras
from pliant.data.catalogue import MEASURED, PUBLISHED
from pliant.data.dataset import Dataset, channel_moments
from pliant.data.formats import Damaged
from pliant.data.iwildcam import FOLDER, LICENCE, SIDES, found, load_iwildcam


@dataclass(frozen=True)
class DatasetInfo:
    """What `pliant data list` shows of one data set, known without the network.

    `train_shape` and `test_shape` are (n, C, H, W), where n and `num_classes` are 0 for what is known only once images
    were read; `sources` could deliver it, `unavailable` could not, and why.

    >>> from pliant import data
    >>> data.available()[1].train_shape
    (60000, 1, 28, 28)
    """

    name: str
    train_shape: tuple[int, ...]
    test_shape: tuple[int, ...]
    num_classes: int
    licence: str
    citation: str
    cached: bool
    sources: tuple[str, ...]
    unavailable: tuple[str, ...]


def load(name_or_path: str) -> Dataset:
    """A data set by its name, one of `available()`, or a user's own arrays from an .npz file.

    Fetches what is not cached; what is cached is memory-mapped and verified again (0.03 to 0.4 s). "digits" (Alpaydin
    and Kaynak 1998, inside scikit-learn) comes without a split: every fifth of each class is for testing here.
    "cameras" (Fashion-MNIST pasted into CIFAR-10) and "cameras-digits" are composited when they are loaded; "iwildcam",
    at 128 x 128, and "iwildcam-32" are read from the folder of WILDS in `PLIANT_DATA`: these four have domains. Raises
    ValueError for an unknown name or bad arrays, DataUnavailable when no source delivers.

    >>> load("digits").y_train[:8].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> load("mnits")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: data: unknown set 'mnits', did you mean 'mnist'? Known: digits, mnist, ...
    """
    if name_or_path.endswith(".npz"):
        return load_npz(Path(name_or_path).expanduser())
    _check(name_or_path)
    if name_or_path == "digits":
        return _digits()
    if name_or_path in COMPOSITED:
        made = COMPOSITED[name_or_path]
        return made.compose(load(made.items), load(made.backgrounds))
    if name_or_path in SIDES:
        return load_iwildcam(name_or_path)
    spec = PUBLISHED[name_or_path]
    try:
        arrays = cached_arrays(spec)
    except Damaged:
        arrays = None  # fetch_spec names it and sets it aside
    if arrays is None:
        fetch_spec(spec)
        arrays = cached_arrays(spec)
        assert arrays is not None
    return Dataset(
        **arrays, name=spec.name, num_classes=spec.num_classes, scale=spec.scale, mean=spec.mean, std=spec.std
    )


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The folder where a data set lies ready, fetched and verified if it was not.

    `progress` is called with a line of text at each step; without it, only rejected files are warned about. Raises
    ValueError for an unknown name, DataUnavailable (every source with its reason) when none delivers or the cache
    folder cannot be written.

    >>> (fetch("digits") / "digits.csv.gz").is_file()
    True
    """
    _check(name)
    if name == "digits":
        package = find_spec("sklearn")  # importing it takes a second
        assert package is not None
        assert package.origin is not None
        return Path(package.origin).parent / "datasets" / "data"
    if name in COMPOSITED:
        for part in _parts(COMPOSITED[name]):
            fetch(part, progress)
        return cache_folder()
    if name in SIDES:
        load_iwildcam(name, progress)
        return cache_folder() / name
    return fetch_spec(PUBLISHED[name], progress)


def measure(name: str, progress: Progress | None = None) -> dict[str, Any]:
    """What follows from the data in the entry of a published data set: sizes, moments and hashes, by field.

    For writing an entry: fetched from the first source that delivers, verified against nothing, not kept. Raises
    ValueError for an unknown name, DataUnavailable when no source delivers.

    >>> measure("digits")
    Traceback (most recent call last):
    ValueError: data: expected a set of pliant.data.catalogue, got 'digits', which is inside scikit-learn
    """
    _check(name)
    if name not in PUBLISHED:
        where = (
            "inside scikit-learn" if name == "digits" else "made here" if name in COMPOSITED else "read from a folder"
        )
        raise ValueError(f"data: expected a set of pliant.data.catalogue, got {name!r}, which is {where}")
    spec = measured(PUBLISHED[name], progress)
    return {field: getattr(spec, field) for field in MEASURED}


def available() -> list[DatasetInfo]:
    """Every data set that has a name, with its licence, whether it is cached, and which sources could deliver it.

    >>> for info in available()[:1]:
    ...     print(info.name, info.train_shape, info.licence, info.cached)
    digits (1442, 1, 8, 8) CC BY 4.0 (UCI); inside scikit-learn, BSD True
    """
    digits = DatasetInfo(
        name="digits",
        train_shape=(1442, 1, 8, 8),
        test_shape=(355, 1, 8, 8),
        num_classes=10,
        licence="CC BY 4.0 (UCI); inside scikit-learn, BSD",
        citation="Alpaydin and Kaynak 1998, Optical recognition of handwritten digits",
        cached=True,
        sources=("scikit-learn",),
        unavailable=(),
    )
    return [digits, *map(_info, PUBLISHED), *map(_composited, COMPOSITED.values()), *map(_wild, SIDES)]


def _info(name: str) -> DatasetInfo:
    spec = PUBLISHED[name]
    reasons = [(source.label, source.unavailable(name)) for source in spec.sources]
    return DatasetInfo(
        name=name,
        train_shape=(spec.num_train, *spec.shape),
        test_shape=(spec.num_test, *spec.shape),
        num_classes=spec.num_classes,
        licence=spec.licence,
        citation=spec.citation,
        cached=is_cached(spec),
        sources=tuple(label for label, reason in reasons if reason is None),
        unavailable=tuple(f"{label}: {reason}" for label, reason in reasons if reason is not None),
    )


def _composited(made: Cameras) -> DatasetInfo:
    parts = [_info(part) for part in _parts(made) if part != "digits"]
    shape = (3, made.side, made.side)
    return DatasetInfo(
        name=made.name,
        train_shape=(made.places * made.num_train, *shape),
        test_shape=(made.places * made.num_test, *shape),
        num_classes=11,
        licence=f"those of {' and '.join(_parts(made))}",
        citation=f"pliant's own, composited of {' and '.join(_parts(made))}: a stand-in for a natural shift",
        cached=all(part.cached for part in parts),
        sources=("composited",),
        unavailable=(),
    )


def _parts(made: Cameras) -> list[str]:
    return list(dict.fromkeys((made.items, made.backgrounds)))


def _wild(name: str) -> DatasetInfo:
    label = f"folder PLIANT_DATA ({FOLDER})"
    there, shape = found() is not None, (0, 3, SIDES[name], SIDES[name])
    return DatasetInfo(
        name=name,
        train_shape=shape,
        test_shape=shape,
        num_classes=0,
        licence=LICENCE,
        citation="Beery, Cole and Gjoka 2020, The iWildCam 2020 competition dataset; Koh et al. 2021 (WILDS)",
        cached=there,
        sources=(label,) if there else (),
        unavailable=() if there else (f"{label}: no {FOLDER}/metadata.csv in PLIANT_DATA",),
    )


def _check(name: str) -> None:
    known = ["digits", *PUBLISHED, *COMPOSITED, *SIDES]
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f", did you mean {nearest[0]!r}?" if nearest else "."
        raise ValueError(
            f"data: unknown set {name!r}{hint} Known: {', '.join(known)}, or a path to your own arrays, ending in .npz"
        )


def _digits() -> Dataset:
    rows = np.loadtxt(fetch("digits") / "digits.csv.gz", delimiter=",", dtype=np.uint8)  # whole numbers 0..16
    x, y = rows[:, :64].reshape(-1, 1, 8, 8), rows[:, 64].astype(np.int64)
    # No random draw: the order goes writer by writer, so this mixes writers, keeps classes balanced and needs no seed.
    test = np.zeros(len(x), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    mean, std = channel_moments(x[~test], 16.0)
    return Dataset("digits", x[~test], y[~test], x[test], y[test], 10, 16.0, mean, std)

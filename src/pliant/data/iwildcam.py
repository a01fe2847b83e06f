"""iWildCam as WILDS v2.0 publishes it: a folder with a table of images, read once and kept small."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pliant.data.cache import DataUnavailable, Progress, cache_folder, disk, lock, say
from pliant.data.dataset import Dataset, channel_moments

FOLDER = "iwildcam_v2.0"
SIDES = {"iwildcam": 128, "iwildcam-32": 32}
PLACES = 20  # at most: those with most images
HELD_OUT = 5  # every so many-th sequence of a place
COLUMNS = ("split", "location_remapped", "sequence_remapped", "y", "filename")
NAMED = 5  # files in a message
LICENCE = "CDLA-Permissive-1.0"


class Row(NamedTuple):
    """An image: its place, its sequence (images of one passing animal), its class, its file."""

    place: int
    sequence: int
    y: int
    filename: str


def found() -> Path | None:
    """The folder of WILDS, in `PLIANT_DATA` or it itself; None where it is not there."""
    root = os.environ.get("PLIANT_DATA")
    places = (Path(root).expanduser() / FOLDER, Path(root).expanduser()) if root else ()
    return next((place for place in places if (place / "metadata.csv").is_file()), None)


def load_iwildcam(name: str, progress: Progress | None = None) -> Dataset:
    """Images of the 20 places that have most of them, of WILDS' training split, as a data set with domains.

    Every fifth sequence of a place is held out, so that no sequence is split. Images are read once, as RGB, and kept as
    a memory-mapped array at 128 x 128 (or 32 x 32) in the cache; a file that changes is read again, with all others.
    Images that cannot be read are left out, counted and named in a warning at every load.

    Raises:
        DataUnavailable: `PLIANT_DATA` holds no such folder, or the cache cannot be written.
        ValueError: the table lacks columns, has a value that is no number, or names a file that is not there.
    """
    root = found()
    if root is None:
        said = os.environ.get("PLIANT_DATA")
        got = f"no {FOLDER}/metadata.csv in {said}" if said else "PLIANT_DATA is not set"
        raise DataUnavailable(
            f"{name}: {got}: get {FOLDER} of WILDS (12 GB; wilds.stanford.edu, {LICENCE}), unpack it, and set "
            "PLIANT_DATA to the folder that it is in"
        )
    rows, classes = _rows(root / "metadata.csv")
    rows = _chosen(rows)
    if not rows:
        raise ValueError(
            f"{root / 'metadata.csv'}: expected places with two sequences or more in split train, got none"
        )
    ready = _ready(name, root, rows, progress)
    facts = json.loads((ready / "facts.json").read_text())
    if facts["unreadable"]:
        _warn(name, facts["unreadable"], len(rows), ready / "facts.json")
    arrays = _arrays(ready, facts["shape"])
    return Dataset(
        name=name, num_classes=classes, scale=255.0, mean=tuple(facts["mean"]), std=tuple(facts["std"]), **arrays
    )


def _rows(path: Path) -> tuple[list[Row], int]:
    """The images of the training split, and how many classes there are in all."""
    kept, most = [], -1
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (table.fieldnames or ())]:
            raise ValueError(
                f"{path}: expected a column {missing[0]!r}, got {', '.join(table.fieldnames or ['nothing'])}"
            )
        for row in table:
            try:
                place, sequence, y = (int(row[column]) for column in COLUMNS[1:4])
                if min(place, y) < 0 or not row["filename"]:
                    raise ValueError
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {table.line_num}: expected {', '.join(COLUMNS[1:4])} as whole numbers from 0 and a "
                    f"filename, got {[row[column] for column in COLUMNS[1:]]}"
                ) from None
            most = max(most, y)
            if row["split"] == "train":
                kept.append(Row(place, sequence, y, row["filename"]))
    return kept, most + 1


def _chosen(rows: list[Row]) -> list[Row]:
    """The rows of the places with most images, of those with two sequences or more; places are numbered anew."""
    sequences: dict[int, set[int]] = {}
    for row in rows:
        sequences.setdefault(row.place, set()).add(row.sequence)
    count = Counter(row.place for row in rows if len(sequences[row.place]) > 1)
    first = sorted(count, key=lambda place: (-count[place], place))[:PLACES]
    number = {place: at for at, place in enumerate(sorted(first))}
    kept = (row._replace(place=number[row.place]) for row in rows if row.place in number)
    return sorted(kept, key=lambda row: (row.place, row.sequence))


def _held_out(rows: Sequence[Row]) -> np.ndarray:
    """Whether each row is held out: every fifth sequence of its place, or the last one of fewer."""
    sequences: dict[int, list[int]] = {}
    for row in rows:  # sorted
        if row.sequence not in (of := sequences.setdefault(row.place, [])):
            of.append(row.sequence)
    kept_back = {(place, s) for place, of in sequences.items() for s in (of[HELD_OUT - 1 :: HELD_OUT] or of[-1:])}
    return np.array([(row.place, row.sequence) in kept_back for row in rows])


def _ready(name: str, root: Path, rows: list[Row], progress: Progress | None) -> Path:
    """The folder in the cache that holds these images, made if it is not there."""
    key, folder = _key(root, rows), cache_folder() / name
    if (folder / key / "facts.json").is_file():
        return folder / key
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, name, progress):
            if (folder / key / "facts.json").is_file():  # another process made it meanwhile
                return folder / key
            with tempfile.TemporaryDirectory(prefix="incoming-", dir=folder) as incoming:
                _write(Path(incoming, key), root, rows, SIDES[name], lambda line: say(progress, f"{name}: {line}"))
                for old in folder.glob("[0-9a-f]" * len(key)):
                    shutil.rmtree(old)
                os.rename(Path(incoming, key), folder / key)
    return folder / key


def _key(root: Path, rows: list[Row]) -> str:
    """A checksum of the rows and of the sizes and times of their files; `ValueError` for files that are not there."""
    sha, gone = hashlib.sha256(), []
    for row in rows:
        try:
            about = os.stat(root / "train" / row.filename)
            sha.update(f"{row}{about.st_size},{about.st_mtime_ns}".encode())
        except FileNotFoundError:
            gone.append(row.filename)
    if gone:
        raise ValueError(
            f"{root / 'metadata.csv'} names {_some(gone)}, {len(gone)} of {len(rows):,} images, which {_are(gone)} "
            f"not in {root / 'train'}: unpack the archive again, or take {_them(gone)} out of metadata.csv"
        )
    return sha.hexdigest()[:16]


def _write(folder: Path, root: Path, rows: list[Row], side: int, tell: Progress) -> None:
    """Writes images as raw bytes, one after another, so that no more than one is held; then what is known of them."""
    folder.mkdir()
    test, unreadable = _held_out(rows), {}
    kept = np.ones(len(rows), bool)
    with open(folder / "x_train", "wb") as train, open(folder / "x_test", "wb") as held_out:
        for at, row in enumerate(rows):
            if at % 5000 == 0:
                tell(f"reading image {at:,} of {len(rows):,}")
            try:
                image = _image(root / "train" / row.filename, side)
            except ValueError as error:
                unreadable[row.filename], kept[at] = str(error), False
                continue
            (held_out if test[at] else train).write(image.tobytes())
    shape = (3, side, side)
    for part, which in (("train", kept & ~test), ("test", kept & test)):
        np.save(folder / f"y_{part}.npy", np.array([rows[at].y for at in np.flatnonzero(which)], np.int64))
        np.save(folder / f"domain_{part}.npy", np.array([rows[at].place for at in np.flatnonzero(which)], np.int64))
        if not which.any():
            raise ValueError(f"{root}: expected images that can be read, got {_some(list(unreadable))} that cannot")
    x_train = np.memmap(folder / "x_train", np.uint8, "r", shape=(int((kept & ~test).sum()), *shape))
    mean, std = channel_moments(x_train, 255.0)
    facts = {"shape": shape, "mean": mean, "std": std, "unreadable": unreadable}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))


def _image(path: Path, side: int) -> np.ndarray:
    """An image, (3, side, side); `ValueError` with the reason where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            shrunk = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(shrunk).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _arrays(ready: Path, shape: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays of a data set by name, images memory-mapped."""
    names = [f"{kind}_{part}" for kind in ("y", "domain") for part in ("train", "test")]
    found = {name: np.load(ready / f"{name}.npy", allow_pickle=False) for name in names}
    for part in ("train", "test"):
        images = (len(found[f"y_{part}"]), *shape)
        found[f"x_{part}"] = np.memmap(ready / f"x_{part}", np.uint8, "r", shape=images)
    return found


def _warn(name: str, unreadable: dict[str, str], number: int, listed: Path) -> None:
    said = [f"{file} ({why})" for file, why in unreadable.items()]
    more = f", ...: all are named in {listed}" if len(said) > NAMED else ""
    warnings.warn(
        f"{name}: {len(said)} of {number:,} images cannot be read and {_are(said)} left out: "
        f"{', '.join(said[:NAMED])}{more}",
        stacklevel=4,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _them(several: Sequence[object]) -> str:
    return "its row" if len(several) == 1 else "their rows"

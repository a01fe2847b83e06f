"""iWildCam's folder, as WILDS publishes it, in small: places, sequences, odd images, and what is missing or broken."""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pliant import data
from pliant.data.dataset import channel_moments

COLUMNS = (
    "", "split", "location_remapped", "location", "sequence_remapped", "seq_id", "y", "category_id", "datetime",
    "filename", "image_id",
)  # fmt: skip


def row(place: int, sequence: int, number: int, split: str = "train") -> dict[str, object]:
    """A row of metadata.csv; a sequence may go over midnight, and times may have a fraction."""
    time = f"2013-06-0{1 + number % 2} 23:59:5{number % 10}" + (".250000" if number % 3 else "")
    name = f"{split}-{place}-{sequence}-{number}.jpg"
    return {
        "": number, "split": split, "location_remapped": place, "location": 100 + place, "sequence_remapped": sequence,
        "seq_id": f"s{sequence}", "y": (place + number) % 5, "category_id": 7 * ((place + number) % 5),
        "datetime": time, "filename": name, "image_id": name.removesuffix(".jpg"),
    }  # fmt: skip


def shade(one: dict[str, object]) -> int:
    """The grey of an image, by which it is told."""
    return 10 * int(one["location_remapped"]) + 7 * int(one["sequence_remapped"]) % 90 + int(one[""]) + 30  # type: ignore[call-overload]


def wilds(root: Path) -> list[dict[str, object]]:
    """Places 4, 5 and 9 of 6 sequences of 2 images, of one sequence place 7, and test images of place 4."""
    rows = [row(place, sequence, number) for place in (4, 5, 9) for sequence in range(6) for number in (0, 1)]
    rows += [row(7, 0, number) for number in range(20)] + [row(4, 9, 0, "test"), row(4, 8, 0, "id_val")]
    (root / "train").mkdir(parents=True)
    for at, one in enumerate(rows):
        size = (40 + at, 30 + 2 * (at % 7))
        colour = shade(one)
        image = Image.new("L", size, colour) if at == 3 else Image.new("RGB", size, (colour, colour // 2, 0))
        image.save(root / "train" / str(one["filename"]), "JPEG")
    table(root, rows)
    return rows


def table(root: Path, rows: list[dict[str, object]]) -> None:
    with open(root / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "iwildcam_v2.0"


def test_places_are_domains_and_no_sequence_is_split(root: Path) -> None:
    rows = wilds(root)
    found = data.load("iwildcam-32")
    assert isinstance(found.x_train.base, np.memmap) or isinstance(found.x_train, np.memmap)
    assert (found.shape, found.num_classes, found.x_train.dtype) == ((3, 32, 32), 5, np.uint8)
    assert found.domain_train is not None
    assert found.domain_test is not None
    kept = {"train": [], "test": []}
    for place, number in ((4, 0), (5, 1), (9, 2)):  # place 7 has one sequence: nothing could be held out
        for one in rows:
            if one["location_remapped"] == place and one["split"] == "train":
                part = "test" if one["sequence_remapped"] == 4 else "train"  # the fifth
                kept[part].append((number, one["y"], shade(one), one is rows[3]))
    for part, x, y, domain in (
        ("train", found.x_train, found.y_train, found.domain_train),
        ("test", found.x_test, found.y_test, found.domain_test),
    ):
        assert [(int(d), int(label)) for d, label in zip(domain, y, strict=True)] == [one[:2] for one in kept[part]]
        for image, (_, _, grey, single) in zip(x, kept[part], strict=True):
            wanted = np.array([grey] * 3 if single else [grey, grey // 2, 0])
            assert np.abs(image.reshape(3, -1) - wanted[:, None]).max() <= 4  # JPEG
    assert found.mean == channel_moments(np.array(found.x_train), 255.0)[0]


def test_images_are_read_once_and_again_when_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = wilds(root)
    first = np.array(data.load("iwildcam-32").x_train)
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, opens=Image.open: opened.append(path) or opens(path))
    assert (data.load("iwildcam-32").x_train == first).all()
    assert opened == []
    Image.new("RGB", (50, 50), (255, 255, 255)).save(root / "train" / str(rows[0]["filename"]), "JPEG")
    assert data.load("iwildcam-32").x_train[0].min() >= 254
    assert len(opened) == 36
    (left,) = (Path(os.environ["PLIANT_CACHE"]) / "iwildcam-32").glob("*/facts.json")  # the former is gone
    assert json.loads(left.read_text())["unreadable"] == {}
    assert data.load("iwildcam").shape == (3, 128, 128)


def test_images_that_cannot_be_read_are_named_and_counted_every_time(root: Path) -> None:
    rows = wilds(root)
    broken, text = (root / "train" / str(rows[at]["filename"]) for at in (1, 14))
    broken.write_bytes(broken.read_bytes()[:300])
    text.write_text("no image")
    for _ in range(2):
        with pytest.warns(UserWarning, match="iwildcam-32: 2 of 36 images cannot be read and are left out: ") as told:
            found = data.load("iwildcam-32")
        assert broken.name in str(told[0].message)
        assert text.name in str(told[0].message)
        assert len(found.x_train) == 28
        left = [one["y"] for at, one in enumerate(rows[:36]) if at % 12 // 2 != 4 and at not in (1, 14)]
        assert found.y_train.tolist() == left
    for one in rows[2:10]:
        (root / "train" / str(one["filename"])).write_text("no image")
    with pytest.warns(
        UserWarning, match="10 of 36 images cannot be read and are left out: .*, ...: all are named in"
    ) as told:
        data.load("iwildcam-32")
    listed = json.loads(Path(str(told[0].message).rpartition(" ")[2]).read_text())["unreadable"]
    assert len(listed) == 10
    assert all(listed.values())


def test_a_row_without_its_file_is_an_error_that_names_it(root: Path) -> None:
    rows = wilds(root)
    (root / "train" / str(rows[-2]["filename"])).unlink()  # of the test split, which is not read
    data.load("iwildcam-32")
    (root / "train" / "train-5-2-1.jpg").unlink()
    said = "names train-5-2-1.jpg, 1 of 36 images, which is not in .*train: unpack the archive again, or take its row"
    with pytest.raises(ValueError, match=said):
        data.load("iwildcam-32")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("y", "owl", "line 2: expected location_remapped, sequence_remapped, y as whole numbers from 0 and a filename"),
        ("location_remapped", "-1", "line 2: expected location_remapped"),
        ("filename", "", "line 2: expected location_remapped"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(root: Path, column: str, value: str, said: str) -> None:
    rows = wilds(root)
    rows[0][column] = value
    table(root, rows)
    with pytest.raises(ValueError, match=said):
        data.load("iwildcam-32")


def test_columns_places_and_folders_that_are_missing_are_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        data.DataUnavailable, match=re.escape(f"iwildcam: no iwildcam_v2.0/metadata.csv in {root.parent}")
    ):
        data.load("iwildcam")
    wilds(root)
    (root / "metadata.csv").write_text("split,y\ntrain,0\n")
    with pytest.raises(ValueError, match="expected a column 'location_remapped', got split, y"):
        data.load("iwildcam")
    table(root, [row(7, 0, number) for number in range(3)])
    with pytest.raises(ValueError, match="expected places with two sequences or more in split train, got none"):
        data.load("iwildcam")
    monkeypatch.delenv("PLIANT_DATA")
    with pytest.raises(data.DataUnavailable, match=r"PLIANT_DATA is not set: get iwildcam_v2.0 of WILDS"):
        data.load("iwildcam")


def test_it_is_listed_and_fetched(root: Path) -> None:
    def listed() -> data.DatasetInfo:
        return next(info for info in data.available() if info.name == "iwildcam-32")

    assert not listed().cached
    assert listed().unavailable == ("folder PLIANT_DATA (iwildcam_v2.0): no iwildcam_v2.0/metadata.csv in PLIANT_DATA",)
    wilds(root)
    assert listed().sources == ("folder PLIANT_DATA (iwildcam_v2.0)",)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = data.fetch("iwildcam-32", said.append)
    assert folder.is_dir()
    assert said == ["iwildcam-32: reading image 0 of 36"]

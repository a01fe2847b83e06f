"""The published formats, and what is refused in them."""

import gzip
import io
import json

import numpy as np
import pytest

from pliant.data.formats import (
    IDX_FILES,
    NAMES,
    Damaged,
    decode_cifar_binary,
    decode_cifar_png,
    decode_idx_files,
    decode_idx_tar,
    idx_header,
)
from tests.tiny_data import idx_files, tiny_arrays, write_gzipped, write_tgz


def assert_same(got, expected):
    assert list(got) == list(NAMES)
    for name in NAMES:
        assert got[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(got[name], expected[name])


def test_idx_files(arrays, tmp_path):
    folder = write_gzipped(tmp_path, arrays)
    assert_same(decode_idx_files([folder / f"{name}.gz" for name in IDX_FILES]), arrays)


def test_idx_files_in_an_archive(arrays, tmp_path):
    archive = write_tgz(tmp_path / "a.tgz", idx_files(arrays), "package/data")
    assert_same(decode_idx_tar([archive]), arrays)


def test_idx_header_by_hand():
    # 60,000 images of 28 x 28, from the description of the format
    assert idx_header((60_000, 28, 28)).hex() == "000008030000ea600000001c0000001c"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01" + b"\0\0\0\x01" + b"\0\0\0\0", "not an IDX file of uint8"),
        (b"\0\0\x08\x03\0\0", "truncated in its header"),
        (idx_header((60_000, 2_000, 2_000)), "its header claims shape"),
        (idx_header((4,)) + b"123", "expected 4 bytes after the header, got only 3"),
        (idx_header((4,)) + b"12345", "expected 4 bytes after the header, got more"),
        (gzip.compress(idx_header((4,)) + b"1234", mtime=0)[:-6], "truncated or corrupt"),
        (gzip.compress(idx_header((4,)) + b"1234", mtime=0)[:-8] + b"\0" * 8, "truncated or corrupt"),
    ],
)
def test_damaged_idx_files_are_named(content, why, tmp_path):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(Damaged, match=f"^images: {why}"):
        decode_idx_files([tmp_path / "images"])


def batches(arrays, encode):
    """Five training batches and a test batch, of two images each."""
    found = {f"data_batch_{i + 1}": encode(slice(2 * i, 2 * i + 2), "train") for i in range(5)}
    return {**found, "test_batch": encode(slice(None), "test")}


@pytest.fixture
def colour():
    arrays = tiny_arrays((3, 32, 32))
    return {name: array[:10] if name.endswith("train") else array for name, array in arrays.items()}


def test_cifar_binary(colour, tmp_path):
    def encode(part, which):
        records = [colour[f"y_{which}"][part, None], colour[f"x_{which}"][part].reshape(-1, 3072)]
        return np.concatenate(records, axis=1).astype(np.uint8).tobytes()

    files = {f"{name}.bin": content for name, content in batches(colour, encode).items()}
    assert_same(decode_cifar_binary([write_tgz(tmp_path / "a.tar.gz", files, "cifar-10-batches-bin")]), colour)
    files["test_batch.bin"] += b"0"
    with pytest.raises(Damaged, match=r"its test batches are .* bytes, no multiple of a record's 3073"):
        decode_cifar_binary([write_tgz(tmp_path / "b.tar.gz", files)])


def test_cifar_png(colour, tmp_path):
    from PIL import Image

    def encode(part, which):
        strip = colour[f"x_{which}"][part].transpose(0, 2, 3, 1).reshape(-1, 1024, 3)
        file = io.BytesIO()
        Image.fromarray(strip).save(file, "png")
        return file.getvalue()

    files = {f"{name}.png": content for name, content in batches(colour, encode).items()}
    for which in ("train", "test"):
        files[f"{which}_lables.json"] = json.dumps(colour[f"y_{which}"].tolist()).encode()
    got = decode_cifar_png([write_tgz(tmp_path / "a.tgz", files)])
    assert_same(got, colour)
    assert got["x_train"].flags.c_contiguous
    files["data_batch_3.png"] = files["data_batch_3.png"][:-500]
    with pytest.raises(Damaged, match=r"its images or labels cannot be decoded"):
        decode_cifar_png([write_tgz(tmp_path / "b.tgz", files)])


def test_damaged_archives_are_named(arrays, tmp_path):
    files = idx_files(arrays)
    whole = write_tgz(tmp_path / "a.tgz", files)
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(Damaged, match=r"^cut.tgz: truncated or corrupt"):
        decode_idx_tar([tmp_path / "cut.tgz"])
    (tmp_path / "page.tgz").write_bytes(b"<html>")
    with pytest.raises(Damaged, match=r"^page.tgz: truncated or corrupt"):
        decode_idx_tar([tmp_path / "page.tgz"])
    files.popitem()
    with pytest.raises(Damaged, match=r"^less.tgz: has no t10k-labels-idx1-ubyte"):
        decode_idx_tar([write_tgz(tmp_path / "less.tgz", files)])

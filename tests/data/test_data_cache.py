"""Partial, damaged or foreign files never become data; every failure is named."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from pliant import data
from pliant.data import cache, catalogue
from pliant.data.formats import NAMES, Damaged
from tests.tiny_data import Fake, idx_files, tiny_arrays, tiny_spec, write_gzipped


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


COMPLETE = sorted(["lock", *(f"{name}.npy" for name in NAMES)])


def test_fetch_stores_verified_memory_mapped_arrays(good, arrays, folder):
    lines = []
    assert cache.fetch_spec(tiny_spec(arrays, good), lines.append) == folder
    assert listing(folder) == COMPLETE
    found = cache.cached_arrays(tiny_spec(arrays))
    assert found is not None
    for name in NAMES:
        assert isinstance(found[name], np.memmap)
        assert found[name].dtype == arrays[name].dtype
        np.testing.assert_array_equal(found[name], arrays[name])
    assert lines == ["tiny: trying good", f"tiny: verified, in {folder}"]


def test_what_is_cached_is_not_fetched_again(good, arrays):
    asked = []
    spec = tiny_spec(arrays, replace(good, ask=lambda: asked.append(1)))
    for _ in range(2):
        cache.fetch_spec(spec)
    assert asked == [1]


def test_digest_is_of_the_published_bytes(arrays):
    for name, content in zip(NAMES, idx_files(arrays).values(), strict=True):
        assert cache.digest(arrays[name], idx=True) == hashlib.sha256(content).hexdigest()
    colour = tiny_arrays((3, 4, 5))["x_train"]
    channels_last = colour.transpose(0, 2, 3, 1).tobytes()
    assert cache.digest(colour, idx=False) == hashlib.sha256(channels_last).hexdigest()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def replace_by_html(path):
    path.write_bytes(b"<html>Log in to this network</html>")


@pytest.mark.parametrize(
    ("damage", "why"), [(truncate, "truncated"), (flip, "SHA-256"), (replace_by_html, "not an IDX file")]
)
def test_a_damaged_download_is_named_and_set_aside_and_the_next_source_used(
    damage, why, good, arrays, folder, tmp_path
):
    bad = replace(good, label="bad", folder=write_gzipped(tmp_path / "bad", arrays))
    damage(bad.folder / "t10k-images-idx3-ubyte.gz")
    with pytest.warns(UserWarning, match=f"tiny: t10k-images-idx3-ubyte.gz: .*{why}.*set aside as .*next source"):
        cache.fetch_spec(tiny_spec(arrays, bad, good))
    assert listing(folder) == sorted([*COMPLETE, "t10k-images-idx3-ubyte.gz.rejected"])
    assert cache.cached_arrays(tiny_spec(arrays)) is not None


def test_an_archive_with_another_hash_is_not_even_opened(good, arrays, folder, tmp_path):
    def decode(paths):
        raise AssertionError("opened")

    (tmp_path / "tiny.tgz").write_bytes(b"not what was published")
    bad = Fake("bad", catalogue.Form(("tiny.tgz",), decode, sha256="0" * 64), tmp_path)
    lines = []
    cache.fetch_spec(tiny_spec(arrays, bad, good), lines.append)
    assert "tiny.tgz: expected SHA-256 000000000000..., got" in lines[1]
    assert "tiny.tgz.rejected" in listing(folder)


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_named_and_fetched_again(damage, good, arrays, folder):
    spec = tiny_spec(arrays, good)
    cache.fetch_spec(spec)
    damage(folder / "x_train.npy")
    with pytest.raises(Damaged, match=r"x_train.npy"):
        cache.cached_arrays(spec)
    with pytest.warns(UserWarning, match=r"x_train.npy.*set aside"):
        cache.fetch_spec(spec)
    assert cache.cached_arrays(spec) is not None


def test_a_changed_byte_in_the_cache_is_noticed(good, arrays, folder):
    spec = tiny_spec(arrays, good)
    cache.fetch_spec(spec)
    for name in NAMES:
        changed = np.load(folder / f"{name}.npy")
        changed.flat[-1] += 256 if name.startswith("y") else 1  # 256 more is the same byte
        np.save(folder / f"{name}.npy", changed)
        with pytest.raises(Damaged, match=f"{name}.npy"):
            cache.cached_arrays(spec)
        np.save(folder / f"{name}.npy", arrays[name])
    assert cache.cached_arrays(spec) is not None


def test_when_all_sources_fail_each_is_listed_with_its_reason(good, arrays, folder):
    sources = [replace(good, label="first", error="no network"), replace(good, label="second", error="gone")]
    with pytest.raises(data.DataUnavailable) as raised:
        cache.fetch_spec(tiny_spec(arrays, *sources))
    lines = str(raised.value).splitlines()
    assert lines[:4] == [
        "tiny could not be fetched:",
        "  first: no network",
        "  second: gone",
        "Without a network these work: digits.",
    ]
    assert "set PLIANT_DATA" in lines[4]
    assert listing(folder) == ["lock"]


def test_an_interrupted_download_leaves_nothing(good, arrays, folder):
    def interrupt():
        (incoming,) = folder.glob("incoming-*")
        (incoming / "half").write_bytes(b"...")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch_spec(tiny_spec(arrays, replace(good, ask=interrupt)))
    assert listing(folder) == ["lock"]


def test_leftovers_of_a_killed_process_are_removed(good, arrays, folder):
    (folder / "incoming-dead").mkdir(parents=True)
    (folder / "incoming-dead" / "half").write_bytes(b"...")
    cache.fetch_spec(tiny_spec(arrays, good))
    assert listing(folder) == COMPLETE


def test_a_set_missing_one_file_is_no_set(good, arrays, folder):
    spec = tiny_spec(arrays, good)
    cache.fetch_spec(spec)
    (folder / "y_test.npy").unlink()
    assert cache.cached_arrays(spec) is None
    assert not cache.is_cached(spec)
    cache.fetch_spec(spec)
    assert cache.is_cached(spec)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_named_and_nothing_is_half_written(call, good, arrays, folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(data.DataUnavailable, match=r"No space left on device.*PLIANT_CACHE="):
        cache.fetch_spec(tiny_spec(arrays, good))
    assert listing(folder) == ["lock"]


def test_an_unwritable_folder_is_named(good, arrays, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where the cache should be")
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "file"))
    with pytest.raises(data.DataUnavailable, match=r"cache folder .*file/tiny cannot be written: .*PLIANT_CACHE="):
        cache.fetch_spec(tiny_spec(arrays, good))


def test_a_users_own_wrong_files_are_left_alone(good, arrays, folder, tmp_path, monkeypatch):
    own = write_gzipped(tmp_path / "own", tiny_arrays(seed=1))
    monkeypatch.setenv("PLIANT_DATA", str(own))
    with pytest.warns(UserWarning, match=r"train-images-idx3-ubyte.gz: expected x_train with SHA-256.*left as it is"):
        cache.fetch_spec(tiny_spec(arrays, catalogue.Folder(catalogue.IDX), good))
    assert (own / "train-images-idx3-ubyte.gz").is_file()
    assert listing(folder) == COMPLETE


def test_three_threads_fetch_once(good, arrays):
    waiting = "tiny: waiting for another process that is fetching it"
    asked, lines, others_wait = [], [], threading.Event()

    def say(line):
        lines.append(line)
        if lines.count(waiting) == 2:
            others_wait.set()

    def ask():
        asked.append(1)
        assert others_wait.wait(60)
        return asked[0]

    spec = tiny_spec(arrays, replace(good, ask=ask))
    threads = [threading.Thread(target=cache.fetch_spec, args=(spec, say)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]
    assert lines.count(waiting) == 2


def test_another_process_holds_the_lock(good, arrays, folder):
    folder.mkdir(parents=True)
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        waiting = threading.Event()
        thread = threading.Thread(target=cache.fetch_spec, args=(tiny_spec(arrays, good), lambda line: waiting.set()))
        thread.start()
        assert waiting.wait(5)
        assert listing(folder) == ["lock"]
        other.kill()  # a lock does not outlive its process
        thread.join(5)
    assert listing(folder) == COMPLETE

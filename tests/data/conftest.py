"""Every test of the data module gets its own cache and the tiny data set of `tiny_data`."""

import pytest

from pliant.data import catalogue
from pliant.data.formats import Arrays
from tests.tiny_data import Fake, tiny_arrays, write_gzipped


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """No test reads or writes the user's own cache; the folder of the tiny set in ours."""
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PLIANT_DATA", raising=False)
    return tmp_path / "cache" / "tiny"


@pytest.fixture
def arrays() -> Arrays:
    return tiny_arrays()


@pytest.fixture
def good(tmp_path, arrays) -> Fake:
    return Fake("good", catalogue.IDX, write_gzipped(tmp_path / "good", arrays))

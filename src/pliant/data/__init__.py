"""Data sets: fetched once, verified against published hashes, kept as uint8, memory-mapped.

>>> from pliant import data
>>> [info.name for info in data.available()][:2]
['digits', 'mnist']
>>> data.load("digits")
Dataset('digits', train (1442, 1, 8, 8) uint8, test (355, 1, 8, 8), 10 classes)
"""

from pliant.data.cache import DataUnavailable
from pliant.data.dataset import Dataset
from pliant.data.loading import DatasetInfo, available, fetch, load, measure

__all__ = ["DataUnavailable", "Dataset", "DatasetInfo", "available", "fetch", "load", "measure"]

"""Warnings of a monitor: each is given once, however long the training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class Once:
    """Gives a warning under each key once.

    >>> once = Once()
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     once("new", "a layer is new"), once("new", "and another one")
    (None, None)
    >>> [str(warning.message) for warning in caught]
    ['a layer is new']
    """

    def __init__(self):
        self._said: set[str] = set()

    def __call__(self, key: str, message: str, stacklevel: int = 2) -> None:
        if key not in self._said:
            self._said.add(key)
            warnings.warn(message, stacklevel=stacklevel)

    def pass_on(self, when: str, caught: Sequence[warnings.WarningMessage]) -> None:
        """Gives warnings that were caught, each message once; those that are for developers go."""
        for warning in caught:
            message = str(warning.message)
            if message not in self._said and not issubclass(warning.category, QUIET):
                self._said.add(message)
                warnings.warn(f"{when}: {message}", warning.category, stacklevel=3)

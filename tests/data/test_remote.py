"""Packed sets over loopback HTTP: fetched once, verified, resumed, mended; and addresses that are refused."""

import http.server
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from geotreeclip.data import remote
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.remote import fetch_set, is_remote
from geotreeclip.errors import DataError


@pytest.fixture
def server(packed, monkeypatch):
    """Serves the packed set; `asked` notes paths and ranges, `corrupt` and `cut` say what to spoil how often."""
    state = SimpleNamespace(asked=[], corrupt={}, cut={}, ranges=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/set/")
            path = packed.directory / name
            state.asked.append((name, self.headers.get("Range")))
            if not path.is_file():
                self.send_error(404)
                return
            data = bytearray(path.read_bytes())
            if state.corrupt.get(name, 0):
                state.corrupt[name] -= 1
                data[len(data) // 2] ^= 1
            start = 0
            if self.headers.get("Range") and state.ranges:
                start = int(self.headers["Range"][6:-1])
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = len(data)
            if state.cut.get(name, 0):
                state.cut[name] -= 1
                end = start + (len(data) - start) // 2
            self.wfile.write(data[start:end])

        def log_message(self, *_):
            pass

    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{http_server.server_port}/set"
        yield state
        http_server.shutdown()


def same(folder, packed):
    PackedDataset(folder).verify()
    rows = np.arange(len(packed))
    np.testing.assert_array_equal(PackedDataset(folder).read(rows).images, packed.read(rows).images)


def test_a_set_is_fetched_once_and_verified(server, packed, tmp_path):
    folder = fetch_set(server.address, tmp_path / "cache")
    same(folder, packed)
    first = len(server.asked)
    assert fetch_set(server.address, tmp_path / "cache", tell=pytest.fail) == folder
    assert {name for name, _ in server.asked[first:]} == {"manifest.json", "splits/default.parquet"}
    assert not list(folder.glob(".partial-*"))
    assert fetch_set(packed.directory) == packed.directory
    assert not is_remote(packed.directory)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_broke(server, packed, tmp_path, ranges):
    name = packed.manifest.shards[1].name
    server.ranges, server.cut = ranges, {name: 3 if ranges else 1}
    same(fetch_set(server.address, tmp_path), packed)
    starts = [int(asked[6:-1]) if asked else 0 for file, asked in server.asked if file == name]
    assert starts[0] == 0
    assert len(starts) == (4 if ranges else 2)
    assert not ranges or starts == sorted(set(starts))  # a server without ranges sends all again, and it is passed over


def test_a_killed_fetch_goes_on(server, packed, tmp_path):
    name = packed.manifest.shards[0].name
    folder = fetch_set(server.address, tmp_path)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / f".partial-{name}").write_bytes(whole[:700])
    same(fetch_set(server.address, tmp_path), packed)
    assert (name, "bytes=700-") in server.asked


def test_a_wrong_file_is_fetched_once_more_then_given_up(server, packed, tmp_path):
    name = packed.manifest.shards[2].name
    server.corrupt = {name: 1}
    told = []
    same(fetch_set(server.address, tmp_path / "a", tell=told.append), packed)
    assert any(f"{name}: has SHA-256" in line for line in told)
    server.corrupt = {name: 2}
    with pytest.raises(DataError, match=rf"{name}: has SHA-256 .* also when fetched again"):
        fetch_set(server.address, tmp_path / "b")
    with pytest.raises(DataError, match="incomplete"):  # what came is kept, but it is no set yet
        PackedDataset(next((tmp_path / "b").iterdir()))
    same(fetch_set(server.address, tmp_path / "b"), packed)


def test_what_decays_in_the_cache_is_found_and_mended(server, packed, tmp_path):
    folder = fetch_set(server.address, tmp_path)
    cut, flipped = (folder / packed.manifest.shards[number].name for number in (0, 1))
    cut.write_bytes(cut.read_bytes()[:-1])
    data = bytearray(flipped.read_bytes())
    data[4000] ^= 4
    flipped.write_bytes(data)
    fetch_set(server.address, tmp_path)  # a wrong length is always seen
    with pytest.raises(DataError, match=f"{flipped.name}: its contents have changed"):
        PackedDataset(folder).verify()
    fetch_set(server.address, tmp_path, verify=True)
    same(folder, packed)


def test_another_version_has_another_place(server, packed, write_packed, tmp_path):
    first = fetch_set(server.address, tmp_path)
    write_packed(packed.directory, overwrite=True, source="another")
    second = fetch_set(server.address, tmp_path)
    assert first != second
    same(second, PackedDataset(packed.directory))


def test_file_addresses_and_splits(packed, tmp_path):
    (packed.directory / "splits").mkdir()
    (packed.directory / "splits" / "blocks.parquet").write_bytes(b"a split")
    folder = fetch_set(f"file://{packed.directory}", tmp_path / "cache", splits=("blocks", "absent", "../../x"))
    assert [path.name for path in (folder / "splits").iterdir()] == ["blocks.parquet"]
    same(folder, packed)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://example.org/set", "https://, hf://"),
        ("ftp://example.org/set", "https://, hf://"),
        ("pipe://cat", "https://, hf://"),
        ("file:///nowhere/at/all", "no manifest.json"),
    ],
)
def test_refused_addresses(address, message, tmp_path):
    with pytest.raises(DataError, match=message):
        fetch_set(address, tmp_path)


def test_a_hostile_manifest_names_no_file_outside(packed, tmp_path):
    evil = tmp_path / "evil"
    shutil.copytree(packed.directory, evil)
    name = packed.manifest.shards[0].name
    for wrong in ("../../x.tar", "/etc/x.tar"):
        text = (packed.directory / "manifest.json").read_text()
        Path(evil / "manifest.json").write_text(text.replace(f'"{name}"', f'"{wrong}"', 1))
        with pytest.raises(DataError, match="not allowed there"):
            fetch_set(f"file://{evil}", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*.tar"))

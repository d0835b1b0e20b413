"""Data on the hub, over a server on this machine that answers as the hub does."""

import http.server
import json
import threading
import urllib.parse
from types import SimpleNamespace

import numpy as np
import pytest

from geotreeclip.data import remote
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.packing import main
from geotreeclip.data.published import PublishedSample, read_published, write_published
from geotreeclip.data.remote import fetch_set
from geotreeclip.data.sources import expand_sources
from geotreeclip.errors import DataError

pytest.importorskip("torch")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The data set owner/name of the hub, a folder; `asked` notes paths and ranges, `broken` files answer with 500."""
    import huggingface_hub
    from huggingface_hub import constants

    state = SimpleNamespace(root=tmp_path / "repository", asked=[], broken=set())
    state.root.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, data, code=200, **headers):
            self.send_response(code)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def absent(self, what):
            self.answer(b"{}", 404, X_Error_Code=what)

        def describe(self, paths):
            return [
                {
                    "type": "file" if path.is_file() else "directory", "path": path.relative_to(state.root).as_posix(),
                    "size": path.stat().st_size, "oid": "1",
                }
                for path in paths
                if path.exists()
            ]  # fmt: skip

        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            state.asked.append((path, self.headers.get("Range")))
            if path.startswith("/api/datasets/owner/name/tree/main"):
                folder = state.root / path.removeprefix("/api/datasets/owner/name/tree/main").strip("/")
                if not folder.is_dir():
                    self.absent("EntryNotFound")
                    return
                found = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
                self.answer(json.dumps(self.describe(sorted(found))).encode())
            elif path.startswith("/api/datasets/owner/name"):
                about = {"id": "owner/name", "sha": "0" * 40, "private": False, "downloads": 0, "likes": 0, "tags": []}
                self.answer(json.dumps(about).encode())
            elif path.startswith("/datasets/owner/name/resolve/main/"):
                file = state.root / path.removeprefix("/datasets/owner/name/resolve/main/")
                if file.name in state.broken:
                    self.answer(b"", 500)
                    return
                first, last = (int(number) for number in self.headers["Range"][6:].split("-"))
                data = file.read_bytes()[first : last + 1]
                self.answer(data, 206)
            else:
                self.absent("RepoNotFound")

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            asked = urllib.parse.parse_qs(self.rfile.read(length).decode())
            self.answer(json.dumps(self.describe([state.root / path for path in asked["paths"]])).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # No waiting between the attempts of the client.
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield state
        huggingface_hub.HfFileSystem.clear_instance_cache()
        server.shutdown()


def test_published_shards_of_the_hub_are_listed_read_and_packed(hub, published_samples, tmp_path, capsys):
    (hub.root / "GGT" / "deep").mkdir(parents=True)
    for name, first in (("GGT/b", 4), ("GGT/deep/a", 0)):
        write_published(hub.root / f"{name}.tar", published_samples(4, first=first))
    (hub.root / "GGT" / "README.md").write_text("no shard")
    shards = expand_sources(["hf://datasets/owner/name/GGT"])
    assert shards == [f"hf://datasets/owner/name/GGT/{name}.tar" for name in ("b", "deep/a")]
    there, here = list(read_published(shards[1])), list(read_published(hub.root / "GGT" / "deep" / "a.tar"))
    assert [sample.key for sample in there] == ["0", "1", "2", "3"]
    for one, other in zip(there, here, strict=True):
        assert isinstance(one, PublishedSample)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.environment, other.environment)
    assert main([*shards, "--out", str(tmp_path / "packed")]) == 0
    assert len(PackedDataset(tmp_path / "packed")) == 8
    assert main(["hf://datasets/owner/name/*.tar", "--out", str(tmp_path / "none")]) == 2
    assert main(["hf://datasets/owner/other", "--out", str(tmp_path / "other")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "holds no .tar" in errors[0]
    assert errors[1].startswith("error: hf://datasets/owner/other: the hub cannot list it")


def test_a_packed_set_of_the_hub_is_fetched_and_verified(hub, write_packed, tmp_path):
    packed = PackedDataset(write_packed(hub.root / "packed"))
    folder = fetch_set("hf://datasets/owner/name/packed", tmp_path / "cache")
    PackedDataset(folder).verify()
    rows = np.arange(len(packed))
    np.testing.assert_array_equal(PackedDataset(folder).read(rows).images, packed.read(rows).images)
    shard = packed.manifest.shards[1].name
    whole = (folder / shard).read_bytes()
    (folder / shard).unlink()
    (folder / f".partial-{shard}").write_bytes(whole[:700])  # as a killed process leaves it
    assert fetch_set("hf://datasets/owner/name/packed", tmp_path / "cache") == folder
    assert (folder / shard).read_bytes() == whole
    assert any(asked and asked.startswith("bytes=700-") for _, asked in hub.asked)
    with pytest.raises(DataError, match=r"hf://datasets/owner/name/absent: has no manifest.json"):
        fetch_set("hf://datasets/owner/name/absent", tmp_path / "cache")


def test_a_hub_that_fails_is_one_line(hub, write_packed, published_samples, tmp_path, monkeypatch):
    write_packed(hub.root / "packed")
    write_published(hub.root / "a.tar", published_samples(1))
    monkeypatch.setattr(remote, "_TRIES", 1)
    hub.broken = {"manifest.json", "a.tar"}
    with pytest.raises(DataError, match=r"packed/manifest.json: cannot be read"):
        fetch_set("hf://datasets/owner/name/packed", tmp_path / "cache")
    with pytest.raises(DataError, match=r"hf://datasets/owner/name/a.tar: .*run the command again"):
        list(read_published("hf://datasets/owner/name/a.tar"))

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from geotreeclip.data.published import PublishedSample, Refusal, read_published, write_published
from geotreeclip.data.sources import expand_sources
from geotreeclip.errors import DataError
from geotreeclip.taxonomy import Taxon

torch = pytest.importorskip("torch")


def read(path):
    items = list(read_published(path))
    good = {item.key: item for item in items if isinstance(item, PublishedSample)}
    lost = {item.key: item for item in items if isinstance(item, Refusal) and item.is_sample}
    notes = [item for item in items if isinstance(item, Refusal) and not item.is_sample]
    return good, lost, notes


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


class Payload:
    """Runs a command when it is unpickled the unsafe way."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_round_trip(published_samples, tmp_path):
    samples = published_samples(12)
    assert write_published(tmp_path / "GGT-0.tar", samples) == 12
    items = list(read_published(tmp_path / "GGT-0.tar"))
    assert [item.key for item in items] == [sample.key for sample in samples]
    for item, sample in zip(items, samples, strict=True):
        np.testing.assert_array_equal(item.images, sample.images)
        np.testing.assert_array_equal(item.environment, sample.environment)
        assert (item.taxon, item.sample_id, item.shard) == (sample.taxon, sample.sample_id, "GGT-0.tar")


def test_forms_that_the_published_set_has(tar, published_samples):
    first, second, third, fourth = published_samples(4)
    ranks = {"level0": "Deciduous Broadleaf ", "level1_family": None, "level2_genus": "Acer", "level3_species": ""}
    tar.sample(first, text=json.dumps([ranks]).encode())
    tar.sample(second, auxiliary=json.dumps([{"sample_id": 7.0, "longitude": 3, "bio01": float("nan")}]).encode())
    tar.sample(third, images=saved(torch.zeros(12, 10, 5, 5)))
    tar.sample(fourth._replace(key="folder/x"))
    good, lost, notes = read(tar.close())
    assert not lost
    assert not notes
    assert good["0"].taxon == Taxon("Deciduous Broadleaf", "", "Acer", "")
    assert good["1"].sample_id == "7"
    assert good["1"].environment[0] == 3
    assert np.isnan(good["1"].environment[1:]).all()
    assert good["2"].images.dtype == np.float32
    assert good["folder/x"].sample_id == "3"


def test_published_sets_written_by_webdataset(published_samples, tmp_path):
    wds = pytest.importorskip("webdataset")
    samples = published_samples(3)
    with wds.TarWriter(str(tmp_path / "a.tar")) as sink:  # pax headers, as it writes fractional times
        for sample in samples:
            sink.write({"__key__": sample.key, "images.pth": torch.from_numpy(sample.images),
                        "text.json": dict(zip(("level0", "level1_family", "level2_genus", "level3_species"),
                                              sample.taxon, strict=True)),
                        "auxiliary.json": {"sample_id": sample.sample_id, "longitude": None}})  # fmt: skip
    good, lost, notes = read(tmp_path / "a.tar")
    assert list(good) == ["0", "1", "2"]
    assert not lost
    assert not notes
    np.testing.assert_array_equal(good["2"].images, samples[2].images)


def _with_flipped_payload(data):
    damaged = bytearray(data)
    damaged[2000] ^= 1
    return bytes(damaged)


def _deflated(data):
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stream.getvalue()


FULL = torch.zeros(12, 10, 5, 5, dtype=torch.float64)
INFINITE = FULL.clone()
INFINITE[3, 1, 0, 0] = float("inf")


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("images", lambda ok: saved(FULL[:, :9].clone()), "has shape [12, 9, 5, 5], expected [12, 10, 5, 5]"),
        ("images", lambda ok: saved(FULL.long()), "has dtype int64, expected float64"),
        ("images", lambda ok: saved({"images": FULL}), "holds dict, expected one dense tensor"),
        ("images", lambda ok: saved(FULL.to_sparse()), "expected one dense tensor"),
        ("images", lambda ok: saved(INFINITE), "infinite value at month 4, band B3"),
        ("images", lambda ok: ok[:-100], "is no torch zip file"),
        ("images", lambda ok: b"", "is no torch zip file"),
        ("images", lambda ok: pickle.dumps(1), "is no torch zip file"),
        ("images", lambda ok: ok + bytes(300_000), "has 325577 bytes, the limit is 262144"),
        ("images", _with_flipped_payload, "do not match their checksum"),
        ("images", _deflated, "compressed entry"),
        ("images", lambda ok: None, "lacks images.pth"),
        ("text", lambda ok: None, "lacks text.json"),
        ("text", lambda ok: b"{", "text.json is no JSON"),
        ("text", lambda ok: b"\xff\xfe", "text.json is no JSON"),
        ("text", lambda ok: b"[" * 9000, "text.json is no JSON"),
        ("text", lambda ok: b"[{}, {}]", "text.json holds list"),
        ("text", lambda ok: b'{"level0": "a"}', "field level1_family is None"),
        ("text", lambda ok: ok.replace(b"Quercus robur", b"Quercus\\nrobur"), "field level3_species"),
        ("text", lambda ok: ok + b" " * 20_000, "text.json has 20"),
        ("auxiliary", lambda ok: b"3", "auxiliary.json holds int"),
        ("auxiliary", lambda ok: b'{"longitude": 181}', "field longitude is 181.0"),
        ("auxiliary", lambda ok: b'{"bio01": Infinity}', "field bio01 is inf"),
        ("auxiliary", lambda ok: b'{"bio01": 1' + b"0" * 400 + b"}", "field bio01 is inf"),
        ("auxiliary", lambda ok: b'{"bio01": "warm"}', "field bio01 is 'warm'"),
        ("auxiliary", lambda ok: b'{"bio01": true}', "field bio01 is True"),
        ("auxiliary", lambda ok: b'{"sample_id": [1]}', "field sample_id is [1]"),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_one_bad_sample_is_refused_alone(tar, published_samples, member, data, message, place):
    # place 0: the first file of its kind; place 3: when the layout of good ones is known.
    samples = published_samples(6)
    for number, sample in enumerate(samples):
        sample = sample._replace(taxon=Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"))
        changed = {}
        if number == place:
            suffix = {"images": "images.pth", "text": "text.json", "auxiliary": "auxiliary.json"}[member]
            changed = {member: data(tar.parts(sample)[suffix])}
        tar.sample(sample, **changed)
    good, lost, notes = read(tar.close())
    assert list(good) == [sample.key for sample in samples if sample.key != str(place)]
    assert list(lost) == [str(place)]
    assert not notes
    assert message in lost[str(place)].reason
    assert str(lost[str(place)]).startswith(f"GGT-000.tar, {place}: ")
    np.testing.assert_array_equal(good["5"].images, samples[5].images)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_payload_is_refused_and_not_run(tar, published_samples, tmp_path, legacy):
    marker = tmp_path / "ran"
    stream = io.BytesIO()
    torch.save(Payload(str(marker)), stream, _use_new_zipfile_serialization=not legacy)
    samples = published_samples(3)
    tar.sample(samples[0]).sample(samples[1], images=stream.getvalue()).sample(samples[2])
    good, lost, _ = read(tar.close())
    assert list(good) == ["0", "2"]
    assert "images.pth is" in lost["1"].reason
    assert not marker.exists()
    torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    assert marker.exists()  # the payload is a live one


def test_same_layout_with_another_pickle_is_not_taken_for_the_known_one(tar, published_samples):
    samples = published_samples(3)
    stride = saved(FULL)
    # Same length, one byte of the pickle changed (a stride): must not be read as if it were the known layout.
    altered = stride.replace(b"K\x19K\x05K\x01", b"K\x19K\x05K\x02", 1)
    assert altered != stride
    tar.sample(samples[0]).sample(samples[1], images=altered).sample(samples[2])
    good, lost, _ = read(tar.close())
    assert list(good) == ["0", "2"]
    assert "1" in lost


def test_unknown_members_are_noticed_and_never_decoded(tar, published_samples, tmp_path):
    marker = tmp_path / "ran"
    first, second = published_samples(2)
    tar.sample(first).member("0.extra.pyd", pickle.dumps(Payload(str(marker)))).sample(second).member("README", b"hi")
    good, lost, notes = read(tar.close())
    assert list(good) == ["0", "1"]
    assert not lost
    assert [note.reason for note in notes] == [
        "member '0.extra.pyd' is not part of the format", "member 'README' is not part of the format"
    ]  # fmt: skip
    assert not marker.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": b"2", "linkname": "/etc/passwd"}, "is a symbolic link"),
        ({"type": b"1", "linkname": "0.images.pth"}, "is a hard link"),
        ({"type": b"3"}, "is a device"),
        ({"type": b"6"}, "is a named pipe"),
        ({"type": b"S"}, "unknown type"),
    ],
)
def test_links_and_devices_are_refused(tar, published_samples, fields, message):
    first, second, third = published_samples(3)
    tar.sample(first).member("1.images.pth", **fields).sample(second, images=None).sample(third)
    good, lost, _ = read(tar.close())
    assert list(good) == ["0", "2"]
    assert message in lost["1"].reason


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("/etc/1", "absolute path"), ("../1", "leaves the archive"), ("a/../../1", "leaves the archive"),
        ("C:/1", "absolute path"), ("a\n1", "unprintable"),
    ],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(tar, published_samples, key, message):
    first, second, third = published_samples(3)
    tar.sample(first).sample(second._replace(key=key)).sample(third)
    good, lost, _ = read(tar.close())
    assert list(good) == ["0", "2"]
    assert message in lost[key].reason


def test_duplicate_and_scattered_members(tar, published_samples):
    first, second, third = published_samples(3)
    parts = tar.parts(second)
    tar.sample(first)
    tar.sample(first)  # the key again
    tar.member("1.images.pth", parts["images.pth"]).sample(third).member("1.text.json", parts["text.json"])
    tar.member("1.auxiliary.json", parts["auxiliary.json"])
    good, lost, _ = read(tar.close())
    assert list(good) == ["0", "2"]
    assert "comes again" in lost["0"].reason
    assert "must follow each other" in lost["1"].reason
    assert len(lost) == 2


def test_member_twice_in_a_sample(tar, published_samples):
    first, second = published_samples(2)
    tar.member("0.text.json", b"{}").sample(first).sample(second).member("1.text.json", b"{}")
    good, lost, _ = read(tar.close())
    assert list(good) == ["1"]
    assert lost["0"].reason == "text.json comes twice"
    assert "comes again" in lost["1"].reason


def test_truncated_tar_gives_all_before_the_cut(tar, published_samples):
    for sample in published_samples(6):
        tar.sample(sample)
    path = tar.close()
    data = path.read_bytes()
    size = len(data) // 6
    for cut, complete, broken in [(int(3.3 * size), 3, "3"), (int(4.5 * size), 4, "4")]:
        path.write_bytes(data[:cut])
        good, lost, notes = read(path)
        assert list(good) == [str(number) for number in range(complete)]
        assert list(lost) == [broken]
        assert "cut short" in lost[broken].reason
        assert not notes


def test_tar_cut_between_members_is_noticed(tar, published_samples):
    samples = published_samples(2)
    tar.sample(samples[0])
    end = tar.archive.offset
    tar.sample(samples[1])
    path = tar.close()
    path.write_bytes(path.read_bytes()[:end])
    good, lost, notes = read(path)
    assert list(good) == ["0"]
    assert not lost
    assert [note.key for note in notes] == ["0"]
    assert "without its end mark" in notes[0].reason


def test_damaged_header_costs_one_sample(tar, published_samples):
    samples = published_samples(4)
    tar.sample(samples[0])
    start = tar.archive.offset
    tar.sample(samples[1]).sample(samples[2]).sample(samples[3])
    path = tar.close()
    data = bytearray(path.read_bytes())
    for byte, name in ((0, "name"), (124, "size"), (156, "type")):
        damaged = bytearray(data)
        damaged[start + byte] ^= 1
        path.write_bytes(damaged)
        good, lost, notes = read(path)
        assert list(good) == ["0", "2", "3"], name
        assert list(lost) == ["1"]
        assert "damaged header at byte" in notes[0].reason


def _header(name, size_field, kind=b"0"):
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = size_field
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "header",
    [
        _header(b"9.images.pth", b"77777777777\0"),  # 8 GiB that are not there
        _header(b"9.images.pth", b"\x80" + b"\xff" * 11),  # an absurd base-256 size
        _header(b"9.images.pth", b"\xff" * 12),  # a negative one
        _header(b"9", b"77777777777\0", b"x"),  # a giant pax header
        _header(b"9", b"77777777777\0", b"L"),  # a giant GNU long name
        _header(b"9", b"00000000010\0", b"x") + b"8 size=-1\n".ljust(512, b"\0") + _header(b"9.text.json", b"0" * 12),
    ],
)
def test_lying_headers_cost_neither_memory_nor_samples(tar, published_samples, tmp_path, header):
    first, second = published_samples(2)
    tar.sample(first)
    end = tar.archive.offset
    tar.sample(second)
    data = tar.close().read_bytes()
    path = tmp_path / "lie.tar"
    path.write_bytes(data[:end] + header + data[end:])
    good, _lost, _notes = read(path)
    assert list(good) == ["0", "1"]


def test_joined_tars_are_read_to_the_end(published_samples, tmp_path):
    for number in range(2):
        write_published(tmp_path / f"{number}.tar", published_samples(2, first=2 * number))
    joined = tmp_path / "both.tar"
    joined.write_bytes((tmp_path / "0.tar").read_bytes() + (tmp_path / "1.tar").read_bytes())
    good, lost, notes = read(joined)
    assert list(good) == ["0", "1", "2", "3"]
    assert not lost
    assert not notes


@pytest.mark.parametrize(
    "source", ["pipe:touch ran", "pipe://x", "file:///a.tar", "http://x/a.tar", "s3://b/a.tar", "https:a"]
)
def test_other_schemes_are_refused(source):
    with pytest.raises(DataError, match="sources are paths, https:// or hf://"):
        list(read_published(source))
    with pytest.raises(DataError, match="sources are paths"):
        expand_sources([source])


def test_sources_are_expanded_in_order(published_samples, tmp_path):
    for name in ("b", "a"):
        write_published(tmp_path / f"{name}.tar", published_samples(1))
    assert [path.rsplit("/", 1)[1] for path in expand_sources([tmp_path])] == ["a.tar", "b.tar"]
    for wrong, message in ((tmp_path / "no", "no such file"), (tmp_path / "empty", "holds no .tar")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            expand_sources([wrong])
    with pytest.raises(DataError, match="named twice"):
        expand_sources([tmp_path, tmp_path / "a.tar"])


class _Response(io.BytesIO):
    def __init__(self, data, status, headers, drop=None):
        super().__init__(data[:drop])
        self.status, self.headers = status, headers


def test_broken_https_connection_is_taken_up_again(published_samples, tmp_path, monkeypatch):
    from geotreeclip.data import sources

    write_published(tmp_path / "a.tar", published_samples(5))
    data = (tmp_path / "a.tar").read_bytes()
    asked = []

    def answer(self, request, timeout):
        start = int((request.get_header("Range") or "bytes=0-")[6:-1])
        asked.append(start)
        headers = {"Content-Length": str(len(data) - start), "ETag": '"1"'}
        return _Response(data[start:], 206 if start else 200, headers, drop=50_000)

    monkeypatch.setattr(sources.urllib.request.OpenerDirector, "open", answer)
    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)
    good, lost, notes = read("https://example.org/data/a.tar?x=1")
    assert list(good) == ["0", "1", "2", "3", "4"]
    assert good["4"].shard == "a.tar"
    assert not lost
    assert not notes
    assert asked == list(range(0, len(data), 50_000))


class _Hub:
    """A file system of the hub over a local folder."""

    def __init__(self, root):
        self.root = root

    def glob(self, pattern):
        assert pattern == "datasets/owner/name/GGT/**/*.tar"
        return ["datasets/owner/name/GGT/b.tar", "datasets/owner/name/GGT/a.tar"]

    def info(self, path):
        return {"size": (self.root / path.rsplit("/", 1)[1]).stat().st_size, "blob_id": "1"}

    def open(self, path, mode, block_size):
        return (self.root / path.rsplit("/", 1)[1]).open(mode)


def test_shards_on_the_hub(published_samples, tmp_path, monkeypatch):
    from geotreeclip.data import sources

    for number, name in enumerate("ab"):
        write_published(tmp_path / f"{name}.tar", published_samples(2, first=2 * number))
    monkeypatch.setattr(sources, "_hub", lambda: _Hub(tmp_path))
    shards = expand_sources(["hf://datasets/owner/name/GGT"])
    assert shards == ["hf://datasets/owner/name/GGT/a.tar", "hf://datasets/owner/name/GGT/b.tar"]
    assert [item.key for item in read_published(shards[1])] == ["2", "3"]
    with pytest.raises(DataError, match=r"hf://.*none\.tar: cannot be opened"):
        list(read_published("hf://datasets/owner/name/none.tar"))


def test_web_page_in_place_of_a_tar(monkeypatch):
    from geotreeclip.data import sources

    page = _Response(b"<html>", 200, {"Content-Type": "text/html"})
    monkeypatch.setattr(sources.urllib.request.OpenerDirector, "open", lambda *_, **__: page)
    with pytest.raises(DataError, match="is a web page"):
        list(read_published("https://huggingface.co/datasets/x/y/tree/main/a.tar"))

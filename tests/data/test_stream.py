"""Streams of packed and published shards: every sample once an epoch, its values, and what is done about damage."""

import json
import tarfile

import numpy as np
import pytest

from geotreeclip.data.manifest import MANIFEST
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.published import write_published
from geotreeclip.data.stream import StreamLoader, Tolerance, open_packed_stream
from geotreeclip.data.stream_published import open_published_stream
from geotreeclip.errors import ConfigError, DataError


@pytest.fixture
def stream(packed, tmp_path):
    """The packed set behind an address, of which one shard and the tables are fetched."""
    return open_packed_stream(f"file://{packed.directory}", cache=tmp_path / "cache")


@pytest.fixture
def published(published_samples, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    for number in range(3):
        write_published(folder / f"GGT-{number}.tar", published_samples(7, first=7 * number))
    return folder


def take(loader, count, start=0):
    batches = loader.batches(start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def test_only_what_is_needed_is_fetched(stream, packed):
    assert [path.name for path in stream.directory.glob("*.tar")] == [packed.manifest.shards[0].name]
    assert stream.fingerprint() == packed.fingerprint()
    np.testing.assert_array_equal(stream.taxa, packed.taxa)
    np.testing.assert_array_equal(stream.read([3, 1]).images, packed.read([3, 1]).images)
    assert stream.sample_ids([40]) == ["s40"]
    with pytest.raises(DataError, match="row 16 is streamed"):
        stream.read([16])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_every_chosen_sample_once_an_epoch_with_its_values(stream, packed, prefetch):
    chosen = np.arange(3, 45)
    batches = take(StreamLoader(stream, chosen, 7, seed=1, prefetch=prefetch, buffer=10), 12)
    rows = np.concatenate([batch.index for batch in batches])
    assert sorted(rows[:42]) == sorted(rows[42:]) == list(chosen)
    assert list(rows[:42]) != list(rows[42:])
    for batch in batches:
        stored = packed.read(batch.index)
        np.testing.assert_array_equal(batch.images, stored.images)
        np.testing.assert_array_equal(batch.environment, stored.environment)
        np.testing.assert_array_equal(batch.taxon, stored.taxon)


def test_the_order_is_fixed_and_processes_share_the_shards(stream):
    def rows(rank, world, start=0):
        loader = StreamLoader(stream, np.arange(45), 6, seed=1, rank=rank, world_size=world, buffer=8)
        return [row for batch in take(loader, 5, start) for row in batch.index]

    assert rows(0, 1) == rows(0, 1)
    assert rows(0, 1, start=45) == rows(0, 1, start=80) != rows(0, 1)  # resumed at the start of the epoch
    loaders = [StreamLoader(stream, np.arange(45), 6, rank=rank, world_size=3) for rank in range(3)]
    for epoch in range(3):
        assert sorted(shard for loader in loaders for shard in loader.shards(epoch)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="3 shards cannot be streamed by 4"):
        StreamLoader(stream, np.arange(45), 8, world_size=4)


def test_published_shards_are_indexed_once_and_read_as_they_are_packed(published, published_samples, tmp_path):
    from geotreeclip.data.packing import pack

    pack([published], tmp_path / "packed", progress=False, worldclim="1")
    packed = PackedDataset(tmp_path / "packed")
    told = []
    stream = open_published_stream(published, tmp_path / "index", tell=told.append)
    assert len(told) == 1
    batches = take(StreamLoader(stream, np.arange(21), 7, buffer=5), 3)
    for batch in batches:
        stored = packed.read(batch.index)
        np.testing.assert_array_equal(batch.images, stored.images)
        np.testing.assert_array_equal(batch.environment, stored.environment)
        taxa = [stream.taxonomy[row] for row in batch.taxon]
        assert taxa == [packed.taxonomy[row] for row in stored.taxon]
    np.testing.assert_array_equal(stream.read([20, 4]).images, packed.read([20, 4]).images)
    assert stream.statistics.samples == 21
    again = open_published_stream(published, tmp_path / "index", tell=pytest.fail)
    np.testing.assert_array_equal(again.taxa, stream.taxa)
    write_published(published / "GGT-1.tar", published_samples(6, first=50))
    with pytest.raises(DataError, match="index of other shards, or they have changed"):
        open_published_stream(published, tmp_path / "index")


# -- damage ------------------------------------------------------------------------------------------------------------


def spoil(packed, edit, number=1):
    """Changes a shard in place; its length stays."""
    path = packed.directory / packed.manifest.shards[number].name
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
    edit(data, members)
    path.write_bytes(data)
    return path.name


def flip(name, byte):
    def edit(data, members):
        data[members[name].offset_data + byte] ^= 1

    return edit


def rename(name, new):
    def edit(data, members):
        start = members[name].offset
        header = tarfile.TarInfo(new)
        header.size = members[name].size
        data[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)

    return edit


def link(data, members):
    start = members["000001.taxon.npy"].offset
    header = tarfile.TarInfo("000001.taxon.npy")
    header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
    data[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)


def objects(data, members):
    start = members["000001.taxon.npy"].offset_data
    place = data.index(b"'<i4'", start)
    data[place : place + 5] = b"'|O' "


@pytest.mark.parametrize(
    ("edit", "message", "lost"),
    [
        (flip("000001.images.npy", 3000), "contents have changed since packing", 1),
        (flip("000001.images.npy", 20), "Cannot parse header", 8),
        (objects, "holds |O of shape (8,), the manifest states <i4 (8,)", 8),
        (rename("000001.taxon.npy", "000001.taxon.pyd"), "is not known", 8),
        (rename("000001.taxon.npy", "000003.taxon.npy"), "is not known", 8),
        (rename("000001.taxon.npy", "000000.taxon.npy"), "is not the member that comes here", 8),
        (rename("000001.taxon.npy", "/000001.taxon.npy"), "has an absolute path", 8),
        (link, "is a symbolic link", 8),
    ],
)
def test_damage_stops_by_name_or_is_skipped_and_counted(packed, tmp_path, edit, message, lost):
    name = spoil(packed, edit)
    data = open_packed_stream(f"file://{packed.directory}", cache=tmp_path / "cache")
    strict = StreamLoader(data, np.arange(45), 5, buffer=1)
    with pytest.raises(DataError) as error:
        take(strict, 10)
    assert name in str(error.value)
    assert message in str(error.value)
    tolerance = Tolerance(lenient=True, share=0.5)
    batches = take(StreamLoader(data, np.arange(45), 5, buffer=1, prefetch=0, tolerance=tolerance), 20)
    assert len({row for batch in batches for row in batch.index}) == (45 if lost == 1 else 45 - lost)
    assert tolerance.lost >= lost
    assert message in tolerance.summary()


def test_too_much_damage_is_an_error_all_the_same(packed, tmp_path):
    for number in range(3):
        spoil(packed, objects, number) if number < 2 else None
    data = open_packed_stream(packed.directory, cache=tmp_path)
    tolerance = Tolerance(lenient=True, share=0.01)
    loader = StreamLoader(data, np.arange(45), 5, buffer=1, tolerance=tolerance)
    with pytest.raises(DataError, match=r"1\d of \d+ samples cannot be read, more than the share of 0.01"):
        take(loader, 40)


def test_a_wrong_published_sample_stops_or_is_skipped(tar, published_samples, tmp_path):
    good, bad, last = published_samples(3)
    tar.sample(good).sample(bad, text=b"{").sample(last)
    path = tar.close()
    with pytest.raises(DataError, match=r"GGT-000.tar, 1: text.json is no JSON .*--lenient"):
        open_published_stream(path, tmp_path / "a")
    tolerance = Tolerance(lenient=True, share=0.5)
    stream = open_published_stream(path, tmp_path / "b", tolerance)
    assert list(stream.ids) == ["0", "2"]
    assert tolerance.summary().startswith("skipped 1 of ")


def test_infinite_variables_are_refused_by_name(packed):
    document = json.loads((packed.directory / MANIFEST).read_text())
    column = document["shards"][0]["chunks"][0]["columns"]["environment"]
    path = packed.directory / packed.manifest.shards[0].name
    data = bytearray(path.read_bytes())
    place = column["offset"] + 4 * (27 * 2 + 3)
    data[place : place + 4] = np.float32(np.inf).tobytes()
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"sample 's2' \(row 2\) has an infinite slope"):
        PackedDataset(packed.directory).read([1, 2])

"""The readers against bytes that nobody meant: they give samples, refusals or a DataError, and nothing else."""

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geotreeclip.data.manifest import MANIFEST, Manifest
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.published import PublishedSample, Refusal, read_published, write_published
from geotreeclip.data.stream import Lost, Tolerance, open_packed_stream
from geotreeclip.data.tarstream import Damage, Member, read_members
from geotreeclip.data.tensorfile import TensorDecoder, TensorError
from geotreeclip.errors import DataError

quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
patches = st.lists(st.tuples(st.integers(0, 2**31), st.binary(min_size=1, max_size=40)), max_size=6)


def patched(data, changes, cut=None):
    result = bytearray(data)
    for place, new in changes:
        place %= len(data)
        result[place : place + len(new)] = new[: len(data) - place]
    return bytes(result[: len(result) if cut is None else cut % (len(result) + 1)])


@quick
@given(st.binary(max_size=3000), st.integers(0, 4000))
def test_any_bytes_as_a_tar(data, size):
    items = list(read_members(io.BytesIO(data), lambda name: 100, size))
    assert all(isinstance(item, Member | Damage) for item in items)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@quick
@given(st.lists(st.tuples(names, st.sampled_from(b"0123456LKxg")), max_size=5))
def test_any_members(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = bytes([kind]), 5
            archive.addfile(info, io.BytesIO(b"12345"))
    for item in read_members(io.BytesIO(stream.getvalue()), lambda name: 100):
        if isinstance(item, Member) and item.data is not None:
            assert not item.name.startswith(("/", "\\"))
            assert ".." not in item.name.split("/")
            assert len(item.data) <= 100


@pytest.fixture(scope="module")
def shard(tmp_path_factory, published_samples):
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    write_published(path, published_samples(3))
    return path.read_bytes()


@quick
@given(changes=patches, cut=st.none() | st.integers(0, 2**31))
def test_a_published_shard_with_changed_bytes(shard, tmp_path, changes, cut):
    path = tmp_path / "a.tar"
    path.write_bytes(patched(shard, changes, cut))
    keys = []
    for item in read_published(path):
        assert isinstance(item, PublishedSample | Refusal)
        if isinstance(item, PublishedSample):
            keys.append(item.key)
            assert item.images.shape == (12, 10, 5, 5)
            assert not np.isinf(item.images).any()
            assert not np.isinf(item.environment).any()
    assert len(keys) == len(set(keys))


@quick
@given(changes=patches, cut=st.none() | st.integers(0, 2**31))
def test_a_tensor_file_with_changed_bytes(shard, changes, cut):
    with tarfile.open(fileobj=io.BytesIO(shard)) as archive:
        data = archive.extractfile("0.images.pth").read()
    decoder = TensorDecoder((12, 10, 5, 5))
    decoder.decode(data)  # its layout is known from here on
    try:
        values = decoder.decode(patched(data, changes, cut))
    except TensorError:
        return
    assert values.shape == (12, 10, 5, 5)


@quick
@given(changes=patches, cut=st.none() | st.integers(0, 2**31))
def test_a_packed_shard_with_changed_bytes(packed, changes, cut):
    path = packed.directory / packed.manifest.shards[1].name
    whole = path.read_bytes()
    data = patched(whole, changes, cut)
    path.write_bytes(data)
    try:
        stream = open_packed_stream(packed.directory)
        found = list(stream.expand(1))
        lost = [item for item in found if isinstance(item, Lost)]
        assert bool(lost) == (data != whole)  # whatever was changed is noticed, if only by the hash
    except DataError:
        assert len(data) != len(whole)  # noticed when it is opened
    finally:
        path.write_bytes(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(data=st.data(), value=json_values)
def test_a_manifest_with_any_value_anywhere(packed, data, value):
    document = json.loads((packed.directory / MANIFEST).read_text())
    place = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        manifest = Manifest.from_json(json.dumps(document), packed.directory)
    except DataError:
        return
    for shard in manifest.shards:
        for chunk in shard.chunks:
            for column in chunk.columns.values():
                assert 0 <= column.offset <= shard.bytes - chunk.samples * column.row_bytes
    assert isinstance(PackedDataset(packed.directory), PackedDataset)


def test_a_share_of_few_samples_is_no_share():
    tolerance = Tolerance(lenient=True, share=0.01)
    for _ in range(10):
        tolerance.take(Lost("a.tar", "1", "is wrong", 1))
    with pytest.raises(DataError, match="11 of 11 samples cannot be read"):
        tolerance.take(Lost("a.tar", "1", "is wrong", 1))

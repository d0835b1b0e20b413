import json
import pickle
import tarfile

import numpy as np
import pytest

from geotreeclip.data.manifest import MANIFEST
from geotreeclip.data.packed import PackedDataset, PackedWriter, to_digital_numbers
from geotreeclip.errors import DataError
from geotreeclip.schema import MISSING_DN
from geotreeclip.taxonomy import Taxon


def test_round_trip_in_any_order(packed, samples):
    assert len(packed) == samples.count
    assert len(packed.manifest.shards) == 3  # 16 + 16 + 13
    rng = np.random.default_rng(0)
    for rows in (np.arange(samples.count), rng.permutation(samples.count), np.array([44, 0, 44, 15, 16, 7, 8])):
        batch = packed.read(rows)
        np.testing.assert_array_equal(batch.images, samples.images[rows])
        np.testing.assert_array_equal(batch.environment, samples.environment[rows])
        np.testing.assert_array_equal(batch.taxon, samples.taxa[rows])
        np.testing.assert_array_equal(batch.index, rows)
        assert batch.days is None
        assert (batch.images.dtype, batch.environment.dtype, batch.taxon.dtype) == (np.uint16, np.float32, np.int64)
        assert packed.sample_ids(rows) == [samples.ids[row] for row in rows]


def test_tables_stand_beside(packed, samples):
    table = packed.samples()
    assert list(table["sample_id"]) == samples.ids
    assert list(table["taxon"]) == list(samples.taxa)
    assert list(table.columns[:8]) == [
        "sample_id", "taxon", "longitude", "latitude", "year", "country", "source", "rarity"
    ]  # fmt: skip
    np.testing.assert_array_equal(table["longitude"], samples.environment[:, 0].astype(float))
    np.testing.assert_array_equal(packed.taxa, samples.taxa)
    assert packed.taxonomy == samples.taxonomy
    assert packed.statistics.samples == samples.count
    packed.verify()


def test_read_of_nothing_and_out_of_range(packed, samples):
    assert packed.read([]).images.shape == (0, 12, 10, 5, 5)
    for wrong in (-1, samples.count):
        with pytest.raises(DataError, match=f"sample {wrong} asked for, the set has {samples.count}"):
            packed.read([0, wrong])


def test_calls_do_not_change_the_bytes(write_packed, samples, tmp_path):
    write_packed(tmp_path / "a")
    with PackedWriter(tmp_path / "b", samples.taxonomy, chunk_samples=8, shard_samples=16) as writer:
        writer.add(samples.images, samples.environment, [samples.taxonomy[t] for t in samples.taxa], samples.ids)
    a, b = PackedDataset(tmp_path / "a"), PackedDataset(tmp_path / "b")
    assert [shard.sha256 for shard in a.manifest.shards] == [shard.sha256 for shard in b.manifest.shards]
    np.testing.assert_allclose(a.statistics.band_mean, b.statistics.band_mean, rtol=1e-6)


def test_fingerprint_tells_sets_apart(write_packed, samples, tmp_path):
    first = PackedDataset(write_packed(tmp_path / "a")).fingerprint()
    assert PackedDataset(write_packed(tmp_path / "b")).fingerprint() == first
    samples.images[3, 0, 0, 0, 0] ^= 1
    try:
        assert PackedDataset(write_packed(tmp_path / "c")).fingerprint() != first
    finally:
        samples.images[3, 0, 0, 0, 0] ^= 1


def test_without_imagery(samples, tmp_path):
    with PackedWriter(tmp_path, samples.taxonomy, has_images=False, chunk_samples=8) as writer:
        writer.add(None, samples.environment, samples.taxa, samples.ids)
    data = PackedDataset(tmp_path)
    assert not data.has_images
    assert data.steps == 0
    batch = data.read([3, 1])
    assert batch.images.shape[:2] == (2, 0)
    np.testing.assert_array_equal(batch.environment, samples.environment[[3, 1]])
    assert (data.statistics.band_deviation == 1).all()


def test_dated_steps_and_other_bands(samples, tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 9000, (samples.count, 4, 2, 3, 3)).astype(np.uint16)
    days = rng.integers(1, 366, (samples.count, 4, 2)).astype(np.float32)
    with pytest.raises(DataError, match="has_days=True"):
        PackedWriter(tmp_path / "no", steps=4)
    with PackedWriter(tmp_path, None, bands=("B4", "B8"), steps=4, size=(3, 3), has_days=True, chunk_samples=8) as out:
        out.add(images, samples.environment, [samples.taxonomy[t] for t in samples.taxa], samples.ids, days=days)
    batch = PackedDataset(tmp_path).read([9, 2])
    np.testing.assert_array_equal(batch.images, images[[9, 2]])
    np.testing.assert_array_equal(batch.days, days[[9, 2]])


def test_webdataset_opens_a_shard(packed, samples):
    wds = pytest.importorskip("webdataset")
    shard = packed.directory / packed.manifest.shards[1].name
    chunks = list(wds.WebDataset(str(shard), shardshuffle=False).decode())
    assert [chunk["__key__"] for chunk in chunks] == ["000000", "000001"]
    np.testing.assert_array_equal(np.concatenate([chunk["images.npy"] for chunk in chunks]), samples.images[16:32])
    ids = np.concatenate([chunk["sample_id.npy"] for chunk in chunks])
    assert [name.decode() for name in ids] == samples.ids[16:32]
    assert ids.dtype.kind == "S"


def test_pickled_dataset_opens_again(packed):
    assert len(pickle.loads(pickle.dumps(packed)).read([5]).taxon) == 1


def test_rounding_is_half_to_even_and_within_half():
    values = np.array([0.5, 1.5, 2.5, 10.49, 65534.4, np.nan])
    np.testing.assert_array_equal(to_digital_numbers(values), [0, 2, 2, 10, 65534, MISSING_DN])
    for wrong in (-1.0, 65534.6, np.inf):
        with pytest.raises(DataError, match="outside 0 to 65534"):
            to_digital_numbers([1.0, wrong])


# -- writing ---------------------------------------------------------------------------------------------------------


def test_interrupted_writer_leaves_no_set(samples, tmp_path):
    def interrupted():
        with PackedWriter(tmp_path, samples.taxonomy, chunk_samples=8) as writer:
            writer.add(samples.images, samples.environment, samples.taxa, samples.ids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / MANIFEST).exists()
    assert not list(tmp_path.glob(".partial*"))
    with pytest.raises(DataError, match="no packed set"):
        PackedDataset(tmp_path)


def test_shards_without_manifest_are_called_incomplete(packed):
    (packed.directory / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"incomplete.*run the same command again"):
        PackedDataset(packed.directory)


def test_finished_set_is_not_replaced_unasked(packed, write_packed):
    with pytest.raises(DataError, match="finished packed set"):
        write_packed(packed.directory)
    write_packed(packed.directory, overwrite=True)
    PackedDataset(packed.directory).verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": lambda a: a.astype(np.int32)}, "images are int32, expected uint16"),
        ({"images": lambda a: a[:, :11]}, r"images has shape \(45, 11, 10, 5, 5\)"),
        ({"environment": lambda a: a[:, :26]}, r"environment has shape \(45, 26\)"),
        ({"environment": lambda a: np.where(np.arange(27) == 3, np.inf, a)}, "sample 's0': slope is infinite"),
        ({"taxa": lambda a: a + 3}, "taxon row"),
        ({"taxa": lambda a: [Taxon("x")] * 45}, "not in the taxonomy given"),
        ({"ids": lambda a: ["", *a[1:]]}, "sample id ''"),
        ({"ids": lambda a: ["s1", *a[1:]]}, "'s1' comes twice"),
    ],
)
def test_wrong_values_are_refused_by_name(samples, tmp_path, change, message):
    values = {name: getattr(samples, name) for name in ("images", "environment", "taxa", "ids")}
    values |= {name: function(values[name]) for name, function in change.items()}
    with pytest.raises(DataError, match=message), PackedWriter(tmp_path, samples.taxonomy) as writer:
        writer.add(values["images"], values["environment"], values["taxa"], values["ids"])
    assert not (tmp_path / MANIFEST).exists()


# -- hostile manifests and damaged files ---------------------------------------------------------------------------


def _column(document, **changed):
    document["shards"][0]["chunks"][0]["columns"]["images"].update(changed)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: _column(m, offset=10**9), "reaches to byte"),
        (lambda m: _column(m, offset=-6000), "offset is -6000"),
        (lambda m: _column(m, offset=True), "offset is True"),
        (lambda m: _column(m, offset=2**70), "offset is"),
        (lambda m: _column(m, dtype="|O"), "dtype is '|O'"),
        (lambda m: _column(m, shape=[8, 12, 10, 5, 500]), "shape is"),
        (lambda m: m["shards"][0]["chunks"][0]["columns"]["sample_id"].update(dtype="<f8"), "dtype is '<f8'"),
        (lambda m: m["shards"][0]["chunks"][0].update(samples=9), "shape is"),
        (lambda m: m["shards"][0].update(samples=17), "samples is 17"),
        (lambda m: m["shards"][0].update(name="../../etc/passwd"), "name is '../../etc/passwd'"),
        (lambda m: m["shards"][0].update(name="/etc/x.tar"), "name is '/etc/x.tar'"),
        (lambda m: m["shards"][0].update(name="other.tar"), "No such file"),
        (lambda m: m["shards"].append(m["shards"][0]), "same file twice"),
        (lambda m: m.update(samples=46), "samples is 46"),
        (lambda m: m.update(version=2), "format version 2"),
        (lambda m: m.update(format="x"), "no manifest of a packed set"),
        (lambda m: m["images"].update(steps=10**9), "images.steps"),
        (lambda m: m["images"].update(bands=["B2", "B2"]), "distinct names"),
        (lambda m: m["environment"]["variables"].reverse(), "environment.variables"),
        (lambda m: m["files"].update({"../x.json": {}}), "files"),
        (lambda m: m.update(shards=None), "expected a list"),
    ],
)
def test_hostile_manifest_is_refused(packed, edit, message):
    path = packed.directory / MANIFEST
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        PackedDataset(packed.directory)
    assert message in str(error.value)
    assert "passwd" not in message or "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": NaN}', "\udcff"])
def test_broken_manifest_is_refused(packed, text):
    (packed.directory / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="manifest"):
        PackedDataset(packed.directory)


def test_truncated_shard_is_refused_at_open(packed):
    shard = packed.directory / packed.manifest.shards[1].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-000001\.tar: is cut short: \d+ bytes, the manifest states \d+"):
        PackedDataset(packed.directory)


def test_flipped_bit_is_found_by_verify(packed):
    shard = packed.directory / packed.manifest.shards[1].name
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-000001\.tar: its contents have changed"):
        PackedDataset(packed.directory).verify()


def test_verify_compares_offsets_with_the_tar(packed):
    path = packed.directory / MANIFEST
    document = json.loads(path.read_text())
    document["shards"][0]["chunks"][0]["columns"]["environment"]["offset"] += 4
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="column environment at byte"):
        PackedDataset(packed.directory).verify()


def test_taxon_outside_the_taxonomy_is_refused(packed):
    packed.taxonomy.take([0]).write(packed.directory / "taxonomy.parquet")
    path = packed.directory / MANIFEST
    document = json.loads(path.read_text())
    document["files"]["taxonomy.parquet"]["bytes"] = (packed.directory / "taxonomy.parquet").stat().st_size
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="do not belong together"):
        PackedDataset(packed.directory).read([0])


def test_members_are_plain_arrays_at_the_stated_offsets(packed):
    for shard in packed.manifest.shards:
        with tarfile.open(packed.directory / shard.name, "r:") as archive:
            names = archive.getnames()
        assert names[0] == "000000.images.npy"
        assert len(names) == len(shard.chunks) * 4


# -- splits ----------------------------------------------------------------------------------------------------------


def _write_split(packed, ids, roles, name="blocks"):
    import pandas as pd

    (packed.directory / "splits").mkdir(exist_ok=True)
    table = pd.DataFrame({"sample_id": ids, "fold": 0, "role": roles, "block": 1})
    table.to_parquet(packed.directory / "splits" / f"{name}.parquet")


def test_split_gives_rows_by_sample_id(packed):
    _write_split(packed, ["s9", "s2", "s30"], ["train", "train", "test"])
    np.testing.assert_array_equal(packed.split("blocks", 0, "train"), [2, 9])
    np.testing.assert_array_equal(packed.split("blocks", 0, "test"), [30])
    assert packed.split("blocks", 0, "buffer").size == 0


def test_split_errors_name_what_is_there(packed):
    with pytest.raises(DataError, match="no such split; this set has none"):
        packed.split("blocks")
    _write_split(packed, ["s9", "zz"], ["train", "train"])
    with pytest.raises(DataError, match="first 'zz'"):
        packed.split("blocks")
    with pytest.raises(DataError, match=r"has no fold 7, only \[0\]"):
        packed.split("blocks", 7)
    _write_split(packed, ["s9", "s9"], ["train", "train"])
    with pytest.raises(DataError, match="twice"):
        packed.split("blocks")

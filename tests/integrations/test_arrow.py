"""Features through Arrow and Parquet come back as they were, and never mixed with those of another function."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from fsfast.errors import FsfastError

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

from fsfast.integrations.arrow import from_table, to_table  # noqa: E402
from fsfast.integrations.parquet import parquet_rows  # noqa: E402


@pytest.fixture(scope="module")
def batch(small, photograph):
    grey = np.full((32, 32, 3), 128, np.uint8)
    return small.encode([photograph, grey, grey[::-1] // 2], n0=2)


def assert_same(found, wanted, but=()):
    for field in fields(wanted):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if field.name in but:
            continue
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name


def write(path, *parts, precision="float32"):
    with parquet_rows(path, precision) as rows:
        for part in parts:
            rows.add(part)


def test_a_table_gives_the_same_features_back(batch):
    assert_same(from_table(to_table(batch)), batch)


def test_tokens_raw_means_and_a_policy_too(demo, pictures, tmp_path):
    out = replace(demo.encode(pictures, 1, raw_mean=True), certified=(True, None, False))
    pq.write_table(to_table(out), tmp_path / "x.parquet")
    assert_same(from_table(pq.read_table(tmp_path / "x.parquet")), out)


def test_features_of_earlier_versions_have_no_names(batch):
    out = replace(batch, names=(), sources=())
    assert_same(from_table(to_table(out)), out)


def test_rows_can_be_chosen(batch):
    table = to_table(batch)
    assert_same(from_table(table.slice(1, 2)), batch[1:])
    assert_same(from_table(table.filter(pa.compute.equal(table["name"], batch.names[0]))), batch[:1])
    assert_same(from_table(table.to_batches()[0]), batch)
    assert_same(from_table(pa.concat_tables([table.slice(2), table.slice(0, 1)])), batch[[2, 0]])


def test_half_precision_rounds_the_features_alone(batch, tmp_path):
    write(tmp_path / "half.parquet", batch, precision="float16")
    table = pq.read_table(tmp_path / "half.parquet")
    assert table.schema.field("features").type == pa.list_(pa.float16(), 16)
    found = from_table(table)
    assert_same(found, batch, but=["features"])
    np.testing.assert_array_equal(found.features, batch.features.astype(np.float16))
    with pytest.raises(ValueError, match=r"larger than 65504; keep float32"):
        to_table(replace(batch, features=batch.features * np.float32(1e6)), "float16")
    with pytest.raises(ValueError, match="float16 or float32, got 'int8'"):
        to_table(batch, "int8")


def test_others_can_read_what_a_row_is(batch):
    """Without fsfast: plain columns, and metadata of JSON."""
    table = to_table(batch)
    assert table["unit"].type == pa.list_(pa.float32(), 16)
    assert table["seed"].to_pylist() == [int(seed) for seed in batch.seeds]
    assert json.loads(table["source"][0].as_py())["kind"] == "file"
    said = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    assert said["fsfast.engine_digest"] == batch.engine_digest
    assert (said["fsfast.function_id"], said["fsfast.sigma"]) == (batch.function_id, 0.5)


def test_a_file_grows_in_constant_memory(small, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 32, 32, 3), np.uint8)
    with parquet_rows(tmp_path / "x.parquet") as rows:
        for outcome in small.encode_iter((image for image in images), n0=1):
            rows.add(outcome.result)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [256, 44]
    # The secret gives equal images equal seeds.
    assert_same(from_table(file.read()), small.encode(images, n0=1))


def test_a_file_holds_one_function(batch, demo, pictures, tmp_path):
    other = replace(batch, function_id="0" * 64)
    for wrong in (other, demo.encode(pictures[0], 1), replace(batch, raw_mean=batch.features)):
        with pytest.raises(FsfastError, match=r"as those before.*a file of their own"):
            write(tmp_path / "x.parquet", batch, wrong)
    assert list(tmp_path.iterdir()) == []
    # Arrow keeps the metadata of the first alone.
    with pytest.raises(FsfastError, match="rows of several functions"):
        from_table(pa.concat_tables([to_table(batch), to_table(other)]))
    with pytest.raises(FsfastError, match="or n0; filter them"):
        from_table(pa.concat_tables([to_table(batch), to_table(replace(batch, n0=3))]))


def test_no_features_make_no_file(tmp_path):
    with pytest.raises(FsfastError, match="none came"):
        write(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_other_tables_are_refused(batch):
    table = to_table(batch)
    nulls = pa.nulls(3, table["unit"].type)
    for wrong in (
        pa.table({"features": [1.0]}),
        table.replace_schema_metadata({}),
        table.replace_schema_metadata(table.schema.metadata | {b"fsfast.schema": b"2"}),
        table.drop_columns(["seed"]),
        table.drop_columns(["grid_sha256"]),
        table.slice(0, 0),
        table.set_column(1, "unit", nulls),
    ):
        with pytest.raises(FsfastError, match=r"a table that fsfast.integrations.arrow made"):
            from_table(wrong)


def test_files_are_not_larger_than_what_is_in_them(batch, tmp_path):
    many = batch[[0] * 256]
    numbers = np.random.default_rng(0).standard_normal((2, *many.unit.shape), np.float32)
    write(tmp_path / "x.parquet", replace(many, features=numbers[0], unit=numbers[1]))
    assert (tmp_path / "x.parquet").stat().st_size < numbers.nbytes + 20_000

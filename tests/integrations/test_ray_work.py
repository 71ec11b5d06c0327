"""A worker's slices: the bits of `encode` and `certify`, images that fail alone, and work that is done once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fsfast
from fsfast.errors import FsfastError, ReplicasDiffer
from tests.integrations.photos import png

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
pytest.importorskip("fsspec", reason="needs fsspec")

from fsfast.integrations.arrow import from_table  # noqa: E402
from fsfast.integrations.certificate_table import certificates_from_table  # noqa: E402
from fsfast.integrations.ray.job import Job  # noqa: E402
from fsfast.integrations.ray.results import Results  # noqa: E402
from fsfast.integrations.ray.slices import paths_of, slices_of  # noqa: E402
from fsfast.integrations.ray.work import Worker, described  # noqa: E402

SECRET = "a secret of the tests"


@pytest.fixture
def job(small_path, tmp_path, monkeypatch):
    monkeypatch.setenv("FSFAST_SECRET", SECRET)
    return Job("features", str(tmp_path / "out"), str(small_path), arguments={"n0": 3})


@pytest.fixture
def encoder(small_path):
    with fsfast.SmoothedEncoder(small_path, secret=SECRET) as opened:
        yield opened


def test_features_are_those_of_encode(job, encoder, photos):
    paths = paths_of(photos)
    worker = Worker(job)
    spent = [worker.do(each) for each in slices_of(paths, 2, "image")]
    found, wanted = from_table(pq.read_table(f"{job.out}/features")), encoder.encode(paths, 3)
    assert found.unit.tobytes() == wanted.unit.tobytes()
    assert found.seeds.tolist() == wanted.seeds.tolist()
    assert found.names == tuple(paths)
    assert sum(each.images for each in spent) == 5
    assert sum(each.bytes_read for each in spent) == sum(len(png(level)) for level in range(5))


def test_certificates_are_those_of_certify(job, encoder, photos):
    paths = paths_of(photos)[:2]
    worker = Worker(replace(job, kind="certificates", arguments={"n": 40, "n0": 3}))
    worker.do(*slices_of(paths, 9, "image"))
    table = pq.read_table(f"{job.out}/certificates")
    found, wanted = certificates_from_table(table), encoder.certify(paths, 40, n0=3)
    assert [each.scores.tobytes() for each in found] == [each.scores.tobytes() for each in wanted]
    assert [each.seed for each in found] == [each.seed for each in wanted]
    assert table["radius"].to_pylist() == [each.radius(0.5) for each in wanted]


def test_an_image_that_fails_is_named_and_hurts_no_other(job, photos):
    bad, missing = photos / "bad.png", photos / "missing.png"
    bad.write_bytes(b"no image")
    spent = Worker(job).do(*slices_of([str(bad), str(photos / "a.png"), str(missing)], 9, "image"))
    assert (spent.images, spent.failed) == (1, 2)
    assert [name for name, _ in Results(job.out).failures()] == [str(bad), str(missing)]
    assert from_table(pq.read_table(f"{job.out}/features")).names == (str(photos / "a.png"),)


def test_a_slice_whose_images_all_fail_is_done(job, photos):
    spent = Worker(job).do(*slices_of([str(photos / "missing.png")], 9, "image"))
    assert (spent.images, spent.failed) == (0, 1)
    assert list(Results(job.out).done()) == ["000000"]


def test_what_is_done_is_not_done_twice(job, photos):
    (each,) = slices_of(paths_of(photos), 9, "image")
    assert Worker(job).do(each).images == 5
    assert Worker(job).do(each).images == 0


def test_rows_of_parquet_files_are_images(job, encoder, tmp_path):
    good = [png(level) for level in range(5)]
    column = pa.array([{"bytes": each, "path": None} for each in good[:4]] + [{"bytes": None, "path": "x"}])
    pq.write_table(pa.table({"image": column}), tmp_path / "set.parquet", row_group_size=2)
    slices = slices_of([str(tmp_path / "set.parquet")], 3, "image")
    assert [(each.first, each.count) for each in slices] == [(0, 3), (3, 2)]
    worker = Worker(job)
    assert [(spent.images, spent.failed) for spent in map(worker.do, slices)] == [(3, 0), (1, 1)]
    found = from_table(pq.read_table(f"{job.out}/features"))
    assert found.unit.tobytes() == encoder.encode(good[:4], 3).unit.tobytes()
    assert found.names == tuple(f"{tmp_path}/set.parquet#{row}" for row in range(4))


def test_damage_in_a_parquet_file_costs_its_group_of_rows(job, tmp_path):
    file = tmp_path / "set.parquet"
    noise = np.random.default_rng(0).integers(0, 256, (4, 5000), np.uint8)
    table = pa.table({"image": [png(9) + each.tobytes() for each in noise]})
    pq.write_table(table, file, row_group_size=2, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    # The frame of the first group's page.
    place = content.index(b"\x28\xb5\x2f\xfd")
    content[place : place + 400] = bytes(400)
    file.write_bytes(content)
    spent = Worker(job).do(*slices_of([str(file)], 9, "image"))
    assert (spent.images, spent.failed) == (2, 2)


def test_a_column_that_is_not_there_is_refused(tmp_path):
    pq.write_table(pa.table({"picture": [png(0)]}), tmp_path / "set.parquet")
    with pytest.raises(FsfastError, match=r"'image'.*picture"):
        slices_of([str(tmp_path / "set.parquet")], 9, "image")


def test_a_worker_of_another_function_does_nothing(job, photos):
    with pytest.raises(ReplicasDiffer, match="function_id"):
        Worker(replace(job, identity={"function_id": "another"}))


def test_the_manifest_pins_what_a_file_depends_on(job, encoder):
    pinned = described(job, Worker(job).encoder)
    assert pinned["function_id"] == encoder.function_id
    assert (pinned["n0"], pinned["kind"], pinned["key_id"]) == (3, "features", encoder.seeds.key_id)

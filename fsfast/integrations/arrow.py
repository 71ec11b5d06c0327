"""Smoothed features as tables of Arrow and files of Parquet: a row per image, with everything that says what it is.

`features` (float16 or float32), `unit` and `raw_mean` are lists of L·D numbers. What all rows have in common stands in
the schema's metadata as JSON, a key each: fsfast.engine, fsfast.engine_digest, fsfast.function_id, fsfast.sigma, …
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import numpy as np

from fsfast.errors import FsfastError, brief
from fsfast.integrations.packages import host_package
from fsfast.runtime.features import SmoothedFeatures, check_shapes

host_package("pyarrow", "arrow")

import pyarrow as pa  # noqa: E402

Precision = Literal["float16", "float32"]
_COMMON = ("engine", "engine_digest", "function_id", "sigma", "random_weights")
_VECTORS = ("features", "unit", "raw_mean")
# Column → field of SmoothedFeatures, and its type; the last three are not known of all features.
_TUPLES = {
    "seed_origin": ("seed_origins", pa.string()),
    "grid_sha256": ("grid_sha256", pa.string()),
    "name": ("names", pa.string()),
    "source": ("sources", pa.string()),
    "certified": ("certified", pa.bool_()),
}


def to_table(out: SmoothedFeatures, precision: Precision = "float32") -> pa.Table:
    """Return features as a table, a row per image.

    Args:
        out: features of B images.
        precision: of the column `features`; `unit`, of which certificates speak, is always float32.

    Raises:
        ValueError: another precision, or features that float16 cannot hold.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"wanted features as float16 or float32, got {precision!r}")
    with np.errstate(over="ignore"):
        features = out.features.astype(precision)
    if np.isinf(features).any():
        raise ValueError("wanted features that float16 can hold, some are larger than 65504; keep float32")
    arrays = {"features": features, "unit": out.unit, "raw_mean": out.raw_mean}
    columns = {name: _vectors(array) for name, array in arrays.items() if array is not None}
    columns["seed"] = pa.array(out.seeds)
    columns["n0"] = pa.array([out.n0] * len(out), pa.uint32())
    columns["function_id"] = pa.array([out.function_id] * len(out), pa.string())
    for name, (field, kind) in _TUPLES.items():
        if values := getattr(out, field):
            columns[name] = pa.array(map(json.dumps, values) if name == "source" else values, kind)
    common = {name: getattr(out, name) for name in _COMMON} | {"schema": 1, "shape": out.features.shape[1:]}
    metadata = {f"fsfast.{name}": json.dumps(value) for name, value in common.items()}
    return pa.table(columns, metadata=metadata)


def from_table(table: pa.Table | pa.RecordBatch) -> SmoothedFeatures:
    """Return the features in a table, or in some of its rows; what float32 columns hold comes back bit for bit.

    Raises:
        FsfastError: `to_table` did not make it, or its rows come from several functions or numbers of samples.
    """
    try:
        return _read(pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FsfastError(
            f"wanted rows of a table that fsfast.integrations.arrow made: {brief(error)}"
        ) from error


def _read(table: pa.Table) -> SmoothedFeatures:
    said = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    common = {name: json.loads(said[f"fsfast.{name}"]) for name in (*_COMMON, "schema", "shape")}
    if (schema := common.pop("schema")) != 1:
        raise ValueError(f"its schema has version {schema}, this fsfast reads 1; upgrade fsfast")
    shape, n0 = (len(table), *common.pop("shape")), table["n0"].unique().to_pylist()
    if table["function_id"].unique().to_pylist() != [common["function_id"]] or len(n0) != 1:
        raise ValueError("it has no rows, or rows of several functions or n0; filter them by these columns")
    fields: dict[str, Any] = {"raw_mean": None} | {
        name: _array(table[name], shape) for name in _VECTORS if name in table.column_names
    }
    for name, (field, _) in _TUPLES.items():
        values = table[name].to_pylist() if name in table.column_names else ()
        fields[field] = tuple(map(json.loads, values) if name == "source" else values)
    out = SmoothedFeatures(seeds=table["seed"].to_numpy(), n0=n0[0], **fields, **common)
    check_shapes(out)
    return out


def _vectors(array: np.ndarray) -> pa.FixedSizeListArray:
    """Return [B, …] as a column of B lists."""
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().astype(np.float32).reshape(shape)

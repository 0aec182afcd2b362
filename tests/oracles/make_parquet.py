"""Writes tests/goldens/parquet/: the same rows as JSONL and, by pyarrow, as Parquet in every codec.

Needs `pip install pyarrow==21.0.0`. Usage: make_parquet.py [OUT]
"""

import datetime
import decimal
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDENS / "parquet"
ROWS = 12
# a row group ends inside a window of rows, and inside a list
ROW_GROUP = 5


def write_lines(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (OUT / name).write_text(text, encoding="utf-8")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    lines = (GOLDENS / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [{**json.loads(line), "id": i} for i, line in enumerate(lines[:ROWS])]
    write_lines("pairs.jsonl", pairs)
    table = pa.Table.from_pylist(pairs)
    for codec in ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]:
        pq.write_table(table, OUT / f"pairs-{codec}.parquet", compression=codec, row_group_size=ROW_GROUP)
    pq.write_table(
        table, OUT / "pairs-v2.parquet", compression="zstd", data_page_version="2.0", write_page_checksum=True,
        use_dictionary=False, row_group_size=ROW_GROUP,
    )

    scored = [
        {"prompt": "Count:", "completions": [" 1, 2", " one", ""], "rewards": [1.5, -0.25, 3.0]},
        {"prompt": "Sag „ja“:", "completions": [" ja"], "rewards": [1e-3]},
    ]
    write_lines("scored.jsonl", scored)
    pq.write_table(pa.Table.from_pylist(scored), OUT / "scored.parquet")

    # every type with a form in JSON, with nulls; the columns beside prompt and answers are what a reader passes over
    types = pa.table(
        {
            "prompt": pa.array(["a", "b", "c"]),
            "completion": pa.array([" x", " y", " z"], pa.large_string()),
            "label": pa.array([True, False, True]),
            "i8": pa.array([-128, 127, None], pa.int8()),
            "u32": pa.array([0, 4294967295, None], pa.uint32()),
            "u64": pa.array([0, 18446744073709551615, None], pa.uint64()),
            "i64": pa.array([-9223372036854775808, 1, None], pa.int64()),
            "f16": pa.array([0.5, -2.0, None], pa.float32()).cast(pa.float16()),
            "f32": pa.array([0.1, -1e30, None], pa.float32()),
            "f64": pa.array([0.1, 1e300, None], pa.float64()),
            "cents": pa.array([decimal.Decimal("1.25"), decimal.Decimal("-0.05"), None], pa.decimal128(12, 2)),
            "day": pa.array([datetime.date(2024, 2, 29), datetime.date(1970, 1, 1), None], pa.date32()),
            "at": pa.array([datetime.datetime(2024, 2, 29, 12, 30, 15), None, None], pa.timestamp("ms")),
            "nothing": pa.array([None, None, None], pa.null()),
            "list": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
            "lists": pa.array([[[1], [2, 3]], [[]], [None]], pa.list_(pa.list_(pa.int32()))),
            "struct": pa.array([{"a": 1, "b": "x"}, {"a": None, "b": None}, None]),
            "map": pa.array([[("k", 1), ("l", 2)], [], None], pa.map_(pa.string(), pa.int32())),
            "category": pa.array(["p", "q", "p"]).dictionary_encode(),
        }
    )
    pq.write_table(types, OUT / "types.parquet")
    pq.write_table(pa.table({"prompt": ["a"], "picture": pa.array([b"\xff\xd8"])}), OUT / "binary.parquet")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), OUT / "no-rows.parquet")


main()

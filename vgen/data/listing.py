"""Listings of videos: CSV, TSV, JSONL and Parquet, row by row as plain dictionaries."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vgen.data.bounded import refuse_deep

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_listing(file: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of ``file``, each with at least the columns ``required``; any other columns come along."""
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"listing {file} must end in {', '.join(SUFFIXES)}; for a folder of videos use data=folder"
        )
    if not file.is_file():
        raise ValueError(f"listing {file} does not exist")
    match file.suffix.lower():
        case ".csv":
            return _table(file, _separator(file), required)
        case ".tsv":
            return _table(file, "\t", required)
        case ".jsonl":
            return _json_lines(file, required)
        case _:
            return _parquet(file, required)


def _separator(file: Path) -> str:
    """A comma, or a semicolon where the first line has no comma: what spreadsheets write where the comma is
    in numbers."""
    with open(file, "rb") as lines:
        first = lines.readline()
    return ";" if b";" in first and b"," not in first else ","


def _table(file: Path, delimiter: str, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            _require(file, reader.fieldnames or [], required)
            _once(file, reader.fieldnames or [])
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"listing {file}, line {reader.line_num}: as many values as columns "
                        f"({len(reader.fieldnames or [])}) are needed; quote values that hold {delimiter!r}"
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"listing {file}, near line {reader.line_num + 1}: {error}; it must be UTF-8 with quoted text"
            ) from error


def _json_lines(file: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
                refuse_deep(row)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"listing {file}, line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"listing {file}, line {number} must hold one object, got a {type(row).__name__}"
                )
            if required[0] not in row:
                _require(file, list(row), required[:1])
            yield dict.fromkeys(required) | row  # an object may leave its caption out; the ledger says so


def _parquet(file: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"reading {file} needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(file) as table:
            _require(file, table.schema_arrow.names, required)
            _once(file, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"listing {file} is no readable Parquet file: {error}") from error


def _once(file: Path, present: Sequence[str]) -> None:
    twice = sorted({name for name in present if list(present).count(name) > 1})
    if twice:
        raise ValueError(
            f"listing {file} has more than one column {', '.join(map(repr, twice))}; give each a name of "
            "its own"
        )


def _require(file: Path, present: Sequence[str], required: Sequence[str]) -> None:
    lacking = [name for name in required if name not in present]
    if lacking:
        raise ValueError(
            f"listing {file} has no column {', '.join(map(repr, lacking))}; it has "
            f"{', '.join(present) or 'none'}: "
            "name yours by data.video_column=, data.caption_column= or data.key_column="
        )

"""Tables on disk: Parquet, and data sets as `datasets` saves them; where that is installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

TableKind = Literal["parquet", "dataset"]


def table_size(kind: TableKind, path: Path) -> tuple[int, int]:
    """Rows, and bytes.

    Raises:
        OSError: it is none, or what reads it is not installed.
    """
    table = _opened(kind, path)
    if kind == "parquet":
        return table.metadata.num_rows, path.stat().st_size
    return table.num_rows, table.data.nbytes


def rows(kind: TableKind, path: Path, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows `start` to `stop`, each a value by column."""
    table = _opened(kind, path)
    if kind == "dataset":
        yield from table.select(range(start, stop))
        return
    first = 0
    for group in range(table.metadata.num_row_groups):
        last = first + table.metadata.row_group(group).num_rows
        if first < stop and start < last:
            for at, row in enumerate(table.read_row_group(group).to_pylist(), first):
                if start <= at < stop:
                    yield row
        first = last


def _opened(kind: TableKind, path: Path) -> Any:
    try:
        import datasets
        import pyarrow.parquet
    except ImportError:
        raise OSError("reading tables needs the package datasets; install it") from None
    try:
        return (
            pyarrow.parquet.ParquetFile(path)
            if kind == "parquet"
            else datasets.load_from_disk(path)
        )
    except (ValueError, KeyError) as error:
        raise OSError(f"it is no {kind} ({error}); make it again") from error

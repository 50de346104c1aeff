"""Rows of .csv, .parquet and .arrow files, one by one.

Standard library only, Python >= 3.8 (see rows.py); pyarrow is imported for the files that need it.
"""

from __future__ import annotations

import csv
import json
import sys
from typing import Any, Dict, Iterator, List, Tuple

from trainer.formats import BadRow

#: Columns whose cells are lists: in a .csv file they are written as JSON.
NESTED = ("conversations", "messages", "history")


def csv_values(file: str) -> Iterator[Tuple[int, Any]]:
    """(line, row or BadRow) of a .csv file with a header; a cell may span several lines."""
    csv.field_size_limit(sys.maxsize)  # its default stops at cells of 128 KiB
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header: List[str] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                # Where the next row begins can't be known: the rest of the file goes unread.
                yield line, BadRow("no CSV from here (%s)" % str(error)[:80], "CSV in UTF-8")
                return
            if cells is None:
                return
            if not any(cells):
                continue
            if not header:
                header = [name.strip() for name in cells]
            elif len(cells) != len(header):
                yield line, BadRow("%d cells" % len(cells), "%d, as the header has" % len(header))
            else:
                yield line, _csv_row(dict(zip(header, cells)))


def _csv_row(cells: Dict[str, str]) -> Any:
    row: Dict[str, Any] = {name: cell for name, cell in cells.items() if cell != ""}
    for name in NESTED:
        if name in row:
            try:
                row[name] = json.loads(row[name])
            except ValueError:
                return BadRow("%s: no JSON" % name, "a list, as JSON")
    return row


def arrow_values(file: str) -> Iterator[Tuple[int, Any]]:
    """(row, counted from 1, and its value) of a .parquet or .arrow file."""
    try:
        import pyarrow  # noqa: ICN001
    except ImportError:
        yield 0, BadRow("a file that this Python can't read", "pyarrow (deployed environments do)")
        return
    number = 0
    try:
        for batch in _batches(file):
            for value in batch.to_pylist():
                number += 1
                yield number, value
    except pyarrow.ArrowInvalid as error:
        reason = (str(error).splitlines() or ["?"])[0]
        yield number + 1, BadRow("unreadable from here (%s)" % reason[:80], "a whole file")


def _batches(file: str) -> Iterator[Any]:
    import pyarrow  # noqa: ICN001

    if file.endswith(".parquet"):
        import pyarrow.parquet

        yield from pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024)
        return
    with pyarrow.memory_map(file) as source:
        try:
            # What datasets.save_to_disk writes.
            batches = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            batches = pyarrow.ipc.open_file(source)
            batches = (batches.get_batch(n) for n in range(batches.num_record_batches))
        yield from batches

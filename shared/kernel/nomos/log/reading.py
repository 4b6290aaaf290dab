"""Reading the records of an export in order, for whoever does something with them.

Decides nothing about them: an export is judged by :mod:`nomos.log.verify` first, and what is read here afterwards is
believed as far as that verdict goes. Memory holds one row group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nomos.log.index import INDEX_NAME, ExportIndex, parse_index
from nomos.log.parts import Part
from nomos.log.record import Record, parse_record


def read_index(directory: Path) -> ExportIndex:
    """The index of an export.

    Raises:
        Malformed: it is none.
        OSError: it cannot be read.
    """
    return parse_index((directory / INDEX_NAME).read_bytes())


def read_records(directory: Path, index: ExportIndex, types: frozenset[str] | None = None) -> Iterator[Record]:
    """The records of an export, rising in ``seq``.

    Args:
        directory: the export.
        index: its index.
        types: record types that are wanted, by the typed column; None for all.

    Raises:
        Malformed: a part or a record breaks its format.
        OSError: a part cannot be read.
    """
    for entry in index.files:
        with Part(directory / entry.n, with_prev=index.kind == "tenant") as part:
            for group in range(part.groups):
                rows = part.read(group)
                for row, kind in enumerate(rows.types):
                    if types is None or kind in types:
                        yield parse_record(rows.record(row))

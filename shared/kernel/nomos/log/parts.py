"""Reading one row group of an export, column by column and not value by value.

Decides that a part has exactly the columns that :mod:`nomos.log.archive` writes and no nulls. Judges nothing else:
what is read here comes from hands that are not trusted. ``pyarrow`` is imported when a part is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.archive import part_schema
from nomos.log.tree import GROUP_ROWS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: A footer names each column of each row group in well under 1 KiB.
_FOOTER_STRING_MAX: Final = 16 * 1024 * 1024
_FOOTER_ITEMS_MAX: Final = 1_000_000
HASH_BYTES: Final = 32


class GroupRows(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of one row group. ``offsets`` has one entry more than there are rows.

    ``times`` is the column ``ts`` in microseconds since 1970.
    """

    seqs: list[int]
    times: list[int]
    tenants: list[str]
    types: list[str]
    hashes: bytes
    prevs: bytes | None
    offsets: list[int]
    records: bytes

    def __len__(self) -> int:
        return len(self.seqs)

    def record(self, row: int) -> bytes:
        """The bytes of one record."""
        return self.records[self.offsets[row] : self.offsets[row + 1]]

    def hash(self, row: int) -> bytes:
        """The column ``hash`` of one row."""
        return self.hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES]


class Part:
    """One open Parquet file."""

    def __init__(self, path: Path, *, with_prev: bool) -> None:
        """Opens ``path`` and checks its columns.

        Raises:
            MalformedRecord: not a Parquet file of an export.
            FileNotFoundError: there is no such file.
        """
        import pyarrow.parquet as pq  # noqa: PLC0415

        if not path.is_file():
            raise FileNotFoundError(path.name)
        try:
            self._file: pq.ParquetFile = pq.ParquetFile(
                path,
                page_checksum_verification=True,
                thrift_string_size_limit=_FOOTER_STRING_MAX,
                thrift_container_size_limit=_FOOTER_ITEMS_MAX,
            )
            schema = self._file.schema_arrow
        except _foreign() as error:
            raise MalformedRecord("not a Parquet file", cause=str(error)) from None
        self._with_prev = with_prev
        wanted = part_schema(with_prev=with_prev)
        if schema.names != wanted.names or schema.types != wanted.types:
            raise MalformedRecord("a part does not have the columns of an export")

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return int(self._file.num_row_groups)

    def types(self, group: int) -> set[str]:
        """The types of row group number ``group``.

        Raises:
            MalformedRecord: it cannot be decoded.
        """
        try:
            column = self._file.read_row_group(group, columns=["type"], use_threads=False).column("type")
            return set(column.unique().to_pylist())
        except _foreign() as error:
            raise MalformedRecord("a row group cannot be decoded", cause=str(error)) from None

    def read(self, group: int) -> GroupRows:
        """Reads row group number ``group``.

        Raises:
            MalformedRecord: it cannot be decoded, a page's checksum is wrong, or it holds nulls.
            LimitExceeded: it has more than 65,536 rows.
        """
        try:
            rows = int(self._file.metadata.row_group(group).num_rows)
            if not 0 < rows <= GROUP_ROWS:
                raise LimitExceeded("rows of a row group", GROUP_ROWS, rows)
            table = self._file.read_row_group(group, use_threads=False)
            table.validate(full=True)
            if table.num_rows != rows or any(column.null_count for column in table.columns):
                raise MalformedRecord("a row group has nulls or not the rows that it states")
            columns = {name: _single(table.column(name)) for name in table.column_names}
            return _rows_of(columns, with_prev=self._with_prev)
        except _foreign() as error:
            raise MalformedRecord("a row group cannot be decoded", cause=str(error)) from None


def find_rows(path: Path, types: frozenset[str]) -> Iterator[tuple[int, str, bytes]]:
    """Seq, type and record of the rows whose column ``type`` is one of ``types``, read without judging anything.

    Only the column ``type`` is read of row groups that hold none.

    Raises:
        MalformedRecord: not a part of an export.
        FileNotFoundError: there is no such file.
    """
    with Part(path, with_prev=False) as part:
        for group in range(part.groups):
            if types.isdisjoint(part.types(group)):
                continue
            rows = part.read(group)
            for row, kind in enumerate(rows.types):
                if kind in types:
                    yield rows.seqs[row], kind, rows.record(row)


def _foreign() -> tuple[type[BaseException], ...]:
    """What pyarrow raises on bytes that are not what they say. IO errors count: it raises them for bad bytes too."""
    import pyarrow as pa  # noqa: PLC0415

    return (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _fixed(array: pa.Array) -> bytes:
    start = array.offset * HASH_BYTES
    return bytes(memoryview(array.buffers()[1])[start : start + len(array) * HASH_BYTES])


def _numbers(array: pa.Array, form: Literal["i", "q"], size: int) -> list[int]:
    """The values of an array without nulls, by its buffer: many times faster than one Arrow value after the other."""
    start = array.offset * size
    return memoryview(array.buffers()[1])[start : start + len(array) * size].cast(form).tolist()


def _words(array: pa.Array) -> list[str]:
    names = array.dictionary.to_pylist()
    return [names[one] for one in _numbers(array.indices, "i", 4)]


def _rows_of(columns: dict[str, pa.Array], *, with_prev: bool) -> GroupRows:
    records = columns["record"]
    _, offsets, content = records.buffers()
    begin = records.offset
    return GroupRows(
        seqs=_numbers(columns["seq"], "q", 8),
        times=_numbers(columns["ts"], "q", 8),
        tenants=_words(columns["tenant"]),
        types=_words(columns["type"]),
        hashes=_fixed(columns["hash"]),
        prevs=_fixed(columns["prev"]) if with_prev else None,
        offsets=memoryview(offsets).cast("i")[begin : begin + len(records) + 1].tolist(),
        # One copy, so that Arrow's memory can go, and because only bytes can be searched from behind.
        records=content.to_pybytes() if content is not None else b"",
    )

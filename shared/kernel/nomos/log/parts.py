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
#: Rows that are decoded at once.
BATCH_ROWS: Final = 2_048


class GroupRows(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of one row group. ``offsets`` has one entry more than there are rows.

    ``times`` is the column ``ts`` in microseconds since 1970. ``records`` may be longer than the last offset.
    """

    seqs: list[int]
    times: list[int]
    tenants: list[str]
    types: list[str]
    hashes: bytes
    prevs: bytes | None
    offsets: list[int]
    records: bytes | bytearray

    def __len__(self) -> int:
        return len(self.seqs)

    def record(self, row: int) -> bytes:
        """The bytes of one record."""
        return bytes(self.records[self.offsets[row] : self.offsets[row + 1]])

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

    def read(self, group: int, into: bytearray | None = None) -> GroupRows:
        """Reads row group number ``group``.

        Args:
            group: its number.
            into: takes the records, grows as it must, and may be longer; the rows hold until it is used again. None
                for memory of their own.

        Raises:
            MalformedRecord: it cannot be decoded, a page's checksum is wrong, or it holds nulls.
            LimitExceeded: it has more than 65,536 rows.
        """
        try:
            rows = int(self._file.metadata.row_group(group).num_rows)
            if not 0 < rows <= GROUP_ROWS:
                raise LimitExceeded("rows of a row group", GROUP_ROWS, rows)
            read = _Columns(into if into is not None else bytearray(), with_prev=self._with_prev)
            # In pieces: decoding a group as a whole takes several times its size.
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise MalformedRecord("a row group has nulls")
                read.add(batch)
            found = read.rows()
            if len(found) != rows:
                raise MalformedRecord("a row group has not the rows that it states")
            return found
        except _foreign() as error:
            raise MalformedRecord("a row group cannot be decoded", cause=str(error)) from None


def load_reader() -> None:
    """Imports the reader of Parquet, so that the first part need not wait for it."""
    import pyarrow.parquet  # noqa: F401, PLC0415


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


class _Columns:
    """The columns of a row group while they are read. Copies, so that Arrow's memory can go."""

    def __init__(self, records: bytearray, *, with_prev: bool) -> None:
        self._with_prev = with_prev
        self._seqs: list[int] = []
        self._times: list[int] = []
        self._tenants: list[str] = []
        self._types: list[str] = []
        self._hashes: list[bytes] = []
        self._prevs: list[bytes] = []
        self._offsets = [0]
        # One that grows in place: pieces that are joined at the end would be there twice.
        self._records = records

    def add(self, batch: pa.RecordBatch) -> None:
        self._seqs += _numbers(batch.column("seq"), "q", 8)
        self._times += _numbers(batch.column("ts"), "q", 8)
        self._tenants += _words(batch.column("tenant"))
        self._types += _words(batch.column("type"))
        self._hashes.append(_fixed(batch.column("hash")))
        if self._with_prev:
            self._prevs.append(_fixed(batch.column("prev")))
        records = batch.column("record")
        _, offsets, content = records.buffers()
        marks = memoryview(offsets).cast("i")[records.offset : records.offset + len(records) + 1].tolist()
        moved = self._offsets[-1] - marks[0]
        self._offsets += [one + moved for one in marks[1:]]
        if content is not None:
            begin = marks[0] + moved
            self._records[begin : marks[-1] + moved] = memoryview(content)[marks[0] : marks[-1]]

    def rows(self) -> GroupRows:
        return GroupRows(
            seqs=self._seqs,
            times=self._times,
            tenants=self._tenants,
            types=self._types,
            hashes=b"".join(self._hashes),
            prevs=b"".join(self._prevs) if self._with_prev else None,
            offsets=self._offsets,
            records=self._records,
        )

"""The export directory: what stands in which file, and how it is written and read back.

Decides layout and columns only; nothing that is read here is trusted before :mod:`nomos.log.verify` has judged it::

    log.json                        index of the export: an unsigned convenience, canonical JSON with its own digest
    checkpoint                      newest signed note, the same bytes as checkpoints/<its size>
    checkpoints/<size, 12 digits>   all signed notes
    day=YYYY-MM-DD/part-NNN.parquet records in order of seq
    proof                           tenant bundles: many-proof of all records (nomos.log.proof)

Parquet columns: ``seq`` int64, ``ts`` timestamp(us, UTC), ``tenant`` and ``type`` dictionary, ``hash`` FIXED(32), in
tenant bundles ``prev`` FIXED(32), and ``record`` BINARY: the canonical bytes. Typed columns repeat the record for SQL.
Row groups are cut at global multiples of 65,536, so a complete one is one node of the Merkle tree. There are no
statistics on ``record``: minimum and maximum would disclose content. Page checksums are on.

``pyarrow`` is imported when a file is written or read, so that the rest of the log stays light.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from nomos.errors import MalformedRecord
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.index import (
    CHECKPOINT_NAME,
    CHECKPOINTS_NAME,
    EXPORT_SCHEMA,
    INDEX_NAME,
    PROOF_NAME,
    ExportIndex,
    FileEntry,
    Kind,
    PartEntry,
    checkpoint_name,
    file_digest,
    format_index,
)
from nomos.log.note import parse_note
from nomos.log.proof import format_many_proof
from nomos.log.record import parse_ts
from nomos.log.tree import GROUP_ROWS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: A part is closed after so many rows (16 row groups), so that one file stays handy.
PART_ROWS_MAX: Final = 16 * GROUP_ROWS
_ZSTD_LEVEL: Final = 1


class ArchiveRow(NamedTuple):
    """One record on its way into a file. ``prev`` (the chain hash before it) is needed in tenant bundles only."""

    seq: int
    hash: bytes
    record: bytes
    prev: bytes | None = None


class _Typed(msgspec.Struct, frozen=True):
    """The members of a record that are columns too."""

    seq: int
    tenant: str
    ts: str
    type: str


_TYPED = msgspec.json.Decoder(_Typed)


def part_schema(*, with_prev: bool) -> pa.Schema:
    """The Arrow schema of a part."""
    import pyarrow as pa  # noqa: PLC0415 - see the module's last sentence

    words = pa.dictionary(pa.int32(), pa.string())
    columns: list[tuple[str, pa.DataType]] = [
        ("seq", pa.int64()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("tenant", words),
        ("type", words),
        ("hash", pa.binary(32)),
    ]
    if with_prev:
        columns.append(("prev", pa.binary(32)))
    columns.append(("record", pa.binary()))
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


class PartWriter:
    """Writes one part. Rows must come in order of ``seq``; use as a context manager."""

    def __init__(self, path: Path, *, with_prev: bool = False, group_rows: int = GROUP_ROWS) -> None:
        """Opens ``path`` for writing.

        Args:
            path: where the part will stand; the folder must exist.
            with_prev: whether the part has the column ``prev``.
            group_rows: row groups are cut at multiples of this seq.

        Raises:
            OSError: the file cannot be made.
        """
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._schema = part_schema(with_prev=with_prev)
        self._with_prev = with_prev
        self._group_rows = group_rows
        self._rows: list[ArchiveRow] = []
        self.rows = 0
        self.first = -1
        self.last = -1
        self._writer: pq.ParquetWriter = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=["tenant", "type"],
            write_statistics=[name for name in self._schema.names if name != "record"],
            write_page_checksum=True,
        )

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: ArchiveRow) -> None:
        """Adds one row.

        Raises:
            MalformedRecord: ``seq`` does not rise.
        """
        if row.seq <= self.last:
            raise MalformedRecord("rows of a part must rise in seq")
        if self.first < 0:
            self.first = row.seq
        elif row.seq // self._group_rows != self.last // self._group_rows:
            self._flush()
        self.last = row.seq
        self.rows += 1
        self._rows.append(row)

    def close(self) -> None:
        """Writes what is left and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        typed = [_typed(row) for row in self._rows]
        columns: list[Any] = [
            [row.seq for row in self._rows],
            [parse_ts(one.ts) for one in typed],
            [one.tenant for one in typed],
            [one.type for one in typed],
            [row.hash for row in self._rows],
        ]
        if self._with_prev:
            columns.append([row.prev for row in self._rows])
        columns.append([row.record for row in self._rows])
        arrays = [
            pa.array(column, type=pa.int64()).cast(kind) if name == "ts" else _column(column, kind)
            for column, name, kind in zip(columns, self._schema.names, self._schema.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(self._rows))
        self._rows.clear()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_dictionary(kind):
        return pa.array(values, type=pa.string()).dictionary_encode()
    return pa.array(values, type=kind)


def _typed(row: ArchiveRow) -> _Typed:
    try:
        typed = _TYPED.decode(row.record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecord("a record cannot be read for the archive", cause=str(error)) from None
    if typed.seq != row.seq:
        raise MalformedRecord(f"record {typed.seq} came as row {row.seq}")
    return typed


def write_part(
    path: Path, rows: Iterable[ArchiveRow], *, with_prev: bool = False, group_rows: int = GROUP_ROWS
) -> PartEntry:
    """Writes one Parquet file and gives its entry for the index.

    Args:
        path: ``.../day=YYYY-MM-DD/part-NNN.parquet``; its folder must exist.
        rows: in order of ``seq``; at least one.
        with_prev: whether to write the column ``prev``.
        group_rows: row groups are cut at multiples of this seq.

    Raises:
        MalformedRecord: no rows, rows out of order, or a record without its columns.
        OSError: the file cannot be written.
    """
    with PartWriter(path, with_prev=with_prev, group_rows=group_rows) as writer:
        for row in rows:
            writer.append(row)
    if not writer.rows:
        raise MalformedRecord("a part must have rows")
    return _entry(path, writer)


def _write_parts(
    directory: Path, rows: Iterable[ArchiveRow], *, with_prev: bool, group_rows: int
) -> Iterator[PartEntry]:
    """Cuts ``rows`` where the day changes and where a part is full. A day may come twice if the clock stepped."""
    parts_of_day: dict[str, int] = {}
    day, path, writer = "", directory, None
    with ExitStack() as stack:
        for row in rows:
            row_day = _typed(row).ts[:10]
            if writer is not None and (row_day != day or row.seq // PART_ROWS_MAX != writer.last // PART_ROWS_MAX):
                stack.close()
                yield _entry(path, writer)
                writer = None
            if writer is None:
                day = row_day
                number = parts_of_day.get(day, 0)
                parts_of_day[day] = number + 1
                path = directory / f"day={day}" / f"part-{number:03d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = stack.enter_context(PartWriter(path, with_prev=with_prev, group_rows=group_rows))
            writer.append(row)
    if writer is not None:
        yield _entry(path, writer)


def _entry(path: Path, writer: PartWriter) -> PartEntry:
    return PartEntry(
        n=f"{path.parent.name}/{path.name}",
        sha256=file_digest(path),
        rows=writer.rows,
        first=writer.first,
        last=writer.last,
    )


def write_export(
    directory: Path,
    *,
    origin: str,
    kind: Kind,
    tenant: str | None,
    rows: Iterable[ArchiveRow],
    checkpoints: Sequence[bytes],
    proof: Iterable[bytes] = (),
    others: Mapping[str, bytes] | None = None,
    tool: str = "nomos",
    group_rows: int = GROUP_ROWS,
) -> ExportIndex:
    """Writes a whole export into ``directory``, which must be empty or absent.

    Args:
        directory: the folder to fill.
        origin: the log's identity.
        kind: ``log`` for all records from 0, ``tenant`` for one tenant's records with ``prev`` and ``proof``.
        tenant: whose records they are, for ``tenant``.
        rows: in order of ``seq``.
        checkpoints: signed notes, at most one for each size; the one of the largest size is the newest.
        proof: for ``tenant``: the hashes of :func:`nomos.log.proof.many_proof` for the newest checkpoint.
        others: more files of the export, by name; named in the index like the rest.
        tool: name and version of the program, for the reader.
        group_rows: row groups are cut at multiples of this seq.

    Raises:
        MalformedRecord: a note, record or combination of arguments that makes no export.
        OSError: a file cannot be written, or the folder is not empty.
    """
    notes = {parse_checkpoint(parse_note(note).text).size: note for note in checkpoints}
    if not notes or len(notes) != len(checkpoints) or (kind == "tenant") != (tenant is not None):
        raise MalformedRecord("an export needs one checkpoint for each size, and a tenant where it is a tenant's")
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"the export folder {directory.name} is not empty")
    files = tuple(_write_parts(directory, rows, with_prev=kind == "tenant", group_rows=group_rows))
    newest = max(notes)
    (directory / CHECKPOINTS_NAME).mkdir()
    written = [CHECKPOINT_NAME]
    (directory / CHECKPOINT_NAME).write_bytes(notes[newest])
    for size, note in sorted(notes.items()):
        (directory / checkpoint_name(size)).write_bytes(note)
        written.append(checkpoint_name(size))
    if kind == "tenant":
        with (directory / PROOF_NAME).open("wb") as target:
            target.writelines(format_many_proof(newest, proof))
        written.append(PROOF_NAME)
    for name, content in (others or {}).items():
        (directory / name).write_bytes(content)
        written.append(name)
    entries = tuple(FileEntry(n=name, sha256=file_digest(directory / name)) for name in written)
    index = ExportIndex(
        schema=EXPORT_SCHEMA, origin=origin, kind=kind, tenant=tenant, files=files, others=entries, tool=tool
    )
    (directory / INDEX_NAME).write_bytes(format_index(index))
    return index

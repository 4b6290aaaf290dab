"""The export's files: what other tools read in them, and what the command says about them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from nomos.errors import Malformed, MalformedRecord
from nomos.log.archive import ArchiveRow, write_export, write_part
from nomos.log.chain import genesis
from nomos.log.index import format_index, parse_index
from nomos.log.main import Demand, run_verify
from nomos.log.parts import Part

ROOT = Path(__file__).parents[3]
LINKS = """
SELECT count(*) FILTER (WHERE sha256(before || decode(record)) <> lower(hex(hash))) AS bad, count(*) AS n
FROM (SELECT record, hash, coalesce(lower(hex(lag(hash) OVER (ORDER BY seq))), ?) AS before FROM read_parquet(?))
"""
COLUMNS = """
SELECT count(*) FROM read_parquet(?)
WHERE CAST(json_extract(decode(record), '$.seq') AS BIGINT) <> seq
   OR json_extract_string(decode(record), '$.tenant') <> tenant
   OR json_extract_string(decode(record), '$.type') <> type
   OR json_extract_string(decode(record), '$.ts') <> strftime(ts AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')
"""


def test_sql_alone_confirms_links_and_columns(book: Any, tmp_path: Path) -> None:
    made = book(50)
    directory = made.export(tmp_path / "x", group_rows=16)
    parts = str(directory / "day=*" / "part-*.parquet")
    first = genesis(made.signer.verifier_key.name).hex()
    assert duckdb.execute(LINKS, [first, parts]).fetchone() == (0, 50)
    assert duckdb.execute(LINKS, ["0" * 64, parts]).fetchone() == (1, 50)
    assert duckdb.execute(COLUMNS, [parts]).fetchone() == (0,)


def test_row_groups_are_cut_at_global_multiples_and_records_have_no_statistics(book: Any, tmp_path: Path) -> None:
    made = book(20)
    path = tmp_path / "day=2026-11-22" / "part-000.parquet"
    path.parent.mkdir()
    entry = write_part(path, made.rows[5:], group_rows=8)
    assert (entry.n, entry.rows, entry.first, entry.last) == ("day=2026-11-22/part-000.parquet", 15, 5, 19)
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 8, 4]
    record = metadata.row_group(0).column(metadata.num_columns - 1)
    assert (record.path_in_schema, record.is_stats_set, record.compression) == ("record", False, "ZSTD")
    with Part(path, with_prev=False) as part:
        rows = part.read(1)
    assert bytes(rows.record(2)) == made.rows[10].record
    assert rows.hash(2) == made.rows[10].hash


@pytest.mark.parametrize("wrong", ["order", "seq", "empty", "record"])
def test_rows_that_make_no_part_are_refused(book: Any, tmp_path: Path, wrong: str) -> None:
    rows = book(3).rows
    bad = {
        "order": rows[::-1],
        "seq": [rows[0]._replace(seq=7)],
        "empty": [],
        "record": [ArchiveRow(0, bytes(32), b"not json")],
    }[wrong]
    with pytest.raises(MalformedRecord):
        write_part(tmp_path / "part-000.parquet", bad)


def test_an_export_is_not_written_over_another(book: Any, tmp_path: Path) -> None:
    made = book(3)
    made.export(tmp_path / "x")
    with pytest.raises(FileExistsError):
        made.export(tmp_path / "x")
    with pytest.raises(MalformedRecord):
        write_export(tmp_path / "y", origin="o", kind="log", tenant=None, rows=made.rows, checkpoints=[])


def test_the_index_is_read_as_it_was_written_and_not_otherwise(book: Any, tmp_path: Path) -> None:
    directory = book(3).export(tmp_path / "x")
    encoded = (directory / "log.json").read_bytes()
    assert format_index(parse_index(encoded)) == encoded
    part = json.loads(encoded)["files"][0]["n"].encode()
    for old, new in ((part, b"../part-000.parquet"), (b'"log"', b'"tenant"'), (b"nomos.export/1", b"x"), (b"\n", b"")):
        with pytest.raises(Malformed):
            parse_index(encoded.replace(old, new))


def test_a_part_name_cannot_leave_the_export(book: Any, tmp_path: Path, refresh: Any) -> None:
    import msgspec

    directory = book(3).export(tmp_path / "x")
    index = parse_index((directory / "log.json").read_bytes())
    for name in ("../x.parquet", "/etc/passwd", "day=2026-11-22/../../part-000.parquet"):
        moved = msgspec.structs.replace(index.files[0], n=name)
        with pytest.raises(MalformedRecord):
            parse_index(format_index(msgspec.structs.replace(index, files=(moved,))))


def run(directory: Path, trust: Path, level: int = 1, *, json_form: bool = False, **more: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = run_verify(Demand(path=directory, trust=trust, level=level, json=json_form, **more), out, err)
    return code, out.getvalue(), err.getvalue()


def test_the_command_says_what_it_found_and_exits_accordingly(book: Any, tmp_path: Path, refresh: Any) -> None:
    made = book(5, checkpoints=[2, 5])
    directory = made.export(tmp_path / "x")
    trust = tmp_path / "trust.txt"
    trust.write_bytes(made.trust)
    code, out, err = run(directory, trust)
    assert (code, err) == (0, "")
    assert out.startswith("VERIFIED at level 1\n")
    assert "not checked" in out
    code, out, _ = run(directory, trust, json_form=True)
    said = json.loads(out)
    assert code == 0
    assert (said["schema"], said["verdict"], said["to_size"], said["first"]) == ("nomos.verify/1", "verified", 5, None)
    assert [one["size"] for one in said["roots"]] == [2, 5]
    assert said["keys"] == [str(made.signer.verifier_key)]
    assert said["checked"]
    assert said["not_checked"]
    refresh(directory, origin="evil\u001b[2J.example")
    code, out, _ = run(directory, trust)
    assert code == 1
    assert "\x1b" not in out
    (directory / "checkpoint").unlink()
    assert run(directory, trust)[0] == 1


def test_wrong_arguments_are_usage_and_not_a_verdict(book: Any, tmp_path: Path) -> None:
    made = book(2)
    directory = made.export(tmp_path / "x")
    trust = tmp_path / "trust.txt"
    trust.write_bytes(made.trust)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"quorum q\n")
    for args in ((tmp_path / "none", trust), (directory, tmp_path / "none"), (directory, bad), (trust, trust)):
        code, out, err = run(*args)
        assert (code, out) == (2, "")
        assert err
    assert run(directory, trust, 3)[0] == 2


def test_a_bundle_needs_its_tenant_on_the_command(book: Any, tmp_path: Path) -> None:
    made = book(9)
    directory = made.export(tmp_path / "x", tenant="acme")
    trust = tmp_path / "trust.txt"
    trust.write_bytes(made.trust)
    assert run(directory, trust)[0] == 3
    code, out, _ = run(directory, trust, tenant="acme")
    assert code == 0
    assert "tenant       acme" in out


def test_the_verifier_does_not_load_parquet_before_it_reads_records() -> None:
    code = "import sys, nomos.log.verify, nomos.log.main; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def sql_of_the_guide(directory: Path, first: bytes) -> str:
    """The query of docs/auditing.md, with its two placeholders filled in as the guide says."""
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "auditing.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    query: str = blocks[0]
    for placeholder, value in (("<genesis in hex>", first.hex()), ("archive/", f"{directory}/")):
        assert query.count(placeholder) == 1
        query = query.replace(placeholder, value)
    return query


def test_the_query_of_the_auditors_guide_finds_no_bad_row_and_finds_a_falsified_one(book: Any, tmp_path: Path) -> None:
    made = book(50)
    query = sql_of_the_guide(made.export(tmp_path / "honest", group_rows=16), genesis(made.signer.verifier_key.name))
    assert duckdb.execute(query).fetchone() == (0, 50)
    row = made.rows[20]
    made.rows[20] = row._replace(record=row.record.replace(b'"deny"', b'"allow"'))
    assert made.rows[20].record != row.record
    query = sql_of_the_guide(made.export(tmp_path / "falsified", group_rows=16), genesis(made.signer.verifier_key.name))
    assert duckdb.execute(query).fetchone() == (1, 50)

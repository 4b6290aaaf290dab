"""Each line: what was done to an honest export, and the verdict and first record that must come out.

The attacker of these tests can write every file, index and digests too; he lacks the log's key unless the test says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomos.errors import MalformedRecord
from nomos.log.archive import ArchiveRow, PartWriter
from nomos.log.chain import genesis, link
from nomos.log.checkpoint import Checkpoint, WitnessSigner, add_signature, sign_checkpoint
from nomos.log.note import NoteSigner, parse_note
from nomos.log.record import canonical_bytes
from nomos.log.report import Report, Verdict, render_text

Refresh = Callable[..., None]


def part_of(directory: Path) -> Path:
    (found,) = sorted(directory.glob("day=*/part-*.parquet"))
    return found


def edit_table(path: Path, edit: Callable[[pa.Table], pa.Table], group_rows: int = 65_536) -> None:
    changed = edit(pq.read_table(path, partitioning=None))
    pq.write_table(changed, path, compression="zstd", row_group_size=group_rows, write_page_checksum=True)


def replace(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    field = table.schema.field(column)
    values = table.column(column).to_pylist()
    values[row] = value
    array = pa.array(values, type=pa.string()).dictionary_encode() if pa.types.is_dictionary(field.type) else None
    return table.set_column(table.schema.get_field_index(column), field, array or pa.array(values, type=field.type))


def rewrite(directory: Path, rows: list[ArchiveRow], group_rows: int = 65_536) -> None:
    path = part_of(directory)
    with PartWriter(path, group_rows=group_rows) as writer:
        for row in rows:
            writer.append(row)


def assert_found(report: Report, verdict: Verdict, seq: int | None, words: str) -> None:
    said = render_text(report)
    assert report.verdict is verdict, said
    assert report.verdict.exit_code != 0
    assert report.first is not None
    assert report.first.seq == seq, said
    assert words in report.first.reason, said


@pytest.fixture
def made(book: Any) -> Any:
    return book(20, checkpoints=[6, 13, 20])


@pytest.fixture
def export(made: Any, tmp_path: Path) -> Path:
    return made.export(tmp_path / "x", group_rows=8)


@pytest.mark.parametrize(
    ("column", "value"),
    [("seq", 999), ("tenant", "mallory"), ("type", "authz.other"), ("ts", 0)],
)
def test_a_changed_typed_column_is_found(made: Any, export: Path, refresh: Refresh, column: str, value: object) -> None:
    edit_table(part_of(export), lambda table: replace(table, column, 10, value), 8)
    refresh(export)
    report = made.verify(export)
    assert_found(report, Verdict.TAMPERED, 10, f"the column {column}")
    assert report.first is not None
    assert (report.first.file, report.first.row_group) == (part_of(export).relative_to(export).as_posix(), 1)


def test_a_changed_record_is_found(made: Any, export: Path, refresh: Refresh) -> None:
    record = made.rows[9].record.replace(b"allow", b"denyy")
    edit_table(part_of(export), lambda table: replace(table, "record", 9, record), 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 9, "chain hash")


def test_a_changed_hash_column_is_found(made: Any, export: Path, refresh: Refresh) -> None:
    edit_table(part_of(export), lambda table: replace(table, "hash", 8, bytes(32)), 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 8, "chain hash")


def test_the_first_record_of_a_later_row_group_is_tied_to_the_group_before(
    made: Any, export: Path, refresh: Refresh
) -> None:
    record = made.rows[16].record.replace(b"allow", b"denyy").replace(b"deny", b"DENY")
    forged = link(bytes(32), record)

    def edit(table: pa.Table) -> pa.Table:
        return replace(replace(table, "record", 16, record), "hash", 16, forged)

    edit_table(part_of(export), edit, 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 16, "chain hash")


def test_a_record_deleted_at_the_edge_of_a_row_group_is_missed(made: Any, export: Path, refresh: Refresh) -> None:
    rewrite(export, made.rows[:7] + made.rows[8:], 8)
    refresh(export)
    report = made.verify(export)
    assert_found(report, Verdict.INCOMPLETE, 7, "records 7 to 7 are missing")


def test_a_record_deleted_inside_a_row_group_is_found(made: Any, export: Path, refresh: Refresh) -> None:
    rewrite(export, made.rows[:4] + made.rows[5:], 8)
    refresh(export)
    report = made.verify(export)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert report.first.seq == 4


@pytest.mark.parametrize("number", [1, 8, 19])
def test_deleted_first_records_are_missed(made: Any, export: Path, refresh: Refresh, number: int) -> None:
    rewrite(export, made.rows[number:], 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.INCOMPLETE, 0, f"records 0 to {number - 1} are missing")


@pytest.mark.parametrize("number", [1, 4, 19])
def test_deleted_last_records_are_missed(made: Any, export: Path, refresh: Refresh, number: int) -> None:
    rewrite(export, made.rows[:-number], 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.INCOMPLETE, 20 - number, f"records {20 - number} to 19 are missing")


def test_a_cut_to_an_older_checkpoint_is_found_by_the_newest(made: Any, export: Path, refresh: Refresh) -> None:
    shutil.copy(export / "checkpoints" / "000000000013", export / "checkpoint")
    rewrite(export, made.rows[:13], 8)
    refresh(export)
    report = made.verify(export)
    assert_found(report, Verdict.TAMPERED, None, "a checkpoint of size 20 exists")


def test_a_whole_day_removed_is_missed(book: Any, tmp_path: Path, refresh: Refresh) -> None:
    made = book(12)
    for seq in range(12):
        made.objects[seq]["ts"] = f"2026-11-{20 + seq // 4}T00:00:00.000000Z"
    made.chain()
    made.notes = {12: made.note(12)}
    directory = made.export(tmp_path / "x")
    shutil.rmtree(directory / "day=2026-11-21")
    assert_found(made.verify(directory, 0), Verdict.INCOMPLETE, 4, "missing")
    refresh(directory)
    report = made.verify(directory)
    assert_found(report, Verdict.INCOMPLETE, 4, "records 4 to 7 are missing")


def test_all_records_of_a_tenant_removed_and_everything_rechained_is_found(
    made: Any, export: Path, refresh: Refresh
) -> None:
    kept = [one for one in made.objects if one["tenant"] != "globex"]
    made.objects = kept
    made.chain()
    rewrite(export, made.rows, 8)
    refresh(export)
    report = made.verify(export)
    assert report.verdict is not Verdict.VERIFIED
    assert report.first is not None
    assert report.first.seq == 0


def test_a_log_replaced_by_an_empty_one_is_no_success(book: Any, made: Any, tmp_path: Path) -> None:
    empty = book(0)
    directory = empty.export(tmp_path / "e")
    assert made.verify(directory).verdict is Verdict.UNVERIFIABLE


@pytest.mark.parametrize("change", ["swap", "duplicate", "insert"])
def test_swapped_duplicated_and_inserted_records_are_found(
    made: Any, export: Path, refresh: Refresh, change: str
) -> None:
    def edit(table: pa.Table) -> pa.Table:
        order = list(range(20))
        if change == "swap":
            order[3], order[4] = order[4], order[3]
        else:
            order.insert(4, 3 if change == "duplicate" else 15)
        return table.take(order)

    edit_table(part_of(export), edit, 8)
    refresh(export)
    report = made.verify(export)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert report.first.seq in (3, 4)


def test_a_rechained_suffix_of_the_same_length_is_pinned_between_two_roots(
    made: Any, export: Path, refresh: Refresh
) -> None:
    made.objects[15]["event"]["effect"] = "forged"
    made.chain(first=15)
    rewrite(export, made.rows, 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 13, "the root at size 20 is not the signed one")


def test_a_history_signed_with_a_stolen_key_lacks_the_quorum(made: Any, tmp_path: Path) -> None:
    made.objects[15]["event"]["effect"] = "forged"
    made.chain(first=15)
    made.notes[20] = made.note(20, witnesses=(0,))
    directory = made.export(tmp_path / "stolen")
    assert_found(made.verify(directory), Verdict.UNVERIFIABLE, None, "lacks the quorum")


def test_two_roots_for_one_size_are_both_shown(made: Any, export: Path, refresh: Refresh) -> None:
    other = made.note(20)
    made.objects[19]["event"]["effect"] = "forged"
    made.chain(first=19)
    (export / "checkpoint").write_bytes(made.note(20))
    assert other != made.note(20)
    refresh(export)
    report = made.verify(export)
    assert any("two signed roots for size 20" in one.reason for one in report.findings)
    assert report.verdict is Verdict.TAMPERED


def test_records_after_the_newest_checkpoint_are_not_vouched_for(
    book: Any, made: Any, export: Path, refresh: Refresh
) -> None:
    longer = book(22)
    assert longer.rows[:20] == made.rows
    rewrite(export, longer.rows, 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 20, "no checkpoint vouches")


def _newest(export: Path, note: bytes) -> None:
    (export / "checkpoint").write_bytes(note)
    (export / "checkpoints" / "000000000020").write_bytes(note)


def test_signatures_that_are_missing_unknown_or_wrong_are_told_apart(made: Any, export: Path, refresh: Refresh) -> None:
    text = parse_note(made.note(20)).text
    stranger = NoteSigner(made.signer.verifier_key.name, bytes(31) + b"\x01")
    right = made.note(20)
    flipped = made.signer.sign(text.replace("\n20\n", "\n21\n"))
    cases = [
        (text.encode(), Verdict.TAMPERED, "blank line"),
        (made.note(20, signer=stranger), Verdict.UNVERIFIABLE, "no key of the trust policy"),
        (add_signature(right, flipped), Verdict.TAMPERED, "does not verify"),
        (add_signature(right, stranger.sign("another text\n")), Verdict.VERIFIED, ""),
    ]
    for note, verdict, words in cases:
        _newest(export, note)
        refresh(export)
        report = made.verify(export)
        assert report.verdict is verdict, render_text(report)
        assert words in (report.first.reason if report.first else "")


def test_no_checkpoint_at_all_is_no_success(made: Any, export: Path, refresh: Refresh) -> None:
    (export / "checkpoint").unlink()
    shutil.rmtree(export / "checkpoints")
    refresh(export)
    for level in (0, 1, 2):
        assert made.verify(export, level).verdict is Verdict.INCOMPLETE


def test_a_witness_that_signs_twice_or_in_the_future_counts_once_or_not_at_all(
    made: Any, export: Path, refresh: Refresh
) -> None:
    once = made.note(20, witnesses=(0,))
    text = parse_note(once).text
    for second in (made.witnesses[0].cosign(text, 5), made.witnesses[1].cosign(text, 1_895_305_600)):
        _newest(export, add_signature(once, second))
        refresh(export)
        report = made.verify(export)
        assert_found(report, Verdict.UNVERIFIABLE, None, "lacks the quorum")


def test_a_cosignature_of_another_size_condemns_the_note(made: Any, export: Path, refresh: Refresh) -> None:
    stale = parse_note(made.note(13)).signatures[1]
    _newest(export, add_signature(made.note(20, witnesses=(1, 2)), stale))
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, None, "does not verify")


@pytest.mark.parametrize("effect", ["reorder", "double key", "space", "escape"])
def test_json_of_the_same_meaning_is_refused_at_level_2(made: Any, tmp_path: Path, effect: str) -> None:
    plain = made.rows[19].record
    spelled = {
        "reorder": json.dumps(dict(reversed(json.loads(plain).items())), separators=(",", ":")).encode(),
        "double key": plain.replace(b'"seq":19', b'"seq":19,"seq":19'),
        "space": plain.replace(b'"seq":19', b'"seq": 19'),
        "escape": plain.replace(b'"seq"', b'"\\u0073eq"'),
    }[effect]
    row = made.rows[19]
    made.rows[19] = row._replace(record=spelled, hash=link(row.prev, spelled))
    made.notes = {20: made.note(20)}
    directory = made.export(tmp_path / "meaning")
    assert made.verify(directory, 1).verdict is Verdict.VERIFIED
    report = made.verify(directory, 2)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert report.first.seq == 19


def test_records_of_another_origin_are_found(made: Any, export: Path, refresh: Refresh) -> None:
    head = genesis("other.example/log")
    rows = []
    for row in made.rows:
        own = link(head, row.record)
        rows.append(row._replace(hash=own, prev=head))
        head = own
    rewrite(export, rows, 8)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 0, "chain hash")


def test_an_index_that_names_another_log_is_found(made: Any, export: Path, refresh: Refresh) -> None:
    refresh(export, origin="other.example/log")
    assert_found(made.verify(export), Verdict.TAMPERED, None, "another log")


def test_reordered_row_groups_are_found(made: Any, export: Path, refresh: Refresh) -> None:
    edit_table(part_of(export), lambda table: table.take([*range(8, 16), *range(8), *range(16, 20)]), 8)
    refresh(export)
    report = made.verify(export)
    assert report.verdict is Verdict.INCOMPLETE
    assert report.first is not None
    assert (report.first.seq, report.first.row_group) == (0, 0)


def test_missing_extra_and_truncated_parts_are_found(made: Any, export: Path, refresh: Refresh) -> None:
    part = part_of(export)
    whole = part.read_bytes()
    extra = part.with_name("part-009.parquet")
    extra.write_bytes(whole)
    assert_found(made.verify(export), Verdict.TAMPERED, None, "not in log.json")
    extra.unlink()
    part.write_bytes(whole[:-9])
    assert made.verify(export).verdict is Verdict.TAMPERED
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 0, "not a Parquet file")
    part.unlink()
    assert_found(made.verify(export), Verdict.INCOMPLETE, 0, "missing")


def test_wrong_columns_and_nulls_are_refused(made: Any, export: Path, refresh: Refresh) -> None:
    part = part_of(export)
    whole = part.read_bytes()
    edit_table(part, lambda table: table.drop_columns(["type"]))
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 0, "columns")
    part.write_bytes(whole)

    def with_null(table: pa.Table) -> pa.Table:
        nullable = pa.schema([one.with_nullable(True) for one in table.schema])
        return replace(table.cast(nullable), "hash", 3, None)

    edit_table(part, with_null)
    refresh(export)
    assert_found(made.verify(export), Verdict.TAMPERED, 0, "nulls")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [("tseq", 77, "tseq"), ("tprev", "0" * 64, "tprev"), ("v", 2, "version"), ("pc", None, "no source")],
)
def test_a_record_that_breaks_its_tenants_chain_is_found_though_it_is_signed(
    made: Any, tmp_path: Path, member: str, value: object, words: str
) -> None:
    made.objects[12][member] = value
    made.chain(count=False)
    made.notes = {20: made.note(20)}
    assert_found(made.verify(made.export(tmp_path / "y", group_rows=8)), Verdict.TAMPERED, 12, words)


@pytest.mark.parametrize("group_rows", [4, 64])
def test_gaps_in_counters_and_sources_are_found_though_they_are_signed(
    book: Any, tmp_path: Path, group_rows: int
) -> None:
    for number, (member, key, value, verdict) in enumerate(
        [
            ("pc", "n", 9, Verdict.INCOMPLETE),
            ("pc", "n", 0, Verdict.TAMPERED),
            ("src", "q", 1, Verdict.TAMPERED),
        ]
    ):
        made = book(20)
        made.objects[12][member][key] = value
        made.chain(count=False)
        made.notes = {20: made.note(20)}
        report = made.verify(made.export(tmp_path / f"y{number}", group_rows=group_rows))
        assert report.verdict is verdict
        assert report.first is not None
        assert report.first.seq == 12


def test_a_producer_that_begins_above_zero_has_lost_events(book: Any, tmp_path: Path) -> None:
    made = book(4)
    made.objects[0]["pc"]["n"] = 5
    made.chain(count=False)
    made.notes = {4: made.note(4)}
    assert_found(made.verify(made.export(tmp_path / "y")), Verdict.INCOMPLETE, 0, "events 0 to 4")


def test_one_bit_in_every_byte_of_every_file_is_found(book: Any, tmp_path: Path) -> None:
    made = book(2, checkpoints=[1, 2])
    directory = made.export(tmp_path / "x")
    assert made.verify(directory).verdict is Verdict.VERIFIED
    for path in sorted(one for one in directory.rglob("*") if one.is_file()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << (at % 8)
            path.write_bytes(flipped)
            report = made.verify(directory, 0)
            assert report.verdict is not Verdict.VERIFIED, (path.name, at)
        path.write_bytes(whole)
    assert made.verify(directory).verdict is Verdict.VERIFIED


def test_a_flipped_byte_whose_digest_was_fixed_changes_no_record_or_is_found(
    book: Any, tmp_path: Path, refresh: Refresh
) -> None:
    made = book(3)
    directory = made.export(tmp_path / "x", group_rows=2)
    path = part_of(directory)
    whole = path.read_bytes()
    before = pq.read_table(path, partitioning=None)
    for at in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        refresh(directory)
        if made.verify(directory).verdict is Verdict.VERIFIED:
            # The byte has no meaning for readers: what they get is what was signed.
            assert pq.read_table(path, partitioning=None).equals(before), at


def _bundle(made: Any, tmp_path: Path) -> Path:
    return made.export(tmp_path / "bundle", group_rows=8, tenant="acme")


def test_a_bundle_passes_only_for_the_tenant_that_was_demanded(made: Any, tmp_path: Path, export: Path) -> None:
    bundle = _bundle(made, tmp_path)
    assert made.verify(bundle, tenant="acme").verdict is Verdict.VERIFIED
    for directory, tenant in ((bundle, None), (bundle, "globex"), (export, "acme")):
        assert_found(made.verify(directory, tenant=tenant), Verdict.UNVERIFIABLE, None, "demanded")


@pytest.mark.parametrize("drop", [0, 3])
def test_a_record_taken_out_of_a_bundle_is_found(made: Any, tmp_path: Path, refresh: Refresh, drop: int) -> None:
    bundle = _bundle(made, tmp_path)
    rows = [row for row, one in zip(made.rows, made.objects, strict=True) if one["tenant"] == "acme"]
    seq = rows[drop + 1].seq
    del rows[drop]
    with PartWriter(part_of(bundle), with_prev=True) as writer:
        for row in rows:
            writer.append(row)
    refresh(bundle)
    assert_found(made.verify(bundle, tenant="acme"), Verdict.TAMPERED, seq, "tseq or tprev")


def test_the_last_record_taken_out_of_a_bundle_breaks_the_proof(made: Any, tmp_path: Path, refresh: Refresh) -> None:
    bundle = _bundle(made, tmp_path)
    rows = [row for row, one in zip(made.rows, made.objects, strict=True) if one["tenant"] == "acme"]
    with PartWriter(part_of(bundle), with_prev=True) as writer:
        for row in rows[:-1]:
            writer.append(row)
    refresh(bundle)
    assert made.verify(bundle, tenant="acme").verdict is Verdict.TAMPERED


def test_a_forged_record_in_a_bundle_is_found(made: Any, tmp_path: Path, refresh: Refresh) -> None:
    bundle = _bundle(made, tmp_path)
    rows = [row for row, one in zip(made.rows, made.objects, strict=True) if one["tenant"] == "acme"]
    forged = dict(json.loads(rows[-1].record), event={"effect": "forged"})
    record = canonical_bytes(forged)
    assert rows[-1].prev is not None
    rows[-1] = ArchiveRow(rows[-1].seq, link(rows[-1].prev, record), record, rows[-1].prev)
    with PartWriter(part_of(bundle), with_prev=True) as writer:
        for row in rows:
            writer.append(row)
    refresh(bundle)
    assert_found(made.verify(bundle, tenant="acme"), Verdict.TAMPERED, None, "do not lead to the signed root")


def test_a_proof_that_is_cut_grown_or_gone_is_found(made: Any, tmp_path: Path, refresh: Refresh) -> None:
    bundle = _bundle(made, tmp_path)
    proof = bundle / "proof"
    whole = proof.read_bytes()
    lines = whole.splitlines(keepends=True)
    for changed in (b"".join(lines[:-1]), whole + lines[-1], whole[:-1], b"", whole.replace(b"\n20\n", b"\n13\n")):
        proof.write_bytes(changed)
        refresh(bundle)
        assert made.verify(bundle, tenant="acme").verdict is Verdict.TAMPERED
    proof.unlink()
    refresh(bundle)
    assert made.verify(bundle, tenant="acme").verdict is Verdict.INCOMPLETE


def test_a_bundle_without_records_is_no_success(made: Any, tmp_path: Path, refresh: Refresh) -> None:
    bundle = _bundle(made, tmp_path)
    shutil.rmtree(part_of(bundle).parent)
    refresh(bundle, files=())
    for level in (0, 1):
        assert made.verify(bundle, level, tenant="acme").verdict is Verdict.UNVERIFIABLE


def test_checkpoints_of_one_witness_key_under_two_names_are_no_quorum(made: Any, export: Path) -> None:
    again = WitnessSigner("witness.example.org/again", bytes(32))
    other = WitnessSigner("witness.example.org/other", bytes(32))
    trust = f"log {made.signer.verifier_key}\nwitness a {again.verifier_key}\nwitness b {other.verifier_key}\n"
    with pytest.raises(MalformedRecord, match="twice"):
        made.verify(export, trust=f"{trust}group q 2 a b\nquorum q\n".encode())


def test_a_checkpoint_for_an_empty_tree_with_another_root_is_refused(made: Any) -> None:
    with pytest.raises(MalformedRecord, match="empty tree"):
        sign_checkpoint(Checkpoint(origin=made.signer.verifier_key.name, size=0, root=bytes(32)), [made.signer])


def with_gap(book: Any, declared: tuple[int, int] | None, at: int = 11) -> Any:
    """Producer p0 jumps from its counter at record 10 to three more at record 12; record 11 is the log's own."""
    made = book(20)
    event = {"kind": "producer", "known": True, "producer": "p0", "svc": "policy"}
    for one in made.objects[12:]:
        if one["pc"] is not None and one["pc"]["id"] == "p0":
            one["pc"]["n"] += 3
    jumped = made.objects[12]["pc"]["n"]
    if declared is not None:
        first, last = jumped - 3 + declared[0], jumped - 1 + declared[1]
        made.objects[at]["type"] = "audit.gap"
        made.objects[at]["event"] = {**event, "first": first, "last": last}
    made.relink()
    made.notes = {20: made.note(20)}
    return made


@pytest.mark.parametrize("group_rows", [4, 64])
def test_a_gap_that_the_log_declares_is_told_and_in_strict_mode_refused(
    book: Any, tmp_path: Path, group_rows: int
) -> None:
    directory = with_gap(book, (0, 0)).export(tmp_path / "x", group_rows=group_rows)
    report = book(0).verify(directory, 2)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert report.declared_gaps == 1
    assert any("record 11" in one for one in report.warnings)
    assert any("gap" in one for one in report.not_checked)
    assert_found(book(0).verify(directory, strict=True), Verdict.INCOMPLETE, 11, "declares")


@pytest.mark.parametrize("group_rows", [4, 64])
@pytest.mark.parametrize("declared", [None, (1, 0), (0, -1), (5, 9)])
def test_a_gap_that_is_not_declared_or_larger_than_declared_is_an_omission(
    book: Any, tmp_path: Path, group_rows: int, declared: tuple[int, int] | None
) -> None:
    directory = with_gap(book, declared).export(tmp_path / "x", group_rows=group_rows)
    assert_found(book(0).verify(directory), Verdict.INCOMPLETE, 12, "are not in the log")


def test_a_gap_declared_only_afterwards_declares_nothing(book: Any, tmp_path: Path) -> None:
    directory = with_gap(book, (0, 0), at=14).export(tmp_path / "x")
    assert_found(book(0).verify(directory), Verdict.INCOMPLETE, 12, "are not in the log")

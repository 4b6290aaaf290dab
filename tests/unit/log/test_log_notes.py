"""Signed notes, keys, checkpoints, policies and receipts: strict syntax, and no bytes that break a parser."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import BadSignature, LimitExceeded, Malformed, MalformedRecord, NomosError
from nomos.log.checkpoint import (
    Checkpoint,
    WitnessSigner,
    add_signature,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from nomos.log.index import parse_index
from nomos.log.note import NoKnownKey, NoteSigner, format_note, parse_note, parse_vkey, sign_note
from nomos.log.proof import Receipt, format_receipt, parse_many_proof, parse_receipt, verify_receipt
from nomos.log.tree import inclusion_proof, leaf_hash
from nomos.log.trust import ENTRIES_MAX, parse_trust

ORIGIN = "audit.example.com/prod"
SIGNER = NoteSigner(ORIGIN, bytes(32))
ROOT = bytes(range(32))
CHECKPOINT = Checkpoint(origin=ORIGIN, size=5, root=ROOT)
NOTE = sign_checkpoint(CHECKPOINT, [SIGNER])


def witness(number: int, name: str | None = None) -> WitnessSigner:
    return WitnessSigner(name or f"witness.example.org/w{number}", number.to_bytes(32, "big"))


def test_a_note_is_read_as_it_was_written() -> None:
    note = parse_note(NOTE)
    assert format_note(note) == NOTE
    assert parse_checkpoint(note.text) == CHECKPOINT
    assert parse_note(sign_note("a\n\nb\n", [SIGNER])).text == "a\n\nb\n"


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_understood_or_malformed(encoded: bytes) -> None:
    for parse in (parse_note, parse_trust, parse_receipt, parse_index):
        try:
            parse(encoded)
        except Malformed:
            continue


@given(st.text())
def test_any_text_is_a_key_or_checkpoint_or_malformed(text: str) -> None:
    for parse in (parse_vkey, parse_checkpoint):
        try:
            parse(text)
        except Malformed:
            continue


@given(st.integers(0, len(NOTE) - 1), st.integers(0, 255))
def test_a_changed_byte_never_leaves_the_checkpoint_as_it_was_signed(at: int, value: int) -> None:
    changed = bytearray(NOTE)
    changed[at] = value
    if bytes(changed) == NOTE:
        return
    with pytest.raises(NomosError):
        open_checkpoint(bytes(changed), [SIGNER.verifier_key], {})


@given(st.binary(max_size=400))
def test_any_lines_are_a_many_proof_or_malformed(tail: bytes) -> None:
    for encoded in (tail, b"nomos.many-proof/1\n" + tail, b"nomos.many-proof/1\n7\n" + tail):
        try:
            _, hashes = parse_many_proof(iter(encoded.splitlines(keepends=True)))
            list(hashes)
        except Malformed:
            continue


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n5\n", b"\r\n5\r\n"),
        (b"\n5\n", b"\n5 \n"),
        (b"\n5\n", b"\n05\n"),
        (b"\n5\n", b"\n+5\n"),
        (b"\n5\n", b"\n\n5\n"),
        (b"\n5\n", b"\n5\t\n"),
        (b"\n5\n", b"\n\xff\n"),
        (b"\n5\n", b"\n9223372036854775808\n"),
        (b"\n5\n", "\n٥\n".encode()),
        (b"=\n\n", b"\n\n"),
        (b"=\n\n", b"=\n\n\n"),
        (b"\n\n", b"\n"),
        ("— ".encode(), b"- "),
        ("— ".encode(), "—  ".encode()),
        (ORIGIN.encode() + b" ", b"a+b "),
        (ORIGIN.encode() + b" ", "a\u2003b ".encode()),
    ],
)
def test_note_syntax_is_strict(old: bytes, new: bytes) -> None:
    changed = NOTE.replace(old, new, 1)
    assert changed != NOTE
    with pytest.raises(Malformed):
        open_checkpoint(changed, [SIGNER.verifier_key], {})


def test_base64_with_bits_under_its_padding_is_refused() -> None:
    root = b64encode(ROOT).decode()
    assert root.endswith("8=")
    with pytest.raises(MalformedRecord):
        parse_checkpoint(f"{ORIGIN}\n5\n{root[:-2]}9=\n")
    with pytest.raises(MalformedRecord):
        parse_note(NOTE[:-1])


def test_sixteen_lines_are_read_and_a_seventeenth_is_refused() -> None:
    text = CHECKPOINT.text()
    note = NOTE
    for number in range(15):
        note = add_signature(note, witness(number).cosign(text, 1))
    opened = open_checkpoint(note, [SIGNER.verifier_key], {"w": witness(14).verifier_key})
    assert len(opened.cosignatures) == 1
    with pytest.raises(LimitExceeded):
        add_signature(note, witness(99).cosign(text, 1))


def test_the_logs_line_is_found_wherever_it_stands() -> None:
    other = NoteSigner("other.example/log", bytes(32))
    same_name = NoteSigner(ORIGIN, b"\x01" * 32)
    note = sign_note(CHECKPOINT.text(), [other, same_name, SIGNER])
    assert open_checkpoint(note, [SIGNER.verifier_key], {}).keys == (SIGNER.verifier_key,)
    with pytest.raises(NoKnownKey):
        open_checkpoint(sign_note(CHECKPOINT.text(), [other, same_name]), [SIGNER.verifier_key], {})


def test_a_trusted_key_speaks_only_for_the_origin_that_is_its_name() -> None:
    other = NoteSigner("other.example/log", bytes(32))
    note = sign_note(CHECKPOINT.text(), [other])
    with pytest.raises(NoKnownKey):
        open_checkpoint(note, [SIGNER.verifier_key, other.verifier_key], {})
    with pytest.raises(MalformedRecord):
        sign_checkpoint(CHECKPOINT, [other])


def test_a_witness_cannot_sign_for_a_log_nor_a_log_for_a_witness() -> None:
    only_witness = format_note(parse_note(NOTE)).split("— ".encode())[0]
    note = parse_note(NOTE)
    cosigned = note.__class__(text=note.text, signatures=(witness(1).cosign(note.text, 1),))
    assert only_witness
    with pytest.raises(NoKnownKey):
        open_checkpoint(format_note(cosigned), [witness(1, ORIGIN).verifier_key], {})
    keyed = WitnessSigner(ORIGIN, bytes(32)).verifier_key
    assert open_checkpoint(NOTE, [SIGNER.verifier_key], {"log": keyed}).cosignatures == ()


def test_a_cosignature_with_a_wrong_length_or_time_is_refused() -> None:
    good = witness(1).cosign(CHECKPOINT.text(), 7)
    for bad in (good.signature[:-1], good.signature + b"x", b"\xff" * 8 + good.signature[8:], good.signature[8:]):
        changed = good.__class__(name=good.name, key_id=good.key_id, signature=bad)
        with pytest.raises(BadSignature):
            open_checkpoint(add_signature(NOTE, changed), [SIGNER.verifier_key], {"w": witness(1).verifier_key})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "a+00000000+AQ==",
        str(SIGNER.verifier_key).replace("audit", "Audit"),
        str(SIGNER.verifier_key).upper(),
        str(SIGNER.verifier_key) + "A",
        str(SIGNER.verifier_key).replace("/prod+", "/prod+ "),
    ],
)
def test_a_malformed_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(MalformedRecord):
        parse_vkey(text)


def test_key_names_and_seeds_are_checked() -> None:
    for name, seed in (("", bytes(32)), ("a b", bytes(32)), ("a+b", bytes(32)), ("a", bytes(31)), ("a\x00", bytes(32))):
        for signer in (NoteSigner, WitnessSigner):
            with pytest.raises(MalformedRecord):
                signer(name, seed)


LOG_LINE = f"log {SIGNER.verifier_key}"
W = {n: f"witness w{n} {witness(n + 1).verifier_key}" for n in range(5)}


def test_a_policy_with_nested_groups_counts_as_written() -> None:
    text = "\n".join(
        [
            "# comment",
            "",
            f"\t{LOG_LINE}  https://log.example ",
            W[0],
            W[1],
            W[2],
            W[3],
            "group a 2 w0 w1 w2",
            "group b any w3",
            "group both all a b",
            "quorum both",
        ]
    )
    policy = parse_trust(text.encode())
    keys = [witness(n + 1).verifier_key for n in range(5)]
    assert policy.origins() == {ORIGIN}
    assert policy.is_quorum([keys[0], keys[2], keys[3]])
    assert not policy.is_quorum([keys[0], keys[1], keys[2]])
    assert not policy.is_quorum([keys[0], keys[3], keys[4]])
    assert not policy.is_quorum([keys[0], keys[0], keys[3]])


def test_a_policy_may_demand_one_witness_or_none() -> None:
    assert parse_trust(f"{LOG_LINE}\nquorum none\n".encode()).is_quorum([])
    policy = parse_trust(f"{W[0]}\nquorum w0\n".encode())
    assert not policy.is_quorum([])
    assert policy.is_quorum([witness(1).verifier_key])


@pytest.mark.parametrize(
    "lines",
    [
        [LOG_LINE],
        [LOG_LINE, "quorum none", "quorum none"],
        [LOG_LINE, LOG_LINE, "quorum none"],
        [LOG_LINE, "quorum w0", W[0]],
        [LOG_LINE, f"log {witness(1).verifier_key}", "quorum none"],
        [f"witness w {SIGNER.verifier_key}", "quorum none"],
        [LOG_LINE, f"witness w {WitnessSigner('w', bytes(32)).verifier_key}", "quorum w"],
        [W[0], f"witness again {witness(1, 'other').verifier_key}", "quorum w0"],
        [W[0], f"witness w0 {witness(9).verifier_key}", "quorum w0"],
        [f"witness none {witness(9).verifier_key}", "quorum none"],
        [W[0], "group g 2 w0", "quorum g"],
        [W[0], "group g 0 w0", "quorum g"],
        [W[0], "group g 01 w0", "quorum g"],
        [W[0], "group g any", "quorum g"],
        [W[0], "group g any none", "quorum g"],
        [W[0], "group g any w0 w0", "quorum g"],
        [W[0], "group g any w0", "group h any w0", "quorum g"],
        [W[0], "group g any h", "group h any w0", "quorum g"],
        [W[0], "group w0 any w0", "quorum w0"],
        ["policy none"],
        ["quorum"],
        ["log"],
        ["witness x"],
        ["quorum none\x0b"],
        [f"{LOG_LINE} sizes:5-4", "quorum none"],
        [f"{LOG_LINE} sizes:x", "quorum none"],
        [f"{LOG_LINE} one two", "quorum none"],
    ],
)
def test_a_malformed_policy_is_refused(lines: list[str]) -> None:
    with pytest.raises(Malformed):
        parse_trust("\n".join([*lines, ""]).encode())


def test_a_policy_has_limits() -> None:
    with pytest.raises(LimitExceeded):
        parse_trust(b"#" * 70_000)
    keys = [f"witness w{n} {witness(n + 1).verifier_key}" for n in range(ENTRIES_MAX + 1)]
    with pytest.raises(LimitExceeded):
        parse_trust("\n".join([*keys, "quorum none"]).encode())


def receipt_for(made: Any, seq: int) -> Receipt:
    leaves = [leaf_hash(row.hash) for row in made.rows]
    prev = made.rows[seq].prev
    path = tuple(inclusion_proof(leaves, seq, len(leaves)))
    return Receipt(prev=prev, index=seq, path=path, checkpoint=made.notes[len(leaves)])


def test_a_receipt_proves_its_record_and_no_other(book: Any) -> None:
    made = book(9)
    trust = parse_trust(made.trust)
    for seq in range(9):
        receipt = receipt_for(made, seq)
        assert parse_receipt(format_receipt(receipt)) == receipt
        assert verify_receipt(receipt, made.rows[seq].record, trust).checkpoint.size == 9
        with pytest.raises(BadSignature):
            verify_receipt(receipt, made.rows[seq - 1].record, trust)


def test_a_receipt_needs_the_quorum_and_a_key_for_its_size(book: Any) -> None:
    made = book(5)
    lines = made.trust.decode()
    made.notes = {5: made.note(5, witnesses=(0,))}
    receipt = receipt_for(made, 3)
    with pytest.raises(BadSignature, match="quorum"):
        verify_receipt(receipt, made.rows[3].record, parse_trust(lines.encode()))
    log_line = f"log {made.signer.verifier_key}"
    narrow = lines.replace(log_line, f"{log_line} sizes:6-").replace("quorum q", "quorum w0")
    with pytest.raises(BadSignature, match="size"):
        verify_receipt(receipt, made.rows[3].record, parse_trust(narrow.encode()))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v2"),
        (b"extra ", b"Extra "),
        (b"index 3", b"index 03"),
        (b"index 3", b"index -3"),
        (b"index 3\n", b""),
        (b"\n\n", b"\n"),
        (b"index 3\n", b"index 3\nAAAA\n"),
    ],
)
def test_a_malformed_receipt_is_refused(book: Any, old: bytes, new: bytes) -> None:
    encoded = format_receipt(receipt_for(book(5), 3))
    assert old in encoded
    with pytest.raises(Malformed):
        parse_receipt(encoded.replace(old, new, 1))


def test_a_receipt_has_limits(book: Any) -> None:
    receipt = receipt_for(book(2), 1)
    long = Receipt(prev=receipt.prev, index=1, path=(bytes(32),) * 64, checkpoint=receipt.checkpoint)
    for encoded in (format_receipt(long), b"x" * 100_000):
        with pytest.raises(LimitExceeded):
            parse_receipt(encoded)

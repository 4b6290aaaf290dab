"""What a witness cosigns, and that it cosigns nothing else."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed
from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner
from nomos.log.tree import EMPTY_ROOT, consistency_proof
from nomos.witness.decide import (
    PROOF_LINES_MAX,
    REQUEST_BYTES_MAX,
    SIZE_TYPE,
    Accepted,
    Known,
    Refusal,
    decide,
    format_request,
    parse_request,
)

from .conftest import History


def known(log: History, size: int) -> Known:
    return Known(origin=log.origin, size=size, root=log.root(size), note=log.note(size).decode())


def status(answer: Accepted | Refusal) -> int:
    return 200 if isinstance(answer, Accepted) else answer.status


def ask(log: History, old: int, new: int, remembered: Known | None, logs: Any = None) -> Accepted | Refusal:
    return decide(parse_request(log.request(old, new)), remembered, log.logs if logs is None else logs)


def test_the_first_checkpoint_needs_no_proof_and_is_remembered() -> None:
    log = History()
    answer = ask(log, 0, 5, None)
    assert isinstance(answer, Accepted)
    assert answer.known == known(log, 5)
    assert answer.text == answer.known.note.split("\n\n")[0] + "\n"


@given(st.integers(0, 70), st.integers(0, 70))
def test_every_growth_is_accepted_and_no_shrinking(one: int, other: int) -> None:
    log = History()
    old, new = min(one, other), max(one, other)
    remembered = known(log, old)
    answer = ask(log, old, new, remembered)
    assert isinstance(answer, Accepted)
    assert (answer.known.size, answer.known.root) == (new, log.root(new))
    if old < new:
        back = decide(parse_request(format_request(new, [], log.note(old))), known(log, new), log.logs)
        assert back == Refusal(status=400, body="the old size is above the checkpoint's\n")
        # Saying a smaller old size does not help: the witness remembers.
        assert status(decide(parse_request(log.request(0, old)), known(log, new), log.logs)) == 409


@given(st.integers(1, 60), st.integers(1, 10), st.integers(0, 59))
def test_no_other_history_is_accepted(size: int, more: int, common: int) -> None:
    log, fork = History("a", common), History("b", common)
    answer = ask(fork, size, size + more, known(log, size))
    if size <= common:
        assert status(answer) == 200
    else:
        assert status(answer) == 422
    same = decide(parse_request(format_request(size, [], fork.note(size))), known(log, size), log.logs)
    assert status(same) == (200 if size <= common else 409)


@given(st.data())
def test_a_proof_that_is_changed_in_any_way_is_refused(data: st.DataObject) -> None:
    log = History()
    old = data.draw(st.integers(1, 68))
    new = data.draw(st.integers(old + 1, 69))
    proof = log.proof(old, new)
    kind = data.draw(st.sampled_from(["flip", "drop", "more", "swap", "none"]))
    if kind == "flip":
        at = data.draw(st.integers(0, len(proof) * 32 - 1))
        changed = bytearray(b"".join(proof))
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        proof = [bytes(changed[n : n + 32]) for n in range(0, len(changed), 32)]
    elif kind == "drop":
        proof.pop(data.draw(st.integers(0, len(proof) - 1)))
    elif kind == "more":
        proof.insert(data.draw(st.integers(0, len(proof))), bytes(32))
    elif kind == "swap":
        if len(set(proof)) < 2:
            return
        proof = proof[1:] + proof[:1]
    else:
        proof = []
    asked = parse_request(format_request(old, proof, log.note(new)))
    assert status(decide(asked, known(log, old), log.logs)) == 422


def test_the_old_size_must_be_the_one_that_is_remembered() -> None:
    log = History()
    for old in (0, 4, 6):
        answer = ask(log, old, 9, known(log, 5))
        assert answer == Refusal(status=409, body="5\n", kind=SIZE_TYPE)
    assert ask(log, 5, 9, None) == Refusal(status=409, body="0\n", kind=SIZE_TYPE)


def test_a_log_that_it_was_not_told_of_is_unknown() -> None:
    log, other = History(), History(origin="audit.example.com/other")
    assert status(ask(other, 0, 5, None, log.logs)) == 404


def test_what_no_trusted_key_signed_is_forbidden() -> None:
    log = History()
    thief = NoteSigner(log.origin, os.urandom(32))
    forged = parse_request(format_request(0, [], log.note(5, [thief])))
    assert status(decide(forged, None, log.logs)) == 403
    # One good line does not heal a wrong line of the same key.
    genuine = log.note(5).decode()
    wrong = genuine.splitlines()[-1].replace("— ", "— ")
    head, _, encoded = wrong.rpartition(" ")
    flipped = ("B" if encoded[20] != "B" else "C").join([encoded[:20], encoded[21:]])
    both = f"{genuine}{head} {flipped}\n".encode()
    assert status(decide(parse_request(format_request(0, [], both)), None, log.logs)) == 403
    # And a stranger's line beside the log's does no harm.
    assert status(decide(parse_request(format_request(0, [], log.note(5, [thief, log.signer]))), None, log.logs)) == 200


def test_an_empty_log_may_be_the_first() -> None:
    log = History()
    signed = sign_checkpoint(Checkpoint(origin=log.origin, size=0, root=EMPTY_ROOT), [log.signer])
    answer = decide(parse_request(format_request(0, [], signed)), None, log.logs)
    assert isinstance(answer, Accepted)
    assert answer.known.size == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"old 5", b"old 05"),
        lambda body: body.replace(b"old 5", b"old -5"),
        lambda body: body.replace(b"old 5", b"old  5"),
        lambda body: body.replace(b"old 5", b"old 9223372036854775808"),
        lambda body: body.replace(b"old 5", b"new 5"),
        lambda body: body.replace(b"old 5\n", b"old 5\r\n"),
        lambda body: body.replace(b"old 5\n", b"old 5\nAAAA\n"),
        lambda body: body.replace(b"old 5\n", b"old 5\n\xff\n"),
        lambda body: body.replace(b"\n\n", b"\n", 1),
        lambda body: body[:-1],
        lambda body: b"",
        lambda body: body.replace(b"old 5\n", b"old 5\n" + b"A" * 43 + b"=\n" + (b"A" * 43 + b"=\n") * PROOF_LINES_MAX),
        lambda body: body + b"x" * REQUEST_BYTES_MAX,
    ],
)
def test_a_request_of_another_form_is_no_request(change: Any) -> None:
    body = History().request(5, 9)
    parse_request(body)
    with pytest.raises(Malformed):
        parse_request(change(body))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_malformed(body: bytes) -> None:
    try:
        asked = parse_request(body)
    except Malformed:
        return
    assert asked.checkpoint.origin


@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=8))
def test_a_request_with_bytes_put_in_is_refused_or_says_the_same(at: int, put: bytes) -> None:
    log = History()
    body = log.request(5, 9)
    at = min(at, len(body))
    changed = body[:at] + put + body[at:]
    try:
        answer = decide(parse_request(changed), known(log, 5), log.logs)
    except Malformed:
        return
    assert isinstance(answer, Refusal) or (answer.known.size, answer.known.root) == (9, log.root(9))


def test_a_request_is_read_as_it_was_written() -> None:
    log = History()
    proof = consistency_proof([bytes([n]) * 32 for n in range(9)], 5, 9)
    asked = parse_request(format_request(5, proof, log.note(9)))
    assert (asked.old, list(asked.path), asked.note) == (5, proof, log.note(9))

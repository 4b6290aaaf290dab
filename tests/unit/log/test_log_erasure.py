"""A log in which people were named and erased: what the verifier says of it, and of what was done to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.log.conftest import Book

from nomos.ids import new_id
from nomos.log.erasure import format_disclosure
from nomos.log.main import Demand, run_verify
from nomos.log.report import Report, Verdict, render_text
from nomos.log.sealedfield import FieldPlace, commitment, seal_text, subject_of


class Person:
    def __init__(self) -> None:
        self.dek, self.key = new_id("dek"), os.urandom(32)
        self.subject = subject_of(self.dek)


class Keybook:
    """A log of twelve records, into which events about people can be put before it is chained and signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.book = Book(12, checkpoints=[12])
        self.ada, self.bob = Person(), Person()

    def put(self, seq: int, kind: str, event: dict[str, Any], service: str = "stepup") -> None:
        """Record ``seq`` becomes this event of ``acme``; its number in the log is a multiple of 3."""
        one = self.book.objects[seq]
        assert one["tenant"] == "acme"
        one["type"], one["event"] = kind, event
        one["pc"] = {"id": "p-" + service, "n": 0, "svc": service}

    def sealed(self, seq: int, person: Person, field: str = "name", text: str = "ada") -> dict[str, Any]:
        place = FieldPlace(tenant="acme", id=str(self.book.objects[seq]["id"]), field=field)
        return msgspec.to_builtins(seal_text(person.key, person.dek, place, text, os.urandom(24)))  # type: ignore[no-any-return]

    def named(self, seq: int, person: Person, service: str = "stepup", **change: Any) -> None:
        event = {"subject": person.subject, "kind": "approver", "name": self.sealed(seq, person), "at": 1}
        self.put(seq, "subject.named", event | change, service)

    def erased(self, seq: int, person: Person, **change: Any) -> None:
        event = {
            "subject": person.subject, "dek": person.dek, "kc": commitment(person.key), "kind": "approver",
            "basis": "asked", "at": 2,
        }  # fmt: skip
        self.put(seq, "subject.erased", event | change)

    def verify(self, *, keys: dict[str, bytes] | None = None, level: int = 2, tenant: str | None = None,
               strict: bool = False) -> Report:  # fmt: skip
        self.book.chain()
        self.book.notes = {12: self.book.note(12)}
        target = self.directory / str(len(list(self.directory.iterdir())))
        self.book.export(target, tenant=tenant)
        return self.book.verify(target, level, keys=keys, tenant=tenant, strict=strict)


@pytest.fixture
def book(tmp_path: Path) -> Keybook:
    made = Keybook(tmp_path)
    made.named(0, made.ada)
    made.named(3, made.bob)
    made.erased(6, made.ada)
    return made


def tampered(report: Report, seq: int, words: str) -> None:
    said = render_text(report)
    assert report.verdict is Verdict.TAMPERED, said
    assert report.first is not None
    assert report.first.seq == seq, said
    assert words in report.first.reason, said


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_records_that_name_their_operator_in_plain_text_verify_as_before(book: Keybook, tenant: str | None) -> None:
    event = {"tenant": "acme", "revision": 1, "sha256": "0" * 64, "actor": "olga", "why": "", "at": 1, "text": ""}
    book.put(9, "policy.put", event, "policy")
    for one in book.book.objects:
        one["actor"] = {"kind": "operator", "id": "olga"}
    report = book.verify(tenant=tenant)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert f"1 fields of {book.ada.dek} erased by record 6" in report.checked


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_an_erased_log_verifies_and_says_by_which_record(book: Keybook, tenant: str | None) -> None:
    report = book.verify(tenant=tenant)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert f"1 fields of {book.ada.dek} erased by record 6" in report.checked
    assert any("2 sealed fields under 2 keys" in one for one in report.checked)
    assert any("what the fields under 1 keys say" in one for one in report.not_checked)


def test_fields_open_with_the_keys_given_and_a_lost_key_is_an_error_in_strict_mode(book: Keybook) -> None:
    held = {book.bob.dek: book.bob.key}
    report = book.verify(keys=held, strict=True)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert "1 sealed fields opened with the keys given" in report.checked
    lost = book.verify(keys={}, strict=True)
    assert lost.verdict is Verdict.INCOMPLETE
    assert lost.first is not None
    assert book.bob.dek in lost.first.reason
    assert book.verify(keys={}).verdict is Verdict.VERIFIED


def test_a_key_that_is_not_the_committed_one_is_found(book: Keybook) -> None:
    report = book.verify(keys={book.bob.dek: os.urandom(32)})
    assert report.verdict is Verdict.UNVERIFIABLE
    assert report.first is not None
    assert "not the one that the records commit to" in report.first.reason


def test_a_ciphertext_moved_from_another_record_is_found(book: Keybook) -> None:
    moved = book.book.objects[3]["event"]["name"]
    book.named(9, book.bob, name=moved)
    assert book.verify().verdict is Verdict.VERIFIED
    tampered(book.verify(keys={book.bob.dek: book.bob.key}), 9, "moved from its place")


def test_a_field_sealed_after_its_keys_erasure_is_found(book: Keybook) -> None:
    book.named(9, book.ada)
    tampered(book.verify(), 9, "which record 6 erased")


def test_a_key_is_erased_once(book: Keybook) -> None:
    book.erased(9, book.ada)
    tampered(book.verify(), 9, "was erased by record 6 already")


def test_an_erasure_that_commits_to_another_key_is_found(book: Keybook) -> None:
    book.erased(6, book.ada, kc="0" * 64)
    tampered(book.verify(), 6, "another commitment")


def test_a_key_with_two_commitments_is_found(book: Keybook) -> None:
    book.bob.key = os.urandom(32)
    book.named(9, book.bob)
    tampered(book.verify(), 9, "another commitment")


def test_a_key_of_one_service_in_anothers_event_is_found(book: Keybook) -> None:
    book.named(9, book.bob, service="identity")
    tampered(book.verify(), 9, "service than before")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": {"alg": "xc20p"}}, "sealed field"),
        ({"subject": "sub-" + "0" * 32}, "another person"),
    ],
)
def test_a_malformed_sealed_field_is_found_at_level_2(book: Keybook, change: dict[str, Any], words: str) -> None:
    book.named(9, book.bob, **change)
    tampered(book.verify(), 9, words)
    assert book.verify(level=1).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("change", [{"dek": "dek_" + "0" * 32}, {"at": "x"}, {"kc": 1}, {"subject": "ada"}])
def test_a_malformed_erasure_is_found(book: Keybook, change: dict[str, Any]) -> None:
    book.erased(6, book.ada, **change)
    tampered(book.verify(), 6, "")


def test_what_an_agent_plants_in_its_arguments_is_no_sealed_field(book: Keybook) -> None:
    book.put(9, "test.decision", {"name": {"alg": "xc20p", "dek": 7}, "args": {"dek": book.ada.dek}}, "policy")
    assert book.verify().verdict is Verdict.VERIFIED


def test_a_name_in_plain_text_is_told(book: Keybook) -> None:
    added = {"approver": "ada", "name": "Ada", "tenant": "acme", "user_handle": "AA", "at": 1}
    book.put(9, "approver.added", added)
    report = book.verify()
    assert report.verdict is Verdict.VERIFIED
    assert "1 personal fields stand in plain text" in report.warnings


def test_the_command_reads_keys_from_a_file(book: Keybook, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    book.verify()
    trust = book.directory / "trust.txt"
    trust.write_bytes(book.book.trust)
    keys = book.directory / "keys.json"
    keys.write_bytes(format_disclosure({book.bob.dek: book.bob.key}))
    demand = Demand(path=book.directory / "0", trust=trust, level=2, json=True, strict=True, keys=keys)

    def run() -> int:
        return run_verify(demand, sys.stdout, sys.stderr)

    assert run() == 0
    assert "1 sealed fields opened" in capsys.readouterr().out
    keys.write_text("{}")
    assert run() == 2

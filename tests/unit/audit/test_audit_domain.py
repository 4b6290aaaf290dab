"""Serialisation is a pure function of the journal, and the chain alone gives the head back."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomos.errors import Malformed, MalformedRecord, NotPermitted, RolledBack
from nomos.log.chain import link
from nomos.log.record import parse_record
from nomos_audit import domain, head
from nomos_audit.batch import Delivery, account_of, parse_batch, parse_envelope
from nomos_audit.block import Block, encode_block, parse_block
from nomos_audit.domain import GAP, POISON, Proposal, begin_snapshot, serialise
from nomos_audit.head import Head, empty_head
from nomos_audit.replay import Position, evolve, head_before, position_of, start_of, verify_block


def records(proposal: Proposal) -> list[Any]:
    return [parse_record(one) for one in proposal.block.records]


def kinds(proposal: Proposal) -> list[str]:
    return [one.type for one in records(proposal)]


def replayed(before: Head, proposal: Proposal) -> Head:
    payload = encode_block(proposal.block)
    return evolve(before, verify_block(position_of(before), before.block + 1, payload))


Step = tuple[str, str, int, int, str]
steps = st.lists(
    st.tuples(
        st.sampled_from(["AP", "AM", "AX"]),
        st.sampled_from(["p1", "p2", "p3"]),
        st.integers(0, 6),
        st.integers(0, 4),
        st.sampled_from(["acme", "globex", "_sys", "Not A Slug"]),
    ),
    max_size=25,
)


@given(steps=steps, cuts=st.lists(st.integers(1, 5), max_size=25), bytes_max=st.sampled_from([1, 900, 500_000]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_replay_of_the_chain_gives_the_head_that_the_writer_held(
    new_journal: Callable[[], Any], steps: list[Step], cuts: list[int], bytes_max: int
) -> None:
    journal = new_journal()
    for account, producer, first, count, tenant in steps:
        journal.put(producer, first, count, account=account, tenant=tenant)
    live = again = empty_head(journal.origin)
    waiting = list(journal.deliveries)
    sizes = iter(cuts)
    while waiting:
        proposal = serialise(live, waiting[: next(sizes, 3)], journal.facts, bytes_max=bytes_max)
        again = replayed(again, proposal)
        del waiting[: proposal.taken]
        live = proposal.head
        assert again == live
        assert list(again.producers) == list(live.producers)
    assert live.intake == len(journal.deliveries)


@given(steps=steps, bytes_max=st.sampled_from([1, 700, 500_000]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_how_the_journal_is_cut_into_blocks_does_not_change_the_records(
    new_journal: Callable[[], Any], steps: list[Step], bytes_max: int
) -> None:
    journal = new_journal()
    for account, producer, first, count, tenant in steps:
        journal.put(producer, first, count, account=account, tenant=tenant)

    def chain(limit: int) -> list[bytes]:
        found: list[bytes] = []
        at, waiting = empty_head(journal.origin), list(journal.deliveries)
        while waiting:
            proposal = serialise(at, waiting, journal.facts, bytes_max=limit)
            found += proposal.block.records
            at = proposal.head
            del waiting[: proposal.taken]
        return found

    assert chain(bytes_max) == chain(10_000_000)


@given(repeats=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 12)), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_producer_sends_again_is_chained_once(
    new_journal: Callable[[], Any], repeats: list[tuple[int, int]]
) -> None:
    journal = new_journal()
    journal.put("p1", 0, 12)
    for first, count in repeats:
        journal.put("p1", first, min(count, 12 - first))
    proposal = journal.serialise()
    assert [one.pc.n for one in records(proposal)] == list(range(12))
    assert proposal.repeated == sum(min(count, 12 - first) for first, count in repeats)


def test_a_record_has_every_member_of_the_contract(journal: Any) -> None:
    journal.put("p1", 0, 2)
    first, second = records(journal.serialise())
    assert (first.seq, first.tseq, first.tprev) == (0, 0, "0" * 64)
    assert second.tprev == link(empty_head(journal.origin).hash, journal.serialise().block.records[0]).hex()
    assert msgspec.to_builtins(second.pc) == {"id": "p1", "n": 1, "svc": "policy"}
    assert msgspec.to_builtins(second.src) == {"i": 1, "q": 1, "s": "INTAKE"}
    assert second.ts == "2026-11-22T00:00:00.000000Z"
    assert (second.type, second.tenant, second.corr, second.cause) == ("test.decision", "acme", "rq_1", "")


def test_two_writers_make_the_same_records_of_the_same_journal(journal: Any) -> None:
    journal.put("p1", 3)
    journal.put_bytes(b"rubbish")
    other = domain.Facts(now=journal.facts.now, writer="w2", services=journal.facts.services)
    again = serialise(empty_head(journal.origin), journal.deliveries, other)
    assert again.block.records == journal.serialise().block.records


def test_a_gap_in_a_producers_counters_is_recorded(journal: Any) -> None:
    journal.put("p1", 0, 2)
    journal.put("p1", 5, 1)
    found = records(journal.serialise())
    assert [one.type for one in found] == ["test.decision"] * 2 + [GAP, "test.decision"]
    assert found[2].event == {
        "kind": "producer",
        "producer": "p1",
        "svc": "policy",
        "known": True,
        "first": 2,
        "last": 4,
    }
    assert found[2].pc is None
    assert found[2].tenant == "_sys"
    assert found[3].pc.n == 5


def test_a_hole_in_the_journal_is_recorded(journal: Any) -> None:
    journal.put("p1", 0)
    journal.put("p1", 1)
    journal.put("p1", 2)
    del journal.deliveries[1]
    found = records(journal.serialise())
    assert [one.type for one in found] == ["test.decision", GAP, GAP, "test.decision"]
    assert found[1].event == {"kind": "journal", "stream": "INTAKE", "first": 2, "last": 2}
    assert found[2].event["kind"] == "producer"


def test_a_message_that_is_no_batch_is_recorded_and_does_not_block(journal: Any) -> None:
    journal.put_bytes(b"\xc1 not msgpack")
    journal.put("p1", 0)
    proposal = journal.serialise()
    poison, event = records(proposal)
    assert poison.type == POISON
    assert poison.event["sha256"] == sha256(b"\xc1 not msgpack").hexdigest()
    assert (poison.event["size"], poison.event["svc"], poison.event["position"]) == (13, "policy", 1)
    assert poison.event["reason"] == "malformed_record"
    assert event.type == "test.decision"
    assert proposal.poisoned == 1


def test_an_event_that_is_no_record_is_recorded_in_its_place(journal: Any) -> None:
    bad = journal.envelope(1, event={"ratio": 0.5})
    journal.put_events("p1", 0, [journal.envelope(0), bad, journal.envelope(2)])
    found = records(journal.serialise())
    assert [one.type for one in found] == ["test.decision", POISON, "test.decision"]
    assert (found[1].tenant, found[1].pc.n, found[1].src.i) == ("_sys", 1, 1)
    assert found[1].event["reason"] == "malformed_record"
    assert [one.tseq for one in found] == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"event": {"n": 2**53}}, "malformed_record"),
        ({"event": {"blob": b"x"}}, "malformed_record"),
        ({"event": {"bad key": 1}}, "malformed_record"),
        ({"event": {"text": "x" * 61_440}}, "limit_exceeded"),
        ({"tenant": "Acme"}, "malformed_record"),
        ({"tenant": "a" * 41}, "malformed_record"),
        ({"tenant": "acme\n"}, "malformed_record"),
        ({"type": "nul\0"}, "malformed_record"),
        ({"id": ""}, "malformed_record"),
        ({"type": "audit.seal"}, "not_permitted"),
    ],
)
def test_what_cannot_be_a_record_is_poison_and_says_why(journal: Any, changes: dict[str, Any], reason: str) -> None:
    journal.put_events("p1", 0, [journal.envelope(0, **changes)])
    [found] = records(journal.serialise())
    assert (found.type, found.event["reason"], found.event["svc"]) == (POISON, reason, "policy")


def test_only_the_logs_own_service_may_write_types_of_the_log(journal: Any) -> None:
    journal.put_events("p1", 0, [journal.envelope(0, type="audit.exported")], account="AA")
    assert kinds(journal.serialise()) == ["audit.exported"]


def test_an_account_that_is_no_service_is_recorded_as_poison(journal: Any) -> None:
    journal.put("p1", 0, account="AX")
    [found] = records(journal.serialise())
    assert (found.event["reason"], found.event["svc"], found.event["account"]) == ("unknown_emitter", "unknown", "AX")


def test_a_service_cannot_spend_the_counters_of_anothers_producer(journal: Any) -> None:
    journal.put("p1", 0, 50, account="AM")
    journal.put("p1", 0, 2, account="AP")
    assert kinds(journal.serialise()) == ["test.decision"] * 52


def test_a_message_larger_than_a_block_goes_on_in_the_next(journal: Any) -> None:
    journal.put("p1", 0, 30)
    journal.put("p1", 30, 1)
    at = empty_head(journal.origin)
    found: list[Any] = []
    positions = []
    waiting = list(journal.deliveries)
    while waiting:
        proposal = serialise(at, waiting, journal.facts, bytes_max=2_000)
        found += records(proposal)
        positions.append(proposal.head.intake)
        del waiting[: proposal.taken]
        at = proposal.head
    assert [one.pc.n for one in found] == list(range(31))
    assert positions[:3] == [0, 0, 0]
    assert positions[-1] == 2


def test_a_journal_message_of_repeats_only_moves_the_position(journal: Any) -> None:
    journal.put("p1", 0, 3)
    journal.put("p1", 0, 3)
    first = serialise(empty_head(journal.origin), journal.deliveries[:1], journal.facts)
    second = serialise(first.head, journal.deliveries[1:], journal.facts)
    assert (second.block.records, second.head.intake, second.head.size) == ([], 2, 3)
    assert replayed(first.head, second) == second.head


def test_the_oldest_producer_is_forgotten_first(journal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "PRODUCERS_MAX", 2)
    for name in ("p1", "p2", "p1", "p3"):
        journal.put(name, 0 if name != "p1" else sum(1 for d in journal.deliveries if b"p1" in d.payload))
    proposal = journal.serialise()
    assert list(proposal.head.producers) == ["policy/p1", "policy/p3"]
    assert replayed(empty_head(journal.origin), proposal) == proposal.head


@given(names=st.lists(st.integers(0, 9), min_size=4, max_size=40), entries=st.integers(1, 4), start=st.integers(1, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_replay_from_a_snapshot_gives_the_same_head(
    new_journal: Callable[[], Any], names: list[int], entries: int, start: int
) -> None:
    journal = new_journal()
    spent: dict[int, int] = {}
    for name in names:
        journal.put(f"p{name}", spent.get(name, 0), tenant=f"t{name % 5}")
        spent[name] = spent.get(name, 0) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain, "SNAPSHOT_ENTRIES_MAX", entries)
        live, snapshot, blocks = empty_head(journal.origin), None, []
        for number, delivery in enumerate(journal.deliveries, 1):
            if number == start:
                snapshot = begin_snapshot(live)
            proposal = serialise(live, [delivery], journal.facts, snapshot=snapshot)
            live, snapshot = proposal.head, proposal.snapshot
            blocks.append(encode_block(proposal.block))
    if live.heads_at > 1:
        again = head_before(journal.origin, live.heads_at - 1, blocks[live.heads_at - 2])
        for payload in blocks[live.heads_at - 1 :]:
            again = evolve(again, verify_block(position_of(again), again.block + 1, payload), complete=False)
        assert again == live
        assert list(again.producers) == list(live.producers)


# -- what a reader refuses ---------------------------------------------------------------------------------------------


def altered(proposal: Proposal, **changes: Any) -> bytes:
    return encode_block(msgspec.structs.replace(proposal.block, **changes))


def test_a_block_that_does_not_follow_is_refused(journal: Any) -> None:
    journal.put("p1", 0, 3)
    proposal = journal.serialise()
    good = proposal.block
    start = start_of(journal.origin)
    for changes in (
        {"records": [*good.records[:1], good.records[1].replace(b"allow", b"deny!"), good.records[2]]},
        {"records": good.records[:2]},
        {"records": [good.records[1], good.records[0], good.records[2]]},
        {"prev": b"\1" * 32},
        {"head": b"\1" * 32},
        {"first": 1},
    ):
        with pytest.raises(RolledBack):
            verify_block(start, 1, altered(proposal, **changes))
    with pytest.raises(RolledBack, match="expected, got 2"):
        verify_block(start, 2, altered(proposal))
    with pytest.raises(RolledBack):
        verify_block(Position(block=0, size=0, hash=empty_head("another.log").hash), 1, altered(proposal))


@pytest.mark.parametrize(
    "changes",
    [
        {"range": [b"\2" * 32]},
        {"heads": {"acme": (9, "0" * 64)}},
        {"producers": {"policy/p1": (9, 9)}},
    ],
)
def test_a_block_that_lies_about_the_head_is_refused(journal: Any, changes: dict[str, Any]) -> None:
    journal.put("p1", 0, 2)
    start = empty_head(journal.origin)
    verified = verify_block(position_of(start), 1, altered(journal.serialise(), **changes))
    with pytest.raises(RolledBack):
        evolve(start, verified)


def test_a_record_with_another_tenants_counter_is_refused(journal: Any) -> None:
    journal.put("p1", 0)
    first = journal.serialise()
    stolen = msgspec.structs.replace(first.block, first=1, prev=first.head.hash)
    again = link(first.head.hash, first.block.records[0])
    payload = encode_block(msgspec.structs.replace(stolen, head=again))
    verified = verify_block(position_of(first.head), 2, payload)
    with pytest.raises(RolledBack, match="counters"):
        evolve(first.head, verified)


# -- parsers -----------------------------------------------------------------------------------------------------------

msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(encoded=st.binary(max_size=200) | msgpack_values.map(msgspec.msgpack.encode))
def test_parsers_raise_malformed_for_any_bytes(encoded: bytes) -> None:
    for parse in (parse_batch, parse_block, lambda one: parse_envelope(one, "policy")):
        with pytest.raises(Malformed):
            parse(encoded)


@given(event=msgpack_values, junk=st.binary(max_size=40), account=st.sampled_from(["AP", "", "AX", "é" * 100]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_journal_message_stops_the_log(
    new_journal: Callable[[], Any], event: object, junk: bytes, account: str
) -> None:
    journal = new_journal()
    whole = msgspec.to_builtins(journal.envelope(0))
    journal.put_events("p1", 0, [msgspec.msgpack.encode(whole | {"event": {"any": event}})], account=account)
    journal.put_bytes(junk, account=account)
    journal.put_bytes(msgspec.msgpack.encode({"v": 1, "p": "p9", "n": 0, "e": [event]}), account=account)
    journal.put("p2", 0)
    proposal = journal.serialise()
    assert proposal.taken == 4
    assert records(proposal)[-1].pc.id == "p2"
    assert replayed(empty_head(journal.origin), proposal) == proposal.head


def test_nesting_that_exhausts_the_stack_is_poison(journal: Any) -> None:
    for deep in (b"\x91" * 200_000 + b"\xc0", b"\x81\xa1e" * 100_000 + b"\xc0"):
        journal.put_bytes(deep)
        journal.put_bytes(b"\x84\xa1v\x01\xa1p\xa2p1\xa1n\x00\xa1e\x91" + deep)
    assert set(kinds(journal.serialise())) == {POISON}


def test_an_unknown_member_of_an_envelope_is_not_lost_silently(journal: Any) -> None:
    whole = msgspec.to_builtins(journal.envelope(0)) | {"extra": 1}
    journal.put_events("p1", 0, [msgspec.msgpack.encode(whole)])
    assert kinds(journal.serialise()) == [POISON]


def test_the_emitter_is_read_from_the_subject_only() -> None:
    assert account_of("intake.ABC.batch") == "ABC"
    assert account_of("intake.A.B.batch") == ""
    assert account_of("other.ABC.batch") == ""


def test_a_block_over_its_limit_is_not_written(journal: Any) -> None:
    journal.put("p1", 0)
    block: Block = msgspec.structs.replace(journal.serialise().block, writer="x" * 900_000)
    with pytest.raises(Malformed):
        encode_block(block)


def test_a_batch_that_counts_beyond_the_profile_is_malformed() -> None:
    whole = {"v": 1, "p": "p1", "n": 2**53 - 1, "e": [b""]}
    with pytest.raises(MalformedRecord):
        parse_batch(msgspec.msgpack.encode(whole))
    with pytest.raises(NotPermitted):
        parse_envelope(
            msgspec.msgpack.encode(
                {
                    "id": "ev_1",
                    "type": "audit.gap",
                    "tenant": "acme",
                    "actor": {"kind": "agent", "id": "a"},
                    "corr": "",
                    "cause": "",
                    "event": {},
                }
            ),
            "policy",
        )


def test_a_message_before_the_position_is_consumed_already(journal: Any) -> None:
    journal.put("p1", 0)
    first = journal.serialise()
    again = serialise(first.head, [*journal.deliveries, Delivery(2, "AP", journal.payload("p1", 1, []))], journal.facts)
    assert (again.taken, again.block.records, again.head.intake) == (2, [], 2)

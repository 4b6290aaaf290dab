"""Messages and events on the wire: any bytes are a message or Malformed; what is written is what is read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos import messages, servicemessages
from nomos.client import RemoteLimit, error_of
from nomos.errors import Expired, LimitExceeded, Malformed, NomosError, Refused, Replayed, Unavailable
from nomos.events import Actor, Batch, Envelope, encode_batch, encode_envelope
from nomos.ids import new_id
from nomos.log.record import RECORD_BYTES_MAX, canonical_bytes
from nomos.messages import (
    DEADLINE_AHEAD_MS_MAX,
    MESSAGE_BYTES_MAX,
    Authorize,
    Decoder,
    Failure,
    check_command,
    encode,
    failure,
)
from nomos_runtime.journal import encode_event

STRUCTS = [
    kind
    for module in (messages, servicemessages)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
]
#: What is asked, and what is answered: all of it, whatever comes to be written there.
ASKED = [kind for kind in STRUCTS if "v" in kind.__struct_fields__]
ANSWERED = [kind for kind in STRUCTS if kind.__struct_config__.tag is not None]
DECODERS = [Decoder.of(kind, "test") for kind in [Authorize, *ASKED, *ANSWERED, messages.AuthorizeReply]]

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
names = st.sampled_from(["v", "id", "deadline_ms", "action", "resource", "args", "type", "items", "invocation", "code"])


def decoded(decoder: Decoder, payload: bytes) -> None:
    try:
        decoder.decode(payload)
    except Malformed as e:
        assert len(e.detail) < 200


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed(payload: bytes) -> None:
    for decoder in DECODERS:
        decoded(decoder, payload)


@given(st.dictionaries(names, values) | values)
def test_any_value_is_a_message_or_malformed(value: object) -> None:
    payload = msgspec.msgpack.encode(value)
    for decoder in DECODERS:
        decoded(decoder, payload)


@given(st.data())
def test_a_message_that_was_altered_anywhere_is_a_message_or_malformed(data: st.DataObject) -> None:
    payload = bytearray(
        encode(Authorize(v=1, id=new_id("rq"), deadline_ms=1, action="a", resource="r", args={"x": [1]}))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decoded(DECODERS[0], bytes(payload))


@pytest.mark.parametrize("one", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"])
def test_nesting_without_end_is_malformed(one: bytes) -> None:
    for decoder in DECODERS:
        with pytest.raises(Malformed):
            decoder.decode(one * 200_000)


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitExceeded) as refused:
        DECODERS[0].decode(b"\xc1" * (MESSAGE_BYTES_MAX + 1))
    assert refused.value.limit == "MESSAGE_BYTES_MAX"


@pytest.mark.parametrize("kind", ASKED)
def test_a_command_forbids_what_it_does_not_know(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.forbid_unknown_fields


def command(**changed: Any) -> Authorize:
    made = {"v": 1, "id": new_id("rq"), "deadline_ms": 1_000, "action": "a", "resource": "r"}
    return Authorize(**(made | changed))  # type: ignore[arg-type]


def test_a_command_is_checked_for_version_id_and_deadline() -> None:
    check_command(command(), 999)
    check_command(command(deadline_ms=DEADLINE_AHEAD_MS_MAX), 0)
    for changed, now, error in (
        ({"v": 2}, 0, Malformed),
        ({"id": new_id("ap")}, 0, Malformed),
        ({"id": new_id("rq") + "\n"}, 0, Malformed),
        ({"id": new_id("rq").upper()}, 0, Malformed),
        ({}, 1_000, Expired),
        ({"deadline_ms": DEADLINE_AHEAD_MS_MAX + 1}, 0, LimitExceeded),
    ):
        with pytest.raises(error):
            check_command(command(**changed), now)


@given(st.text(), st.text(), st.none() | st.text())
def test_an_error_keeps_its_class_over_the_wire_and_its_cause_at_home(
    detail: str, cause: str, hint: str | None
) -> None:
    decoder = Decoder.of(messages.AuthorizeReply, "reply")
    try:
        wire = encode(failure(Replayed(detail, cause=cause, hint=hint)))
    except UnicodeEncodeError:
        return
    back = decoder.decode(wire)
    assert isinstance(back, Failure)
    error = error_of(back)
    assert type(error) is Replayed
    assert (error.detail, error.cause, error.hint) == (detail, None, hint)


def test_every_code_of_the_tree_belongs_to_one_class() -> None:
    def tree(root: type[NomosError]) -> list[type[NomosError]]:
        return [
            root,
            *(c for child in root.__subclasses__() if child.__module__ == "nomos.errors" for c in tree(child)),
        ]

    classes = tree(NomosError)
    assert len({c.code for c in classes}) == len(classes)
    for cls in classes:
        error = error_of(Failure(code=cls.code, detail="x"))
        assert isinstance(error, RemoteLimit if cls is LimitExceeded else cls)
    assert type(error_of(Failure(code="of a newer service"))) is NomosError
    assert not issubclass(Unavailable, Refused)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "B-1", "c.d_e"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def envelope(event: dict[str, object]) -> Envelope:
    return Envelope(
        id=new_id("ev"), type="test.made", tenant="acme", actor=Actor(kind="agent", id="bot"), corr=new_id("rq"),
        cause="", event=event,
    )  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from("abc"), json_values), max_size=3), st.integers(0, 2**53))
@settings(max_examples=50)
def test_a_batch_holds_its_events_as_they_were(events: list[dict[str, object]], first: int) -> None:
    envelopes = [envelope(e) for e in events]
    batch = msgspec.msgpack.decode(encode_batch("p", first, [encode_envelope(e) for e in envelopes]), type=Batch)
    assert (batch.v, batch.p, batch.n) == (1, "p", first)
    assert [msgspec.msgpack.decode(e, type=Envelope) for e in batch.e] == envelopes


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.integers(1, 3_000))
def test_an_event_is_journaled_only_if_a_record_can_hold_it(unit: str, times: int) -> None:
    made = envelope({"text": unit * times})
    try:
        encode_event(made)
    except LimitExceeded:
        return
    # With room for what the log adds around it.
    assert len(canonical_bytes({"event": made.event})) + 1_000 < RECORD_BYTES_MAX

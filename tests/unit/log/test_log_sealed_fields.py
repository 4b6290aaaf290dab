"""Sealed fields: their one form, their place, and what their key commits to."""

from __future__ import annotations

import base64
import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt, sodium_pad

from nomos.errors import LimitExceeded, Malformed, MalformedRecord
from nomos.ids import new_id
from nomos.log.erasure import KEYS_SCHEMA, format_disclosure, parse_disclosure
from nomos.log.sealedfield import (
    BLOCK_BYTES,
    PERSONAL,
    TEXT_BYTES_MAX,
    FieldPlace,
    FieldUnreadable,
    SealedField,
    commitment,
    dek_of,
    is_subject,
    open_text,
    parse_sealed,
    plain_fields,
    seal_text,
    sealed_fields,
    subject_of,
)

KEY = bytes(range(32))
DEK = "dek_0193a0b1c2d3e4f5a6b7c8d9e0f10213"
PLACE = FieldPlace(tenant="acme", id="ev_0193a0b1c2d3e4f5a6b7c8d9e0f10214", field="name")
TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=TEXT_BYTES_MAX // 4)


def sealed(text: str = "ada", place: FieldPlace = PLACE) -> SealedField:
    return seal_text(KEY, DEK, place, text, os.urandom(24))


def test_the_bytes_of_a_sealed_field_are_these() -> None:
    field = seal_text(KEY, DEK, PLACE, "ada", bytes(24))
    assert msgspec.to_builtins(field) == {
        "alg": "xc20p",
        "ct": "9GLtR-yI5RkWjn857BY-6jy8rZN6kE0Ly-2VXdfmGjFmimC4OUJa8N__r9RT"
        "DZLTSUPUua-g-ArwI2tTKxSDWeWNycY8qU_rWuQvI5XIV4s",
        "dek": DEK,
        "kc": "a773a2578e957d7997824e32704649b5c529e06b7bbb2a1ea6afd19f5efb2df5",
        "n": "A" * 32,
    }


@given(TEXT)
def test_a_sealed_text_opens_at_its_place_and_nowhere_else(text: str) -> None:
    field = parse_sealed(msgspec.to_builtins(sealed(text)))
    assert open_text(KEY, PLACE, field) == text
    for other in ({"tenant": "beta"}, {"id": "ev_" + "0" * 32}, {"field": "label"}):
        with pytest.raises(FieldUnreadable, match="moved"):
            open_text(KEY, msgspec.structs.replace(PLACE, **other), field)
    with pytest.raises(FieldUnreadable):
        open_text(KEY, PLACE, msgspec.structs.replace(field, dek="dek_" + "0" * 32))


@given(TEXT)
def test_the_length_of_a_ciphertext_tells_only_how_many_blocks(text: str) -> None:
    blocks = len(text.encode()) // BLOCK_BYTES + 1
    assert len(base64.urlsafe_b64decode(sealed(text).ct + "==")) == blocks * BLOCK_BYTES + 16


def test_a_ciphertext_made_for_another_key_does_not_open_under_the_committed_one_nor_the_other() -> None:
    """Who holds two keys can build a ciphertext for both; the record commits to one, and the other opens nothing."""
    other = bytes(32)
    field = sealed()
    data = msgspec.json.encode({"x": 1})
    forged = crypto_aead_xchacha20poly1305_ietf_encrypt(sodium_pad(b"eve", BLOCK_BYTES), data, bytes(24), other)
    text = base64.urlsafe_b64encode(forged).decode().rstrip("=")
    for key, said in ((other, "commits"), (KEY, "altered")):
        with pytest.raises(FieldUnreadable, match=said):
            open_text(key, PLACE, msgspec.structs.replace(field, ct=text))
    with pytest.raises(FieldUnreadable, match="commits"):
        open_text(other, PLACE, field)


@pytest.mark.parametrize("at", range(5))
def test_one_changed_bit_of_a_ciphertext_is_refused(at: int) -> None:
    field = sealed()
    content = bytearray(base64.urlsafe_b64decode(field.ct + "=="))
    content[at * len(content) // 5] ^= 1
    altered = msgspec.structs.replace(field, ct=base64.urlsafe_b64encode(content).decode().rstrip("="))
    with pytest.raises(FieldUnreadable):
        open_text(KEY, PLACE, altered)


def bad(**change: Any) -> dict[str, Any]:
    return {k: v for k, v in {**msgspec.to_builtins(sealed()), **change}.items() if v is not ...}


@pytest.mark.parametrize(
    "value",
    [
        bad(alg="aes"), bad(alg=...), bad(more=1), bad(ct=""), bad(ct="A" * 20), bad(ct="A" * 4_000), bad(ct="*" * 107),
        bad(ct=3), bad(n="A" * 31), bad(n="A" * 31 + "="), bad(kc="f" * 63), bad(kc="F" * 64), bad(dek="dek_1"),
        bad(dek="sub-" + "0" * 32), bad(ct="A" * 106 + "B"), [], None, "ada", {},
    ],
)  # fmt: skip
def test_another_form_is_no_sealed_field(value: object) -> None:
    with pytest.raises(MalformedRecord):
        parse_sealed(value)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_any_value_is_a_sealed_field_or_malformed(value: object) -> None:
    with pytest.raises(MalformedRecord):
        parse_sealed(value)


def test_a_text_over_the_limit_or_with_a_lone_surrogate_is_not_sealed() -> None:
    with pytest.raises(LimitExceeded, match="TEXT_BYTES_MAX"):
        sealed("x" * (TEXT_BYTES_MAX + 1))
    with pytest.raises(Malformed):
        sealed("\ud800")
    assert open_text(KEY, PLACE, sealed("x" * TEXT_BYTES_MAX)) == "x" * TEXT_BYTES_MAX


def test_a_subject_and_its_key_have_the_same_digits() -> None:
    dek = new_id("dek")
    assert is_subject(subject_of(dek))
    assert dek_of(subject_of(dek)) == dek
    for no in ("", "sub-", "sub_" + "0" * 32, "sub-" + "0" * 31, "sub-" + "G" * 32, dek, "ada"):
        assert not is_subject(no)
        with pytest.raises(Malformed):
            dek_of(no)


def test_only_the_places_of_the_table_are_read_so_a_caller_cannot_plant_a_malformed_field() -> None:
    planted: dict[str, object] = {"alg": "xc20p", "dek": 7}
    assert sealed_fields("authz.decision", {"name": planted, "request": {"args": planted}}) == []
    assert sealed_fields("subject.named", {"subject": subject_of(DEK), "more": planted}) == []
    with pytest.raises(MalformedRecord):
        sealed_fields("subject.named", {"subject": subject_of(DEK), "name": planted})


def test_a_field_under_another_persons_key_is_refused() -> None:
    event: dict[str, object] = {"subject": subject_of(DEK), "name": msgspec.to_builtins(sealed())}
    assert [name for name, _ in sealed_fields("subject.named", event)] == ["name"]
    with pytest.raises(MalformedRecord, match="another person"):
        sealed_fields("subject.named", event | {"subject": "sub-" + "0" * 32})


def test_each_personal_field_of_the_table_is_counted_while_it_stands_in_plain_text() -> None:
    for kind, fields in PERSONAL.items():
        for name, _ in fields:
            assert plain_fields(kind, {name: "Ada"}) == 1
            assert plain_fields(kind, {name: ""}) == plain_fields(kind, {name: {}}) == 0


def test_a_file_of_keys_says_what_it_opens_and_nothing_else() -> None:
    keys = {new_id("dek"): os.urandom(32) for _ in range(3)}
    assert parse_disclosure(format_disclosure(keys)) == keys
    twice = {"schema": KEYS_SCHEMA, "keys": [{"dek": DEK, "key": base64.b64encode(KEY).decode()}] * 2}
    short = {"schema": KEYS_SCHEMA, "keys": [{"dek": DEK, "key": "AAAA"}]}
    for no in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        *(msgspec.json.encode(one) for one in (twice, short, {**short, "schema": "x"})),
    ):
        with pytest.raises(MalformedRecord):
            parse_disclosure(no)


def test_the_commitment_is_the_digest_of_a_prefix_and_the_key() -> None:
    assert commitment(bytes(32)) == "a3866e05f99372a3cf65a82d72b6516df88d4fb8969d17294ec5a398c43b1f1d"

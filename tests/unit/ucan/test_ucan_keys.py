"""Keys, their names and seeds as text."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import BadSignature, Malformed
from nomos.keys import (
    SigningKey,
    VerifyKey,
    base58_decode,
    base58_encode,
    format_seed,
    parse_did,
    parse_seed,
)

FIELD_PRIME = 2**255 - 19

#: The eight points of small order, as y coordinates (and both signs of x where x is not zero).
_ORDER_8_Y = (
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
)
SMALL_ORDER = [1, FIELD_PRIME - 1, 0, 1 << 255, *_ORDER_8_Y, *(y | 1 << 255 for y in _ORDER_8_Y)]
NON_CANONICAL = [FIELD_PRIME, FIELD_PRIME + 1, 1 | 1 << 255, (1 << 255) - 1]


def _did(public_bytes: bytes, multicodec: bytes = b"\xed\x01") -> str:
    return "did:key:z" + base58_encode(multicodec + public_bytes)


@pytest.mark.parametrize("y", SMALL_ORDER + NON_CANONICAL)
def test_small_order_and_non_canonical_keys_are_refused_by_name_and_by_bytes(y: int) -> None:
    public_bytes = y.to_bytes(32, "little")
    with pytest.raises(Malformed):
        VerifyKey(public_bytes)
    with pytest.raises(Malformed):
        parse_did(_did(public_bytes))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_has_one_name_and_the_name_gives_the_key_back(seed: bytes) -> None:
    verify_key = SigningKey(seed).verify_key
    assert parse_did(verify_key.did) == verify_key
    assert verify_key.did.startswith("did:key:z6Mk")


def test_the_name_is_that_of_the_published_example() -> None:
    public_bytes = bytes.fromhex(
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )  # RFC 8032 7.1, test 1
    signing_key = SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert signing_key.verify_key.public_bytes == public_bytes
    assert signing_key.did == "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
    assert signing_key.sign(b"").hex().startswith("e5564300c360ac72")


@given(st.text(max_size=80))
def test_any_text_as_a_name_raises_only_malformed(text: str) -> None:
    try:
        parse_did(text)
    except Malformed:
        return
    raise AssertionError("random text was taken as a key")


def test_other_spellings_of_a_name_are_refused() -> None:
    did = SigningKey(hashlib.sha256(b"TEST ONLY spelling").digest()).did
    assert parse_did(did).did == did
    fragment = did.removeprefix("did:key:")
    others = [
        f"{did}#{fragment}",
        did + " ",
        did.upper(),
        did.replace("did:key:z", "did:key:z1"),
        did.replace("did:key:", "did:web:"),
        did[:-1],
        did + "1",
        _did(bytes(range(32)), b"\xec\x01"),
        _did(bytes(31)),
    ]
    for other in others:
        with pytest.raises(Malformed):
            parse_did(other)


@given(st.binary(max_size=64))
def test_base58_gives_back_what_it_was_given(octets: bytes) -> None:
    assert base58_decode(base58_encode(octets)) == octets


@given(st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=64))
def test_base58_has_one_text_per_value(text: str) -> None:
    assert base58_encode(base58_decode(text)) == text


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_verifies_and_no_longer_does_with_one_bit_changed(seed: bytes, message: bytes, bit: int) -> None:
    signing_key = SigningKey(seed)
    signature = signing_key.sign(message)
    signing_key.verify_key.verify(message, signature)
    assert signing_key.sign_attached(message) == signature + message
    changed = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
    with pytest.raises(BadSignature):
        signing_key.verify_key.verify(message, changed)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadSignature):
        SigningKey(bytes(32)).verify_key.verify(b"message", bytes(length))


def test_secret_bytes_show_nowhere() -> None:
    seed = hashlib.sha256(b"TEST ONLY secrecy").digest()
    signing_key = SigningKey(seed)
    assert repr(signing_key) == f"SigningKey({signing_key.did})"
    for leak in (lambda: pickle.dumps(signing_key), lambda: copy.deepcopy(signing_key), lambda: copy.copy(signing_key)):
        with pytest.raises(TypeError):
            leak()
    text = format_seed(seed)
    with pytest.raises(Malformed) as refused:
        parse_seed(text + "AAAA")
    assert text not in str(refused.value)
    assert text not in str(refused.value.hint)


@given(st.binary(min_size=32, max_size=32))
def test_a_seed_is_read_with_or_without_padding_and_line_end(seed: bytes) -> None:
    text = format_seed(seed)
    assert parse_seed(text) == parse_seed(text + "=") == parse_seed(f" {text}=\n") == seed


@given(st.text(max_size=60))
def test_any_text_as_a_seed_raises_only_malformed(text: str) -> None:
    try:
        seed = parse_seed(text)
    except Malformed:
        return
    assert format_seed(seed) == text.strip().removesuffix("=")


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        parse_seed(base64.urlsafe_b64encode(bytes(length)).decode())
    with pytest.raises(Malformed):
        SigningKey(bytes(length))
    with pytest.raises(Malformed):
        format_seed(bytes(length))


def test_a_seed_has_one_spelling() -> None:
    text = format_seed(bytes(32))
    assert text.endswith("A")
    for other in (text[:-1] + "B", text[:-1] + "+", text + "==", text[:20] + " " + text[20:]):
        with pytest.raises(Malformed):
            parse_seed(other)

"""Credentials at rest: a record opens in its own place, unaltered, under a key on the ring, and nowhere else."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import traceback

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Misconfigured
from nomos_runtime.secret import Secret
from nomos_runtime.vault import (
    CREDENTIAL_BYTES_MAX,
    PURPOSE_BEARER,
    PURPOSE_REFRESH,
    CredentialUnreadable,
    DataKey,
    Keyring,
    Place,
    Vault,
)

PLACE = Place(purpose=PURPOSE_BEARER, tenant="acme", connection="github", provider="github")


def key_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def vault_of(*keys: bytes) -> Vault:
    return Vault(Keyring.parse(key_text(keys[0]), [key_text(key) for key in keys[1:]]), os.urandom)


ENVIRONMENT_KEY = os.urandom(32)
VAULT = vault_of(ENVIRONMENT_KEY)
WRAPPED = VAULT.new_data_key("acme")
DATA_KEY = VAULT.open_data_key("acme", WRAPPED)


@given(st.binary(max_size=200))
def test_a_sealed_credential_opens_in_its_place(content: bytes) -> None:
    assert VAULT.open(DATA_KEY, PLACE, VAULT.seal(DATA_KEY, PLACE, Secret(content))).reveal() == content


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_record_with_any_bit_changed_does_not_open(content: bytes, data: st.DataObject) -> None:
    record = bytearray(VAULT.seal(DATA_KEY, PLACE, Secret(content)))
    position = data.draw(st.integers(0, len(record) - 1))
    record[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DATA_KEY, PLACE, bytes(record))


@pytest.mark.parametrize("position", range(len(WRAPPED)))
def test_a_data_key_with_any_byte_changed_does_not_open(position: int) -> None:
    wrapped = bytearray(WRAPPED)
    wrapped[position] ^= 0x55
    with pytest.raises(CredentialUnreadable):
        VAULT.open_data_key("acme", bytes(wrapped))


@given(st.integers(0, 120))
def test_a_record_that_is_cut_does_not_open(length: int) -> None:
    record = VAULT.seal(DATA_KEY, PLACE, Secret(b"x" * 64))
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DATA_KEY, PLACE, record[: min(length, len(record) - 1)])


@given(st.binary(max_size=120))
def test_arbitrary_bytes_do_not_open(record: bytes) -> None:
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DATA_KEY, PLACE, record)


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": PURPOSE_REFRESH},
        {"connection": "other"},
        {"connection": ""},
        {"provider": "gitlab"},
        # the same letters with the border between two parts moved
        {"connection": "githubgit", "provider": "hub"},
    ],
)
def test_a_record_that_is_moved_does_not_open(change: dict[str, str]) -> None:
    record = VAULT.seal(DATA_KEY, PLACE, Secret(b"credential"))
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DATA_KEY, msgspec.structs.replace(PLACE, **change), record)


def test_a_record_of_one_tenant_does_not_open_for_another() -> None:
    record = VAULT.seal(DATA_KEY, PLACE, Secret(b"credential"))
    theirs = msgspec.structs.replace(PLACE, tenant="globex")
    globex = VAULT.open_data_key("globex", VAULT.new_data_key("globex"))
    with pytest.raises(CredentialUnreadable):
        VAULT.open(globex, theirs, record)
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DATA_KEY, theirs, record)
    # even with the very key, the tenant is part of what is authenticated
    with pytest.raises(CredentialUnreadable):
        VAULT.open(DataKey("globex", DATA_KEY.secret), theirs, record)


def test_a_data_key_of_one_tenant_does_not_open_for_another() -> None:
    with pytest.raises(CredentialUnreadable):
        VAULT.open_data_key("globex", WRAPPED)


def test_sealing_for_another_tenant_than_the_data_key_is_refused() -> None:
    with pytest.raises(CredentialUnreadable):
        VAULT.seal(DATA_KEY, msgspec.structs.replace(PLACE, tenant="globex"), Secret(b"x"))


def test_two_records_of_one_credential_differ() -> None:
    first, second = (VAULT.seal(DATA_KEY, PLACE, Secret(b"x")) for _ in range(2))
    assert first != second


def test_a_rotation_moves_the_data_key_and_leaves_the_records() -> None:
    record = VAULT.seal(DATA_KEY, PLACE, Secret(b"credential"))
    new_key = os.urandom(32)
    both = vault_of(new_key, ENVIRONMENT_KEY)
    assert not both.is_current(WRAPPED)
    moved = both.rewrap("acme", WRAPPED)
    assert moved is not None
    assert both.is_current(moved)
    assert both.rewrap("acme", moved) is None
    only_new = vault_of(new_key)
    assert only_new.open(only_new.open_data_key("acme", moved), PLACE, record).reveal() == b"credential"
    with pytest.raises(CredentialUnreadable):
        only_new.open_data_key("acme", WRAPPED)


def test_a_data_key_that_is_gone_takes_its_credentials_with_it() -> None:
    record = VAULT.seal(DATA_KEY, PLACE, Secret(b"credential"))
    fresh = VAULT.open_data_key("acme", VAULT.new_data_key("acme"))
    with pytest.raises(CredentialUnreadable):
        VAULT.open(fresh, PLACE, record)


def test_a_credential_has_a_largest_size() -> None:
    with pytest.raises(LimitExceeded):
        VAULT.seal(DATA_KEY, PLACE, Secret(b"x" * (CREDENTIAL_BYTES_MAX + 1)))


@pytest.mark.parametrize("text", ["", "short", "*" * 43, key_text(bytes(31)), key_text(bytes(33)), "é" * 43])
def test_a_key_that_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        Keyring.parse(text)
    assert not text or text not in "".join(traceback.format_exception(raised.value)).replace(repr(text), "")


def test_a_key_may_stand_on_the_ring_once() -> None:
    with pytest.raises(Misconfigured):
        vault_of(ENVIRONMENT_KEY, ENVIRONMENT_KEY)
    with pytest.raises(Misconfigured):
        vault_of(*[os.urandom(32) for _ in range(9)])


def test_a_secret_shows_itself_to_nobody() -> None:
    content = os.urandom(16).hex()
    secret = Secret(content.encode())
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{[secret]}"):
        assert content not in shown
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert secret == Secret(content.encode())
    assert secret != Secret(b"other")


def test_no_error_of_the_vault_holds_the_credential() -> None:
    content = os.urandom(16).hex().encode()
    record = bytearray(VAULT.seal(DATA_KEY, PLACE, Secret(content)))
    record[-1] ^= 1
    with pytest.raises(CredentialUnreadable) as raised:
        VAULT.open(DATA_KEY, PLACE, bytes(record))
    assert content.decode() not in "".join(traceback.format_exception(raised.value))

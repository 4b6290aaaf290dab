import stat
import subprocess
import sys
from pathlib import Path

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.creds import (
    ACCOUNT,
    OPERATOR,
    USER,
    Credentials,
    Nkey,
    parse_creds,
    parse_public_key,
    read_creds,
    verify_nkey,
    write_creds,
)
from nomos.errors import Conflict, Malformed

seeds = st.binary(min_size=32, max_size=32)
kinds = st.sampled_from([OPERATOR, ACCOUNT, USER])


def agent(seed: bytes = b"u" * 32, agent_seed: bytes = b"a" * 32) -> Credentials:
    return Credentials(
        servers=("nats://127.0.0.1:4222", "tls://bus.example.com:4222"),
        role="agent",
        name="issue-bot",
        tenant="acme",
        jwt="e30.e30.AA",
        user=Nkey(USER, seed),
        agent_seed=agent_seed,
    )


@given(kinds, seeds)
def test_an_nkey_is_spelt_as_the_nats_library_spells_it(kind: int, seed: bytes) -> None:
    ours, theirs = Nkey(kind, seed), nkeys.from_seed(bytearray(Nkey(kind, seed).seed.encode()))
    assert ours.seed.encode() == nkeys.encode_seed(seed, kind)
    assert ours.public.encode() == theirs.public_key
    assert ours.sign(b"nonce") == theirs.sign(b"nonce")


@given(kinds, seeds, st.binary())
def test_a_key_reads_its_own_spelling_and_verifies_its_own_signatures(kind: int, seed: bytes, message: bytes) -> None:
    key = Nkey(kind, seed)
    assert Nkey.parse(key.seed, kind) == key
    assert len(parse_public_key(key.public, kind)) == 32
    assert verify_nkey(key.public, kind, message, key.sign(message))
    assert not verify_nkey(key.public, kind, message + b"x", key.sign(message))
    assert not verify_nkey(key.public, kind, message, b"")


@given(st.data())
def test_a_seed_or_public_key_with_one_other_character_is_malformed(data: st.DataObject) -> None:
    key = Nkey(USER, data.draw(seeds))
    for text, parse in ((key.seed, Nkey.parse), (key.public, parse_public_key)):
        at = data.draw(st.integers(0, len(text) - 1))
        other = data.draw(st.characters(exclude_characters=text[at]))
        with pytest.raises(Malformed):
            parse(text[:at] + other + text[at + 1 :], USER)


@given(kinds, kinds, seeds)
def test_a_key_of_another_kind_is_malformed(kind: int, other: int, seed: bytes) -> None:
    if kind == other:
        return
    for parse, text in ((Nkey.parse, Nkey(kind, seed).seed), (parse_public_key, Nkey(kind, seed).public)):
        with pytest.raises(Malformed):
            parse(text, other)


@given(seeds, seeds)
def test_credentials_read_what_was_written(seed: bytes, agent_seed: bytes) -> None:
    credentials = agent(seed, agent_seed)
    assert parse_creds(credentials.text()) == credentials


def test_credentials_without_an_agent_key_read_what_was_written() -> None:
    credentials = Credentials(
        servers=("nats://127.0.0.1:4222",),
        role="operator",
        name="alice",
        tenant="",
        jwt="e30.e30.AA",
        user=Nkey(USER, b"u" * 32),
    )
    assert parse_creds(credentials.text()) == credentials
    assert parse_creds(credentials.text().replace("------END", "-----END").replace("------\n", "-----\n"))


@given(st.text())
def test_any_text_is_credentials_or_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_creds(text)


@given(st.data())
def test_changed_credentials_are_credentials_or_malformed(data: st.DataObject) -> None:
    text = agent().text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        parse_creds(text[:start] + data.draw(st.text(max_size=30)) + text[end:])
    except Malformed:
        return


@pytest.mark.parametrize(
    "changed",
    [
        lambda t: t + t,
        lambda t: t.replace("NOMOS AGENT KEY", "OTHER KEY"),
        lambda t: t.replace('"v": 1', '"v": 2'),
        lambda t: t.replace('"v": 1', '"v": true'),
        lambda t: t.replace('"agent"', '"auditor"'),
        lambda t: t.replace('"acme"', '""'),
        lambda t: t.replace('"acme"', '"Acme"'),
        lambda t: t.replace("nats://", "http://"),
        lambda t: t.replace('"tenant"', '"extra"'),
        lambda t: t.replace("NATS USER JWT", "USER JWT"),
    ],
)
def test_credentials_that_are_not_as_they_must_be_are_malformed(changed: object) -> None:
    assert callable(changed)
    with pytest.raises(Malformed):
        parse_creds(changed(agent().text()))


def test_secrets_are_not_shown() -> None:
    credentials = agent()
    shown = repr(credentials) + repr(credentials.user)
    assert credentials.user.seed not in shown
    assert "u" * 32 not in shown
    assert "a" * 32 not in shown
    assert credentials.jwt not in shown


def test_a_written_file_is_its_owners_alone_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "agent.creds"
    write_creds(path, agent())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_creds(path) == agent()
    before = path.read_bytes()
    with pytest.raises(Conflict):
        write_creds(path, agent(b"v" * 32))
    assert path.read_bytes() == before


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "agent.creds").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        write_creds(tmp_path / "agent.creds", agent())
    assert not (tmp_path / "elsewhere").exists()


def test_the_nats_part_holds_no_agent_key() -> None:
    assert "AGENT" not in agent().nats_text()
    assert agent().user.seed in agent().nats_text()


def test_importing_credentials_imports_no_bus_client() -> None:
    code = "import sys, nomos.creds; print([m for m in ('nats', 'nkeys', 'nacl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

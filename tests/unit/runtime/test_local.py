"""The files of a local installation across restarts."""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path

import pytest

from nomos.creds import USER, Credentials, Nkey, read_creds, write_creds
from nomos.log.note import NoteSigner
from nomos.log.sealedfield import is_subject
from nomos.log.trust import parse_trust
from nomos_runtime.local import ORIGIN, Local, issue_operator, write_private
from nomos_runtime.provision import provision_operator
from nomos_runtime.topology.issue import issue_user


def started(folder: Path) -> Local:
    """As much of a start as writes files; no server runs."""
    local = Local(folder, connectors=folder)
    local.installation = provision_operator(folder / "bus", servers=["nats://127.0.0.1:1"], issued_at=1)
    local._write_public(local.installation)
    return local


def test_a_trust_file_that_was_given_the_lines_of_a_new_key_keeps_them_when_the_installation_starts_again(
    tmp_path: Path,
) -> None:
    local = started(tmp_path)
    (line,) = parse_trust(local.trust.read_bytes()).logs
    new = NoteSigner(ORIGIN, os.urandom(32)).verifier_key
    lines = f"log {line.key} sizes:0-7\nlog {new} sizes:7-\nquorum none\n"
    local.trust.write_text(lines, encoding="utf-8")
    assert started(tmp_path).trust.read_text(encoding="utf-8") == lines


def test_the_audit_service_has_a_next_key_only_while_there_is_one(tmp_path: Path) -> None:
    local = started(tmp_path)
    assert "AUDIT_SIGN_KEY_NEXT_FILE" not in local.environment("audit")
    path = tmp_path / "secrets" / "AUDIT_SIGN_KEY_NEXT"
    write_private(path, base64.urlsafe_b64encode(os.urandom(32)).decode())
    assert local.environment("audit")["AUDIT_SIGN_KEY_NEXT_FILE"] == str(path.resolve())
    assert "AUDIT_SIGN_KEY_NEXT_FILE" not in local.environment("policy")
    path.unlink()
    assert "AUDIT_SIGN_KEY_NEXT_FILE" not in local.environment("audit")


@pytest.mark.parametrize("name", ["admin", "sub-1"])
def test_an_operators_credential_that_bears_a_name_is_replaced_by_one_with_an_id(tmp_path: Path, name: str) -> None:
    local = Local(tmp_path / "inst", connectors=tmp_path)
    servers = (local.nats.url,)
    made = provision_operator(local.directory / "bus", servers=servers, issued_at=1)
    user = Nkey.new(USER)
    jwt = issue_user(
        role="operator", name=name, user_public_key=user.public, account=made.accounts["OPS"],
        signer=made.role_key("operator"), issued_at=1,
    )  # fmt: skip
    old = Credentials(servers=servers, role="operator", name=name, tenant="", jwt=jwt, user=user)
    write_creds(local.operator_creds, old)
    local._write_public(made)
    kept = read_creds(local.operator_creds)
    assert is_subject(kept.name)
    # From then on it stays.
    local._write_public(made)
    assert read_creds(local.operator_creds).jwt == kept.jwt


def test_operators_credentials_bear_an_id_each_and_one_tenant_at_most(tmp_path: Path) -> None:
    made = provision_operator(tmp_path / "bus", servers=["nats://127.0.0.1:1"], issued_at=1)
    several = [issue_operator(made, servers=("nats://127.0.0.1:1",), tenant=of) for of in ("", "", "acme")]
    assert len({one.name for one in several}) == len(several)
    assert all(is_subject(one.name) for one in several)
    assert [(one.role, one.tenant) for one in several] == [
        ("operator", ""), ("operator", ""), ("tenant-operator", "acme"),
    ]  # fmt: skip


def test_the_pages_keep_their_port_unless_it_is_taken(tmp_path: Path) -> None:
    def port() -> int:
        return Local(tmp_path / "data", connectors=tmp_path).pages_port

    first = port()
    assert port() == first
    with socket.create_server(("127.0.0.1", first)):
        second = port()
        assert second != first
    assert port() == second
    assert Local(tmp_path / "data", connectors=tmp_path, pages_port=4711).pages_origin == "http://localhost:4711"

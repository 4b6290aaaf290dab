"""The files of a local installation across restarts."""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path

from nomos.log.note import NoteSigner
from nomos.log.trust import parse_trust
from nomos_runtime.local import ORIGIN, Local, write_private
from nomos_runtime.provision import provision_operator


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

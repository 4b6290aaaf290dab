from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomos.errors import ApprovalRefused, Conflict, LimitExceeded, Malformed, Misconfigured, NotFound
from nomos.passkey import SOFTWARE_AAGUID, SoftwarePasskey
from nomos_stepup.approvercommands import EnrolPasskey, OfferEnrolment
from nomos_stepup.facts import CounterStalled
from nomos_stepup.party import relying_party
from nomos_stepup.webauthn import parse_assertion, parse_registration, verify_registration

CHALLENGE = b"r" * 32
ORIGIN = "https://approve.example.test"
RP = "approve.example.test"
PARTY = relying_party(rp_id=RP, name="Nomos test", origins=(ORIGIN,), software_passkeys=True)


def enrolled(stage: Any, passkey: SoftwarePasskey) -> Any:
    approver = stage.approver()
    response = passkey.register(
        rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=approver.user_handle, user_name="ada"
    )
    registration = verify_registration(
        parse_registration(json.dumps(response).encode()), challenge=CHALLENGE, party=PARTY
    )
    assert registration.aaguid == SOFTWARE_AAGUID
    offer = OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 60, now=stage.NOW)
    enrol = EnrolPasskey(registration=registration, label="software", is_taken=False, now=stage.NOW)
    return stage.then_approver(stage.then_approver(approver, offer), enrol)


def test_a_software_passkey_is_verified_as_a_browsers_is(stage: Any, tmp_path: Path) -> None:
    passkey = SoftwarePasskey.create(tmp_path / "ada.json", environment="test")
    approver = enrolled(stage, passkey)
    for count in (1, 2, 3):
        response = SoftwarePasskey.load(tmp_path / "ada.json").assert_(rp_id=RP, origin=ORIGIN, challenge=b"q" * 32)
        verified = stage.assertion(approver, json.loads(json.dumps(response)), b"q" * 32, PARTY)
        assert verified.sign_count == count


def test_a_production_service_does_not_enrol_a_software_passkey(stage: Any, tmp_path: Path) -> None:
    passkey = SoftwarePasskey.create(tmp_path / "ada.json")
    response = passkey.register(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=b"u", user_name="ada")
    with pytest.raises(ApprovalRefused, match="software"):
        verify_registration(parse_registration(response), challenge=CHALLENGE, party=stage.party)


def test_a_copied_software_passkey_is_noticed(stage: Any, tmp_path: Path) -> None:
    passkey = SoftwarePasskey.create(tmp_path / "ada.json")
    approver = enrolled(stage, passkey)
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / "ada.json").read_bytes())
    copy.chmod(0o600)
    sign = {"rp_id": RP, "origin": ORIGIN, "challenge": b"q" * 32}
    first = stage.assertion(approver, passkey.assert_(**sign), b"q" * 32, PARTY)
    from nomos_stepup.approvers import RaiseCounter

    approver = stage.then_approver(approver, RaiseCounter(assertion=first))
    with pytest.raises(CounterStalled):
        stage.assertion(approver, SoftwarePasskey.load(copy).assert_(**sign), b"q" * 32, PARTY)


def test_uses_at_the_same_time_never_share_a_counter(stage: Any, tmp_path: Path) -> None:
    enrolled(stage, SoftwarePasskey.create(tmp_path / "ada.json"))
    counters: list[int] = []

    def use() -> None:
        passkey = SoftwarePasskey.load(tmp_path / "ada.json")
        response = parse_assertion(passkey.assert_(rp_id=RP, origin=ORIGIN, challenge=b"q" * 32))
        counters.append(int.from_bytes(response.authenticator_data[33:37], "big"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counters) == list(range(1, 9))


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ada.json"
    passkey = SoftwarePasskey.create(path)
    passkey.register(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=b"u", user_name="ada")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["ada.json"]
    path.chmod(0o640)
    with pytest.raises(Misconfigured, match="others"):
        SoftwarePasskey.load(path)


@pytest.mark.parametrize("environment", ["production", "", "Test", "staging"])
def test_a_software_passkey_exists_in_development_and_test_only(tmp_path: Path, environment: str) -> None:
    path = tmp_path / "ada.json"
    with pytest.raises(Misconfigured):
        SoftwarePasskey.create(path, environment=environment)
    passkey = SoftwarePasskey.create(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "environment": environment}))
    with pytest.raises(Misconfigured):
        SoftwarePasskey.load(path)
    with pytest.raises(Misconfigured):
        passkey.assert_(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE)


def test_a_file_is_not_overwritten_and_not_invented(tmp_path: Path) -> None:
    path = tmp_path / "ada.json"
    SoftwarePasskey.create(path)
    with pytest.raises(Conflict):
        SoftwarePasskey.create(path)
    with pytest.raises(NotFound):
        SoftwarePasskey.load(tmp_path / "bob.json")


def test_a_credential_is_chosen_by_relying_party_and_id(tmp_path: Path) -> None:
    passkey = SoftwarePasskey.create(tmp_path / "ada.json")
    made = [
        passkey.register(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=name, user_name="x")
        for name in (b"ada", b"bob")
    ]
    ids = [parse_registration(response).credential_id for response in made]
    sign = {"origin": ORIGIN, "challenge": CHALLENGE}
    with pytest.raises(NotFound):
        passkey.assert_(rp_id="other.test", **sign)
    with pytest.raises(NotFound, match="found 2"):
        passkey.assert_(rp_id=RP, **sign)
    for credential_id in ids:
        used = parse_assertion(passkey.assert_(rp_id=RP, credential_id=credential_id, **sign))
        assert used.credential_id == credential_id
    with pytest.raises(LimitExceeded):
        passkey.register(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=bytes(65), user_name="x")


def test_a_counter_at_its_end_signs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ada.json"
    passkey = SoftwarePasskey.create(path)
    passkey.register(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE, user_handle=b"u", user_name="x")
    path.write_text(path.read_text().replace('"sign_count": 0', '"sign_count": 4294967295'))
    with pytest.raises(LimitExceeded):
        passkey.assert_(rp_id=RP, origin=ORIGIN, challenge=CHALLENGE)


@given(octets=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_malformed(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(octets)
    path.chmod(0o600)
    with pytest.raises(Malformed):
        SoftwarePasskey.load(path)

from __future__ import annotations

import json
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import ApprovalRefused, LimitExceeded, Malformed, Misconfigured
from nomos.passkey import SOFTWARE_AAGUID
from nomos_stepup.authenticator import check_cbor, parse_header
from nomos_stepup.clientdata import parse_client_data
from nomos_stepup.facts import CounterStalled, Passkey
from nomos_stepup.options import assertion_options, registration_options
from nomos_stepup.party import relying_party
from nomos_stepup.responses import AssertionResponse, AttestationResponse, parse_assertion, parse_registration
from nomos_stepup.webauthn import check_public_key, verify_assertion, verify_registration

CHALLENGE = b"c" * 32


def refused_assertion(stage: Any, response: dict[str, Any], authenticator: Any, match: str) -> None:
    with pytest.raises(ApprovalRefused, match=match) as refusal:
        stage.assertion(stage.approver(authenticator), response, CHALLENGE)
    assert not isinstance(refusal.value, CounterStalled)


def register(stage: Any, response: dict[str, Any], party: Any = None) -> Any:
    return verify_registration(parse_registration(response), challenge=CHALLENGE, party=party or stage.party)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("fmt", ["none", "packed"])
def test_a_registration_and_an_assertion_verify(stage: Any, algorithm: str, fmt: str) -> None:
    authenticator = stage.Authenticator(algorithm)
    registration = register(stage, authenticator.register(CHALLENGE, fmt=fmt))
    assert registration.public_key == authenticator.cose
    assert registration.credential_id == authenticator.credential_id
    approver = stage.approver(authenticator)
    assertion = stage.assertion(approver, authenticator.sign(CHALLENGE), CHALLENGE)
    assert (assertion.challenge, assertion.sign_count) == (CHALLENGE, 1)


def test_an_assertion_for_another_challenge_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(b"d" * 32), authenticator, "another challenge")


def test_an_assertion_for_another_request_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    harmless, harmful = stage.approval(resource="github:repo/acme/sandbox"), stage.approval()
    with pytest.raises(ApprovalRefused, match="another challenge"):
        stage.assertion(approver, authenticator.sign(harmless.challenge), harmful.challenge)


def test_an_assertion_without_user_verification_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, flags=stage.UP), authenticator, "verify its user")


def test_an_assertion_without_user_presence_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, flags=stage.UV), authenticator, "present")


def test_an_assertion_from_a_cross_origin_frame_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, crossOrigin=True), authenticator, "frame")


@pytest.mark.parametrize("top", ["https://evil.example", "https://approve.example.test", "", None])
def test_an_assertion_with_any_top_origin_is_refused(stage: Any, top: str | None) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, topOrigin=top), authenticator, "frame")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://approve.example.test",
        "https://approve.example.test:444",
        "https://approve.example.test.",
        "https://approve.example.test/",
        "https://other.approve.example.test",
        "HTTPS://approve.example.test",
    ],
)
def test_an_assertion_on_another_origin_is_refused(stage: Any, origin: str) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, origin=origin), authenticator, "origin")


def test_an_assertion_for_another_relying_party_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, rp_id="example.test"), authenticator, "relying party")


def test_a_registration_response_is_no_assertion(stage: Any) -> None:
    authenticator = stage.Authenticator()
    refused_assertion(stage, authenticator.sign(CHALLENGE, kind="webauthn.create"), authenticator, "type webauthn.get")


def test_a_signature_by_another_key_is_refused(stage: Any) -> None:
    authenticator, impostor = stage.Authenticator(), stage.Authenticator()
    impostor.credential_id = authenticator.credential_id
    refused_assertion(stage, impostor.sign(CHALLENGE), authenticator, "does not verify")


@pytest.mark.parametrize("part", ["clientDataJSON", "authenticatorData", "signature"])
@settings(max_examples=25)
@given(position=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(stage: Any, part: str, position: int, change: int) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    parsed = parse_assertion(authenticator.sign(CHALLENGE))
    field = {"clientDataJSON": "client_data_json", "authenticatorData": "authenticator_data"}.get(part, part)
    octets = bytearray(getattr(parsed, field))
    octets[position % len(octets)] ^= change
    with pytest.raises((ApprovalRefused, Malformed)) as refusal:
        verify_assertion(
            msgspec.structs.replace(parsed, **{field: bytes(octets)}),
            challenge=CHALLENGE,
            passkey=approver.passkeys[0],
            user_handle=approver.user_handle,
            party=stage.party,
        )
    assert not isinstance(refusal.value, CounterStalled)


@pytest.mark.parametrize(("stored", "got"), [(5, 5), (5, 4), (5, 0), (1, 0)])
def test_a_counter_that_does_not_rise_is_refused_and_reported(stage: Any, stored: int, got: int) -> None:
    authenticator = stage.Authenticator()
    authenticator.counter = stored
    with pytest.raises(CounterStalled) as alarm:
        stage.assertion(stage.approver(authenticator), authenticator.sign(CHALLENGE, counter=got), CHALLENGE)
    assert (alarm.value.stored, alarm.value.got) == (stored, got)
    assert alarm.value.credential_id == authenticator.credential_id


def test_a_passkey_that_keeps_no_counter_is_accepted(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    for _ in range(2):
        verified = stage.assertion(approver, authenticator.sign(CHALLENGE, counter=0), CHALLENGE)
        assert verified.sign_count == 0


def test_nobody_without_the_key_can_raise_the_counter_alarm(stage: Any) -> None:
    authenticator, impostor = stage.Authenticator(), stage.Authenticator()
    authenticator.counter = 9
    impostor.credential_id = authenticator.credential_id
    refused_assertion(stage, impostor.sign(CHALLENGE, counter=3), authenticator, "does not verify")


def test_an_assertion_is_verified_with_the_passkey_that_it_names_only(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    response = parse_assertion(authenticator.sign(CHALLENGE))
    with pytest.raises(ApprovalRefused, match="another passkey"):
        verify_assertion(
            msgspec.structs.replace(response, credential_id=b"another"),
            challenge=CHALLENGE,
            passkey=approver.passkeys[0],
            user_handle=approver.user_handle,
            party=stage.party,
        )


def test_an_assertion_that_holds_a_credential_is_malformed(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    attested = bytes(16) + b"\0\2id" + authenticator.cose
    response = authenticator.sign(CHALLENGE, flags=stage.UP | stage.UV | stage.AT, extensions=attested)
    with pytest.raises(Malformed, match="no credential"):
        stage.assertion(approver, response, CHALLENGE)


def test_a_user_handle_of_somebody_else_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    response = authenticator.sign(CHALLENGE)
    response["response"]["userHandle"] = stage.b64(b"somebody else")
    refused_assertion(stage, response, authenticator, "another user")


def test_a_credential_that_changes_its_backup_eligibility_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    flags = stage.UP | stage.UV | stage.BE
    refused_assertion(stage, authenticator.sign(CHALLENGE, flags=flags), authenticator, "one device and many")


def test_a_synchronised_passkey_is_accepted(stage: Any) -> None:
    authenticator = stage.Authenticator(flags=stage.BE | stage.BS)
    approver = stage.approver(authenticator)
    assert approver.passkeys[0].backup_eligible
    stage.assertion(approver, authenticator.sign(CHALLENGE), CHALLENGE)


def test_extensions_are_accepted_as_plain_cbor_only(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    flags = stage.UP | stage.UV | stage.ED
    plain = authenticator.sign(CHALLENGE, flags=flags, extensions=cbor2.dumps({"credProtect": 2}))
    stage.assertion(approver, plain, CHALLENGE)
    for hostile in (cbor2.dumps({"t": cbor2.CBORTag(35, "a")}), cbor2.dumps({"f": 1.5}), cbor2.dumps([1]), b""):
        with pytest.raises(Malformed):
            stage.assertion(approver, authenticator.sign(CHALLENGE, flags=flags, extensions=hostile), CHALLENGE)
    with pytest.raises(Malformed):
        stage.assertion(approver, authenticator.sign(CHALLENGE, extensions=b"\0"), CHALLENGE)


def test_an_unknown_member_of_client_data_is_allowed(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    stage.assertion(approver, authenticator.sign(CHALLENGE, other_keys_can_be_added_here="yes"), CHALLENGE)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"webauthn.get","challenge":"AA","challenge":"%s","origin":"https://approve.example.test"}',
        '{"type":"webauthn.get","challenge":"%s","origin":"https://approve.example.test","x":NaN}',
        '{"type":"webauthn.get","challenge":"%s","origin":"https://approve.example.test","crossOrigin":"false"}',
        '{"type":"webauthn.get","challenge":"%s","origin":["https://approve.example.test"]}',
        '{"type":"webauthn.get","challenge":"%s"}',
        '\ufeff{"type":"webauthn.get","challenge":"%s","origin":"https://approve.example.test"}',
        '["%s"]',
    ],
)
def test_client_data_that_two_readers_could_read_differently_is_malformed(stage: Any, text: str) -> None:
    authenticator = stage.Authenticator()
    raw = (text % stage.b64(CHALLENGE)).encode()
    with pytest.raises(Malformed):
        stage.assertion(stage.approver(authenticator), authenticator.sign(CHALLENGE, client_data=raw), CHALLENGE)


def test_a_challenge_in_another_spelling_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    raw = json.dumps(
        {"type": "webauthn.get", "challenge": stage.b64(CHALLENGE) + "=", "origin": "https://approve.example.test"}
    )
    refused_assertion(
        stage, authenticator.sign(CHALLENGE, client_data=raw.encode()), authenticator, "another challenge"
    )


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"flags": 0x41}, "verify its user"),
        ({"flags": 0x44}, "present"),
        ({"rp_id": "example.test"}, "relying party"),
        ({"origin": "https://evil.example"}, "origin"),
        ({"crossOrigin": True}, "frame"),
        ({"topOrigin": "https://evil.example"}, "frame"),
        ({"kind": "webauthn.get"}, "type webauthn.create"),
        ({"fmt": "fido-u2f"}, "attestation"),
        ({"fmt": "packed", "statement": {"alg": -7, "sig": b"x", "x5c": [b"x"]}}, "attestation"),
        ({"fmt": "packed", "statement": {"alg": -7, "sig": b"x"}}, "does not verify"),
        ({"statement": {"sig": b"x"}}, "does not verify"),
        ({"aaguid": bytes.fromhex(SOFTWARE_AAGUID.replace("-", ""))}, "software"),
    ],
    ids=str,
)
def test_a_registration_that_breaks_a_rule_is_refused(stage: Any, knobs: dict[str, Any], match: str) -> None:
    with pytest.raises(ApprovalRefused, match=match):
        register(stage, stage.Authenticator().register(CHALLENGE, **knobs))


def test_a_registration_for_another_challenge_is_refused(stage: Any) -> None:
    with pytest.raises(ApprovalRefused, match="another challenge"):
        register(stage, stage.Authenticator().register(b"d" * 32))


def test_a_registration_that_names_two_credentials_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    response = authenticator.register(CHALLENGE)
    response["id"] = response["rawId"] = stage.b64(b"another id")
    with pytest.raises(ApprovalRefused, match="two credential ids"):
        register(stage, response)
    response["id"] = stage.b64(b"a third")
    with pytest.raises(Malformed):
        register(stage, response)


def test_a_registration_without_a_credential_is_malformed(stage: Any) -> None:
    with pytest.raises(Malformed):
        register(stage, stage.Authenticator().register(CHALLENGE, flags=stage.UP | stage.UV))


def bad_keys() -> list[bytes]:
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    x, y = numbers.x.to_bytes(48, "big"), numbers.y.to_bytes(48, "big")
    return [
        cbor2.dumps({1: 2, 3: -7, -1: 2, -2: x, -3: y}),  # ES256 on P-384
        cbor2.dumps({1: 2, 3: -7, -1: 1, -2: b"\1" * 32, -3: b"\1" * 32}),  # not on the curve
        cbor2.dumps({1: 2, 3: -7, -1: 1, -2: b"", -3: b""}),
        cbor2.dumps({1: 2, 3: -7, -1: 1, -2: "x", -3: "y"}),
        cbor2.dumps({1: 2, 3: -7}),
        cbor2.dumps({1: 1, 3: -8, -1: 6, -2: bytes(32)}),  # EdDSA, small order
        cbor2.dumps({1: 3, 3: -257, -1: b"\xff" * 128, -2: b"\1\0\1"}),  # RSA of 1024 bits
        cbor2.dumps({1: 3, 3: -257, -1: b"\xff" * 256, -2: b"\1"}),  # exponent 1
        cbor2.dumps({1: 3, 3: -65535, -1: b"\xff" * 256, -2: b"\1\0\1"}),  # SHA-1
        cbor2.dumps({}),
        b"\x04" + bytes(64),
        b"\x04",
        b"",
    ]


@pytest.mark.parametrize("number", range(13))
def test_a_key_of_another_algorithm_curve_or_size_is_refused(stage: Any, number: int) -> None:
    cose = bad_keys()[number]
    with pytest.raises((ApprovalRefused, Malformed)):
        check_public_key(cose)
    with pytest.raises((ApprovalRefused, Malformed)):
        register(stage, stage.Authenticator().register(CHALLENGE, cose=cose or b"\x04"))


@given(st.binary(max_size=300))
def test_parsers_fail_as_malformed_on_any_bytes(octets: bytes) -> None:
    for parse in (parse_assertion, parse_registration, parse_client_data, parse_header, check_cbor):
        try:
            parse(octets)
        except Malformed:
            continue
        assert parse in (parse_header, check_cbor, parse_client_data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["public-key", "AAAA", "AB"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "rawId", "type", "response", "clientDataJSON", "signature", "userHandle", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(value=st.dictionaries(st.sampled_from(["id", "rawId", "type", "response", "x"]), json_values))
def test_parsers_fail_as_malformed_on_any_object(value: dict[str, object]) -> None:
    for parse in (parse_assertion, parse_registration):
        with pytest.raises(Malformed):
            parse(value)


cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.integers(-4, 4) | st.sampled_from(["fmt", "attStmt", "authData", "alg"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(attestation=cbor_values | st.binary(max_size=200), client=st.booleans(), tail=st.binary(max_size=80))
def test_a_registration_of_any_bytes_is_refused_and_never_crashes(
    stage: Any, attestation: Any, client: bool, tail: bytes
) -> None:
    authenticator = stage.Authenticator()
    data = parse_client = authenticator.client_data("webauthn.create", CHALLENGE, stage.party.origins[0])
    octets = attestation if isinstance(attestation, bytes) else cbor2.dumps(attestation)
    with pytest.raises((ApprovalRefused, Malformed)):
        verify_registration(
            AttestationResponse(
                credential_id=b"id",
                client_data_json=data if client else tail or parse_client[:-1],
                attestation_object=octets,
            ),
            challenge=CHALLENGE,
            party=stage.party,
        )


@given(key=cbor_values | st.binary(max_size=100), extension=st.binary(max_size=40))
def test_any_key_inside_a_well_formed_registration_is_refused(stage: Any, key: Any, extension: bytes) -> None:
    cose = key if isinstance(key, bytes) else cbor2.dumps(key)
    with pytest.raises((ApprovalRefused, Malformed)):
        register(stage, stage.Authenticator().register(CHALLENGE, cose=cose or b"\0", extensions=extension))


@given(data=st.binary(max_size=100), signature=st.binary(max_size=80), key=cbor_values | st.binary(max_size=100))
def test_an_assertion_of_any_bytes_is_refused_and_never_crashes(
    stage: Any, data: bytes, signature: bytes, key: Any
) -> None:
    authenticator = stage.Authenticator()
    good = parse_assertion(authenticator.sign(CHALLENGE))
    cose = key if isinstance(key, bytes) else cbor2.dumps(key)
    for authenticator_data, public_key in ((data, authenticator.cose), (good.authenticator_data, cose)):
        with pytest.raises((ApprovalRefused, Malformed)):
            verify_assertion(
                AssertionResponse(
                    credential_id=b"id",
                    client_data_json=good.client_data_json,
                    authenticator_data=authenticator_data,
                    signature=signature,
                    user_handle=None,
                ),
                challenge=CHALLENGE,
                passkey=Passkey(
                    credential_id=b"id",
                    public_key=public_key,
                    sign_count=0,
                    aaguid="",
                    label="x",
                    backup_eligible=False,
                ),
                user_handle=b"",
                party=stage.party,
            )


def test_cbor_that_announces_more_than_it_holds_is_malformed() -> None:
    for hostile in (
        b"\xbb" + b"\xff" * 8,
        b"\x9b" + b"\xff" * 8,
        b"\xa1\x00" * 6,
        b"\xbf\xff",
        b"\xc0\xa0",
        b"\x81" * 9,
    ):
        with pytest.raises(Malformed):
            check_cbor(hostile)
    with pytest.raises(LimitExceeded):
        check_cbor(b"\xa1\x00\x81\x81\x81\x81\x00")


def test_responses_over_their_limits_are_refused(stage: Any) -> None:
    response = stage.Authenticator().sign(CHALLENGE)
    response["response"]["signature"] = stage.b64(bytes(600))
    with pytest.raises(LimitExceeded):
        parse_assertion(response)
    with pytest.raises(LimitExceeded):
        parse_assertion(b" " * 70_000)
    with pytest.raises(LimitExceeded):
        parse_client_data(b" " * 5_000)


@pytest.mark.parametrize(
    ("rp_id", "origins"),
    [
        ("approve.example.test", ()),
        ("approve.example.test", ("https://example.test",)),
        ("approve.example.test", ("https://evilapprove.example.test",)),
        ("approve.example.test", ("http://approve.example.test",)),
        ("approve.example.test", ("https://approve.example.test/",)),
        ("approve.example.test", ("https://user@approve.example.test",)),
        ("approve.example.test", ("https://approve.example.test:x",)),
        ("approve.example.test", ("approve.example.test",)),
        ("Approve.example.test", ("https://approve.example.test",)),
        ("", ("https://approve.example.test",)),
    ],
)
def test_a_relying_party_that_browsers_would_not_allow_is_a_misconfiguration(
    rp_id: str, origins: tuple[str, ...]
) -> None:
    with pytest.raises(Misconfigured):
        relying_party(rp_id=rp_id, name="x", origins=origins)


def test_localhost_may_use_http() -> None:
    assert relying_party(rp_id="localhost", name="x", origins=("http://localhost:8080",)).id == "localhost"


def test_options_require_user_verification_and_carry_the_challenge(stage: Any) -> None:
    approver = stage.approver(stage.Authenticator())
    create = registration_options(approver, challenge=CHALLENGE, party=stage.party)
    get = assertion_options([approver], challenge=CHALLENGE, party=stage.party)
    assert create["challenge"] == get["challenge"] == stage.b64(CHALLENGE)
    assert create["authenticatorSelection"]["userVerification"] == get["userVerification"] == "required"  # type: ignore[index]
    listed = [{"id": stage.b64(approver.passkeys[0].credential_id), "type": "public-key"}]
    assert create["excludeCredentials"] == get["allowCredentials"] == listed
    assert [p["alg"] for p in create["pubKeyCredParams"]] == [-7, -257]  # type: ignore[attr-defined]

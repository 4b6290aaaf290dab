"""Envelopes, delegations and invocations as bytes: one spelling, and nothing else is read."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import BadSignature, LimitExceeded, Malformed, MalformedToken
from nomos.keys import SigningKey
from nomos.ucan.attenuate import attenuate
from nomos.ucan.cid import Link, cid_of, format_cid
from nomos.ucan.command import covers, parse_command
from nomos.ucan.dagcbor import decode, encode
from nomos.ucan.delegation import mint_delegation, parse_delegation
from nomos.ucan.envelope import DELEGATION_BYTES_MAX, INVOCATION_BYTES_MAX, VARSIG_HEADER, Kind, open_envelope
from nomos.ucan.invocation import PROOFS_MAX, parse_invocation, sign_invocation

if TYPE_CHECKING:
    from conftest import World

PARSERS = [parse_delegation, parse_invocation]


def _rewrap(token: bytes, signing_key: SigningKey, *, header: bytes = VARSIG_HEADER, tag: str | None = None) -> bytes:
    """The same payload, signed again under another header or tag."""
    [_, signed] = decode(token, bytes_max=INVOCATION_BYTES_MAX)  # type: ignore[misc]
    [(old_tag, payload)] = [(key, value) for key, value in signed.items() if key != "h"]  # type: ignore[union-attr]
    content = {"h": header, tag or old_tag: payload}
    return encode([signing_key.sign(encode(content)), content])  # type: ignore[dict-item]


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_malformed(token: bytes) -> None:
    for parse in PARSERS:
        with pytest.raises(Malformed):
            parse(token)


@given(st.data())
def test_damaged_tokens_are_malformed_or_no_longer_signed(world: World, data: st.DataObject) -> None:
    grant = world.grant()
    whole, parse = data.draw(st.sampled_from([(grant, parse_delegation), (world.sign([grant]), parse_invocation)]))
    damaged = bytearray(whole)
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        token = parse(bytes(damaged))  # type: ignore[operator]
    except Malformed:
        return
    with pytest.raises(BadSignature):
        token.check_signature()


@given(st.data())
def test_tokens_cut_short_or_with_a_tail_are_malformed(world: World, data: st.DataObject) -> None:
    grant = world.grant()
    length = data.draw(st.integers(0, len(grant) - 1))
    with pytest.raises(Malformed):
        parse_delegation(grant[:length])
    with pytest.raises(Malformed):
        parse_delegation(grant + data.draw(st.binary(min_size=1, max_size=4)))


json_like: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["iss", "prf", "h", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data())
def test_a_signed_payload_with_any_field_changed_raises_only_malformed(world: World, data: st.DataObject) -> None:
    field = data.draw(
        st.sampled_from(
            ["iss", "aud", "sub", "cmd", "pol", "exp", "nonce", "nbf", "meta", "args", "prf", "iat", "cause", "fct"]
        )
    )
    value = data.draw(json_like)
    for token, parse in (
        (world.raw_delegation(**{field: value}), parse_delegation),
        (world.raw_invocation(**{field: value}), parse_invocation),
    ):
        try:
            parse(token)  # type: ignore[operator]
        except Malformed:
            continue


def test_what_was_minted_is_what_is_read(world: World) -> None:
    token = mint_delegation(
        world.tenant,
        audience=world.agent.did,
        subject=world.tenant.did,
        command="/github/issues",
        policy=[["like", ".resource", "github:repo/acme/*"]],
        expires_at=world.now + 60,
        not_before=world.now,
        nonce=world.nonce,
        meta={"note": "x"},
    )
    read = parse_delegation(token)
    read.check_signature()
    assert (read.issuer, read.audience, read.subject) == (world.tenant.did, world.agent.did, world.tenant.did)
    assert (read.command, read.not_before, read.expires_at) == ("/github/issues", world.now, world.now + 60)
    assert (read.nonce, read.meta, read.cid, read.envelope.version) == (
        world.nonce,
        {"note": "x"},
        cid_of(token),
        "1.0.0",
    )


def test_what_was_signed_is_what_is_read(world: World) -> None:
    proofs = [cid_of(world.grant())]
    token = sign_invocation(
        world.agent,
        subject=world.tenant.did,
        command="/msg/send",
        arguments={"to": ["a"]},
        proofs=proofs,
        expires_at=world.now + 60,
        issued_at=world.now,
        nonce=world.nonce,
        meta={"note": "x"},
    )
    read = parse_invocation(token)
    read.check_signature()
    assert (read.issuer, read.subject, read.audience) == (world.agent.did, world.tenant.did, None)
    assert (read.command, read.arguments, read.proofs) == ("/msg/send", {"to": ["a"]}, tuple(proofs))
    assert (read.issued_at, read.expires_at, read.nonce, read.meta) == (
        world.now,
        world.now + 60,
        world.nonce,
        {"note": "x"},
    )
    caused = parse_invocation(world.raw_invocation(cause=Link(proofs[0])))
    assert caused.cause == proofs[0]


def test_upstreams_delegation_is_minted_again_byte_for_byte(world: World) -> None:
    fixtures = json.loads((world.vectors / "delegation.json").read_text())
    [case] = fixtures["valid"]
    payload = case["envelope"]["payload"]
    keys = {name: base64.b64decode(text) for name, text in fixtures["principals"].items()}
    issuer = SigningKey(keys["bob"].removeprefix(b"\x80\x26"))
    assert issuer.did == payload["iss"]
    token = mint_delegation(
        issuer,
        audience=payload["aud"],
        subject=payload["sub"],
        command=payload["cmd"],
        policy=payload["pol"],
        expires_at=payload["exp"],
        nonce=base64.b64decode(payload["nonce"]),
    )
    assert token == base64.b64decode(case["token"])
    assert format_cid(cid_of(token)) == case["cid"]
    parse_delegation(token).check_signature()


def test_golden_tokens_are_written_byte_for_byte(world: World) -> None:
    golden = json.loads((world.vectors / "golden.json").read_text())
    grant = world.grant()
    written = {
        "grant": grant,
        "cosigner_grant": world.grant(signing_key=world.cosigner, meta={"approval": "ap_" + "0" * 32}),
        "hand_over": attenuate(
            world.agent, [grant], audience=world.runner.did, expires_at=world.now + 30, nonce=world.nonce
        ),
        "invocation": world.sign([grant]),
    }
    assert {name: token.hex() for name, token in written.items()} == golden["tokens"]
    assert {name: format_cid(cid_of(token)) for name, token in written.items()} == golden["cids"]
    assert world.digest.hex() == golden["request_digest"]


def test_both_versions_are_read_and_no_other(world: World) -> None:
    for token, key, kind, parse in (
        (world.grant(), world.tenant, Kind.DELEGATION, parse_delegation),
        (world.sign([]), world.agent, Kind.INVOCATION, parse_invocation),
    ):
        candidate = _rewrap(token, key, tag=f"{kind.value}@1.0.0-rc.1")
        read = parse(candidate)  # type: ignore[operator]
        read.check_signature()
        assert read.envelope.version == "1.0.0-rc.1"
        assert read.cid != cid_of(token)
        for version in ("1.0.1", "1.0.0-rc.2", "1.0", "0.10.0", "1.0.0 ", ""):
            with pytest.raises(MalformedToken):
                parse(_rewrap(token, key, tag=f"{kind.value}@{version}"))  # type: ignore[operator]


def test_one_kind_is_not_read_as_the_other(world: World) -> None:
    with pytest.raises(MalformedToken):
        parse_invocation(world.grant())
    with pytest.raises(MalformedToken):
        parse_delegation(world.sign([]))
    with pytest.raises(MalformedToken):
        parse_delegation(_rewrap(world.sign([]), world.agent, tag="ucan/dlg@1.0.0"))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "3401ed01ed0113",
        "3401ed01ed01137100",
        "3401ed01ed01125f",  # another payload encoding
        "3401ec01ec01128024",  # ECDSA
        "3400ed01ed011371",  # another varsig version
    ],
)
def test_other_signature_headers_are_refused(world: World, header: str) -> None:
    with pytest.raises(MalformedToken):
        parse_delegation(_rewrap(world.grant(), world.tenant, header=bytes.fromhex(header)))


def test_other_shapes_of_an_envelope_are_refused(world: World) -> None:
    [signature, signed] = decode(world.grant(), bytes_max=INVOCATION_BYTES_MAX)  # type: ignore[misc]
    assert isinstance(signed, dict)
    header, payload = signed["h"], signed["ucan/dlg@1.0.0"]
    for shape in (
        [signature, signed, None],
        [signature],
        [signed, signature],
        {"0": signature, "1": signed},
        ["text", signed],
        [signature, {"h": header}],
        [signature, {"ucan/dlg@1.0.0": payload}],
        [signature, {**signed, "ucan/dlg@1.0.0-rc.1": payload}],
        [signature, {"h": header, "ucan/dlg@1.0.0": [payload]}],
        [signature, {"h": "text", "ucan/dlg@1.0.0": payload}],
        signature,
        None,
    ):
        with pytest.raises(MalformedToken):
            parse_delegation(encode(shape))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 3, 23, 24, 63, 65, 255, 256, 5000])
def test_a_signature_of_another_length_never_verifies(world: World, length: int) -> None:
    [_, signed] = decode(world.grant(), bytes_max=INVOCATION_BYTES_MAX)  # type: ignore[misc]
    token = encode([bytes(length), signed])
    delegation = parse_delegation(token)
    assert token[delegation.envelope.signed_at :] == encode(signed)
    with pytest.raises(BadSignature):
        delegation.check_signature()


def test_the_second_spelling_of_a_signature_is_refused(world: World) -> None:
    grant = world.grant()
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(grant[35:67], "little") + order
    forged = grant[:35] + scalar.to_bytes(32, "little") + grant[67:]
    with pytest.raises(BadSignature):
        parse_delegation(forged).check_signature()


@pytest.mark.parametrize("field", ["iss", "aud", "sub", "cmd", "pol", "exp", "nonce"])
def test_a_delegation_without_a_required_field_is_malformed(world: World, field: str) -> None:
    with pytest.raises(MalformedToken):
        parse_delegation(world.raw_delegation(drop=field))


@pytest.mark.parametrize("field", ["iss", "sub", "cmd", "args", "prf", "exp", "nonce"])
def test_an_invocation_without_a_required_field_is_malformed(world: World, field: str) -> None:
    with pytest.raises(MalformedToken):
        parse_invocation(world.raw_invocation(drop=field))


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"iat": 1},
        {"exp": -1},
        {"exp": 2**53},
        {"exp": 1.0},
        {"exp": True},
        {"exp": "1"},
        {"nbf": None},
        {"nonce": "text"},
        {"nonce": None},
        {"meta": None},
        {"meta": []},
        {"cmd": "/A"},
        {"cmd": "a"},
        {"cmd": None},
        {"aud": None},
        {"aud": "did:web:example"},
        {"sub": "did:key:z6Mk"},
        {"pol": None},
    ],
)
def test_fields_of_another_type_or_name_are_refused(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(MalformedToken):
        parse_delegation(world.raw_delegation(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"nbf": 1},
        {"sub": None},
        {"aud": None},
        {"prf": None},
        {"prf": [b"x"]},
        {"args": []},
        {"iat": None},
        {"cause": b"x"},
        {"pol": []},
    ],
)
def test_fields_that_an_invocation_does_not_have_are_refused(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(MalformedToken):
        parse_invocation(world.raw_invocation(**change))


def test_small_order_keys_are_refused_in_every_field(world: World) -> None:
    weak = "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP"  # 32 zero bytes: a point of order four
    for field in ("iss", "aud", "sub"):
        with pytest.raises(MalformedToken):
            parse_delegation(world.raw_delegation(**{field: weak}))
        with pytest.raises(MalformedToken):
            parse_invocation(world.raw_invocation(**{field: weak}))
    with pytest.raises(Malformed):
        world.grant(agent=weak)


def test_tokens_over_a_limit_are_refused_by_the_limits_name(world: World) -> None:
    for make, limit in (
        (lambda: parse_delegation(bytes(DELEGATION_BYTES_MAX + 1)), "delegation_bytes_max"),
        (lambda: parse_invocation(bytes(INVOCATION_BYTES_MAX + 1)), "invocation_bytes_max"),
        (lambda: open_envelope(bytes(INVOCATION_BYTES_MAX + 1), None), "invocation_bytes_max"),
        (lambda: world.raw_delegation(meta={"a": "x" * DELEGATION_BYTES_MAX}), "delegation_bytes_max"),
        (lambda: world.raw_invocation(meta={"a": "x" * INVOCATION_BYTES_MAX}), "invocation_bytes_max"),
        (lambda: parse_invocation(world.raw_invocation([b""] * (PROOFS_MAX + 1))), "proofs_max"),
        (lambda: world.sign([b""] * (PROOFS_MAX + 1)), "proofs_max"),
        (lambda: world.grant(nonce=bytes(65)), "nonce_bytes_max"),
        (lambda: parse_delegation(world.raw_delegation(nonce=bytes(65))), "nonce_bytes_max"),
        (lambda: world.grant(command="/" + "a" * 256), "command_length_max"),
    ):
        with pytest.raises(LimitExceeded) as refused:
            make()
        assert refused.value.limit == limit


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "did:key:x"},
        {"command": "issues"},
        {"nonce": "text"},
        {"now": -100},
        {"now": 2**53},
        {"digest": b"short"},
        {"resource": "\ud800"},
    ],
)
def test_minting_refuses_what_no_verifier_would_take(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        world.grant(**change)


def test_signing_refuses_a_proof_that_is_no_cid(world: World) -> None:
    with pytest.raises(MalformedToken):
        sign_invocation(
            world.agent, subject=world.tenant.did, command="/a", arguments={}, proofs=[b"x"], expires_at=1, nonce=b""
        )


@pytest.mark.parametrize("command", ["/", "/crud", "/crud/create", "/ほげ/ふが"])
def test_commands_of_the_specification_are_read(command: str) -> None:
    assert parse_command(command) == command


@pytest.mark.parametrize("command", ["", "crud", "/crud/", "//", "/a//b", "/Crud", "/a\n", "/a\u202eb", " /a"])
def test_other_texts_are_no_commands(command: str) -> None:
    with pytest.raises(MalformedToken):
        parse_command(command)


segments = st.lists(st.sampled_from(["crypto", "cryptocurrency", "sign", "a"]), max_size=4)


@given(segments, segments)
def test_a_command_covers_exactly_those_below_it(parent: list[str], child: list[str]) -> None:
    said = covers("/" + "/".join(parent), "/" + "/".join(child))
    assert said is (child[: len(parent)] == parent)

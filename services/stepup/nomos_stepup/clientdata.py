"""What the browser says about a ceremony: ``clientDataJSON``, read strictly (WebAuthn Level 3, section 5.8.1).

The authenticator signs a hash of these bytes, so they are as trustworthy as the browser of the approver. Refused here
because the verification library lets them pass: a member that occurs twice (two readers could see two challenges),
``crossOrigin: true`` and any ``topOrigin`` (the page ran inside a frame of somebody else, who can dress up what the
human sees), a challenge in another spelling. Members that this version does not know are allowed, as the specification
requires.
"""

from __future__ import annotations

import json
from typing import Final, NoReturn

import msgspec

from nomos.errors import ApprovalRefused, LimitExceeded, Malformed
from nomos_stepup.base64url import b64url

CLIENT_DATA_BYTES_MAX: Final = 4096
TYPE_CREATE: Final = "webauthn.create"
TYPE_GET: Final = "webauthn.get"


class ClientData(msgspec.Struct, frozen=True, kw_only=True):
    """The members that a decision depends on.

    Attributes:
        type: :data:`TYPE_CREATE` or :data:`TYPE_GET`.
        challenge: base64url, as it stands in the JSON.
        origin: of the page that called the authenticator.
        cross_origin: whether that page was embedded in another origin; absent is False.
        has_top_origin: whether a ``topOrigin`` member is there, with whatever value.
    """

    type: str
    challenge: str
    origin: str
    cross_origin: bool
    has_top_origin: bool


def parse_client_data(octets: bytes) -> ClientData:
    """Reads ``clientDataJSON``.

    Raises:
        LimitExceeded: over :data:`CLIENT_DATA_BYTES_MAX`.
        Malformed: not UTF-8, not one JSON object, a repeated member, or a member of another type.
    """
    if len(octets) > CLIENT_DATA_BYTES_MAX:
        raise LimitExceeded("CLIENT_DATA_BYTES_MAX", CLIENT_DATA_BYTES_MAX, len(octets))
    try:
        text = octets.decode("utf-8")
        members = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as e:
        raise Malformed("client data is not JSON", cause=str(e)) from e
    if not isinstance(members, dict):
        raise Malformed("client data is not a JSON object")
    cross_origin = members.get("crossOrigin", False)
    if not isinstance(cross_origin, bool):
        raise Malformed("crossOrigin in client data is not a boolean")
    return ClientData(
        type=_text(members, "type"),
        challenge=_text(members, "challenge"),
        origin=_text(members, "origin"),
        cross_origin=cross_origin,
        has_top_origin="topOrigin" in members,
    )


def check_client_data(client: ClientData, *, kind: str, challenge: bytes, origins: tuple[str, ...]) -> None:
    """Checks that a ceremony was the expected one, on a page of ours, for exactly ``challenge``.

    Args:
        client: the parsed client data.
        kind: :data:`TYPE_CREATE` or :data:`TYPE_GET`.
        challenge: computed by the service from what it keeps.
        origins: the allow-list.

    Raises:
        ApprovalRefused: anything differs.
    """
    if client.type != kind:
        raise ApprovalRefused(f"expected a passkey response of type {kind}")
    if client.challenge != b64url(challenge):
        raise ApprovalRefused("the passkey signed another challenge than the one for this request")
    if client.origin not in origins:
        raise ApprovalRefused("the passkey was used on an origin that is not allowed")
    if client.cross_origin or client.has_top_origin:
        raise ApprovalRefused("the passkey was used on a page inside a frame of another origin")


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise Malformed(f"client data has no text member {name}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")

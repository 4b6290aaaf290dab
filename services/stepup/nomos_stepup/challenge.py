"""What a passkey signs: the hash of exactly one request.

    challenge = SHA-256("nomos-stepup-v1" ‖ 0x00 ‖ salt ‖ SHA-256(canonical request))

The canonical request is JSON with sorted keys and no floats (a subset on which RFC 8785 and ``orjson`` agree), so that
anybody with the record in the log can compute the challenge again. The salt makes the challenge unpredictable to
whoever can guess the request; it is stored with the request and recorded.

The service keeps the request from the moment it was asked and computes from that; no later message adds to it.
Who may approve, and when, is decided in ``domain.py``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
import orjson

from nomos.errors import LimitExceeded, Malformed
from nomos.ids import is_id, parse_slug
from nomos.keys import parse_did
from nomos.log.assertion import approval_challenge
from nomos.servicemessages import APPROVALS_NEEDED_MAX, Quorum

CHALLENGE_BYTES: Final = 32
#: Canonical request in bytes; the arguments are bound by digest, so this is names and policy sentences.
REQUEST_BYTES_MAX: Final = 32_768
#: The arguments' text in bytes (UTF-8). More than this nobody reads, so nobody may approve it.
ARGS_TEXT_BYTES_MAX: Final = 131_072
#: Groups of approvers that one request can ask.
QUORUMS_MAX: Final = 8
#: Unix seconds; the year 2286, far inside what every calendar can print.
TIME_MAX: Final = 9_999_999_999

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
#: The values of ``nomos.catalogue.Risk``.
RiskName = Literal["read", "write", "destructive", "payment", "permission"]
_Time = Annotated[int, msgspec.Meta(ge=0, le=TIME_MAX)]


class ReasonPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy that asks for a human: its ``@id`` and its own sentence."""

    id: Annotated[str, msgspec.Meta(max_length=200)]
    description: Annotated[str, msgspec.Meta(max_length=2000)]


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a human releases with one signature. Each field is under the challenge.

    Attributes:
        v: version of this list of fields: 2 with ``quorums``, 1 without. Another list is another version.
        approval: id of the approval, so that one assertion can never release another.
        tenant: from the bus account of the asker, through policy.
        app: the application that the agent belongs to.
        agent: who asks.
        agent_did: the key that the cosigner delegation will be issued to.
        behalf: the person for whom the agent acts, where policy knows one; that person cannot approve.
        connection: whose credential will be used.
        action: ``github:repos.delete``.
        risk: the catalogue's class of the action.
        resource: ``github:repo/acme/site``.
        args_digest: ``nomos.request.request_digest`` of action, resource and arguments, hex.
        args_text_sha256: SHA-256 of the arguments' text that the human reads, hex.
        body_sha256: SHA-256 of the body that will be sent, hex, where it is known before the call.
        request: id of the request that was stopped.
        decision: id of the decision that stopped it.
        revision: policy revision of that decision.
        policy_set: hash of the policy set of that decision.
        policies: why a human is asked.
        needed: how many different approvers must sign.
        asked_at: Unix seconds.
        expires_at: Unix seconds; nothing is released at or after it.
        quorums: of which groups how many must sign, where a policy names groups; ``needed`` is the largest number.
    """

    v: Literal[1, 2]
    approval: str
    tenant: str
    app: str
    agent: str
    agent_did: Annotated[str, msgspec.Meta(max_length=200)]
    behalf: str | None
    connection: str
    action: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    risk: RiskName
    resource: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    args_digest: _Digest
    args_text_sha256: _Digest
    body_sha256: _Digest | None
    request: str
    decision: str
    revision: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    policy_set: Annotated[str, msgspec.Meta(max_length=200)]
    policies: Annotated[tuple[ReasonPolicy, ...], msgspec.Meta(max_length=64)]
    needed: Annotated[int, msgspec.Meta(ge=1, le=APPROVALS_NEEDED_MAX)]
    asked_at: _Time
    expires_at: _Time
    quorums: Annotated[tuple[Quorum, ...], msgspec.Meta(max_length=QUORUMS_MAX)] = ()

    @property
    def asked_of(self) -> tuple[Quorum, ...]:
        """What must be fulfilled, all of it."""
        return self.quorums or (Quorum(approvals=self.needed),)

    @property
    def requesters(self) -> tuple[str, ...]:
        """The names of those who ask, none of whom may approve."""
        return (self.agent,) if self.behalf is None else (self.agent, self.behalf)


def check_request(request: ApprovalRequest) -> None:
    """Checks every field, also of a request that was built in code and not decoded.

    Raises:
        LimitExceeded: the whole is too large.
        Malformed: a field over its bounds, a name that is no slug, an id or key of another form, or times out of order.
    """
    try:
        msgspec.convert(msgspec.to_builtins(request), type=ApprovalRequest)
    except msgspec.ValidationError as e:
        raise Malformed("a field of the approval request is out of bounds", cause=str(e)) from e
    groups = [one.group for one in request.quorums]
    if (request.v == 2) != bool(groups) or len(set(groups)) != len(groups):
        raise Malformed("a request asks groups in its second version, and each of them once")
    if groups and request.needed != max(one.approvals for one in request.quorums):
        raise Malformed("a request needs as many people as its largest group must give")
    for name, what in (
        *((group, "group") for group in groups if group),
        (request.tenant, "tenant"),
        (request.app, "app"),
        (request.agent, "agent"),
        (request.connection, "connection"),
        *(((request.behalf, "person"),) if request.behalf is not None else ()),
    ):
        parse_slug(name, what)
    for value, prefix in ((request.approval, "ap"), (request.request, "rq"), (request.decision, "dc")):
        if not is_id(value, prefix):
            raise Malformed(f"expected an id that starts with {prefix}_")
    parse_did(request.agent_did)
    if request.expires_at <= request.asked_at:
        raise Malformed("a request must expire after it was asked")
    canonical(request)


def canonical(request: ApprovalRequest) -> bytes:
    """The one spelling of ``request``: JSON, UTF-8, sorted keys, no spaces.

    Raises:
        LimitExceeded: it is over :data:`REQUEST_BYTES_MAX`.
        Malformed: a text cannot be written as UTF-8.
    """
    try:
        written = orjson.dumps(msgspec.to_builtins(request), option=orjson.OPT_SORT_KEYS)
    except (TypeError, UnicodeEncodeError) as e:
        raise Malformed("the request holds text that is not UTF-8", cause=str(e)) from e
    if len(written) > REQUEST_BYTES_MAX:
        raise LimitExceeded("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX, len(written))
    return written


def parse_request(stored: bytes) -> ApprovalRequest:
    """Reads a canonical request back.

    Raises:
        LimitExceeded: over :data:`REQUEST_BYTES_MAX`.
        Malformed: not a request, or not in its one spelling.
    """
    if len(stored) > REQUEST_BYTES_MAX:
        raise LimitExceeded("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX, len(stored))
    try:
        request = msgspec.json.decode(stored, type=ApprovalRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Malformed("not an approval request", cause=str(e)) from e
    check_request(request)
    if canonical(request) != stored:
        raise Malformed("the approval request is not in its canonical spelling")
    return request


def challenge_of(salt: bytes, request: ApprovalRequest) -> bytes:
    """The 32 bytes that a passkey must sign to release ``request``.

    Args:
        salt: :data:`SALT_BYTES` random bytes, stored with the request.
        request: the stored request.

    Raises:
        Malformed: the salt has another length.
    """
    return approval_challenge(salt, canonical(request))


def args_text_of(args: dict[str, object]) -> str:
    """The arguments as the human reads them and as they are stored: indented JSON with sorted keys.

    Line breaks inside a value are escaped by JSON, so a line of this text is always structure, never content.

    Args:
        args: JSON values without floats, checked by ``nomos.request.check_args``.

    Raises:
        LimitExceeded: over :data:`ARGS_TEXT_BYTES_MAX`. It is refused, not cut: what is not seen is not approved.
        Malformed: a value that JSON cannot write.
    """
    try:
        written = orjson.dumps(args, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    except (TypeError, UnicodeEncodeError, RecursionError) as e:
        raise Malformed("the arguments cannot be written as JSON", cause=str(e)) from e
    if len(written) > ARGS_TEXT_BYTES_MAX:
        raise LimitExceeded("ARGS_TEXT_BYTES_MAX", ARGS_TEXT_BYTES_MAX, len(written))
    return written.decode()


def text_sha256(text: str) -> str:
    """SHA-256 of ``text`` in UTF-8, as hex.

    Raises:
        Malformed: a lone surrogate, which UTF-8 cannot write.
    """
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as e:
        raise Malformed("text is not UTF-8", cause=str(e)) from e

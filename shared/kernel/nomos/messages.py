"""What agents and operators ask, and what they are answered, as types; how any message stands on the bus.

Everything on the wire is msgpack of one of these structs, or of one in :mod:`nomos.servicemessages`. Commands forbid
unknown fields; replies are tagged unions, so a caller matches on the type. No message here holds a tenant or an agent
that anybody trusts: both come from the subject that the server stamped (``tenant.<account>.req...``).

Times on the wire are integers: ``*_ms`` is Unix milliseconds, ``expires_at`` Unix seconds.
"""

from __future__ import annotations

import time
from typing import Final, Literal, TypeVar

import msgspec

from nomos.errors import Expired, LimitExceeded, Malformed, NomosError
from nomos.ids import is_id

#: A message's size on the bus, in bytes; the server's ``max_payload`` is 1 MiB.
MESSAGE_BYTES_MAX: Final = 900_000
#: How far in the future a deadline may lie, in milliseconds.
DEADLINE_AHEAD_MS_MAX: Final = 120_000
#: Bytes of one piece of an answer, or of a body on its way to the sanitizer.
PIECE_BYTES_MAX: Final = 262_144
#: Bytes of one piece of a content: a message of an agent is 256 KiB at most, with everything around it.
UPLOAD_PIECE_BYTES_MAX: Final = 196_608

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every command carries.

    Attributes:
        v: format version, 1.
        id: the request's id, chosen by the caller (``rq_`` and 32 hex digits); the correlation id in the log.
        deadline_ms: Unix milliseconds after which nobody may act on this command.
    """

    v: int
    id: str
    deadline_ms: int


class Authorize(Command, frozen=True, kw_only=True):
    """Asks for one action on one resource.

    Attributes:
        action: ``github:issues.list``.
        resource: ``github:repo/acme/site``.
        args: the action's arguments, literally as they would be sent.
        claims: what the agent says about itself; untrusted, seen by policies as ``context.claims``.
        connection: name of the connection whose credential is to be used; empty means the connector's own name.
        cosigner: the cosigner delegation of an approved step-up, or None.
    """

    action: str
    resource: str
    args: dict[str, object] = {}
    claims: dict[str, object] = {}
    connection: str = ""
    cosigner: bytes | None = None


class Invoke(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Uses a delegation.

    Attributes:
        invocation: the agent-signed UCAN invocation.
        proofs: its proofs, root first.
        answer: how much of the answer comes back at once. ``whole``: all of it, in one message. ``pieces``: what does
            not fit one message is read with :class:`ReadAnswer`. ``live``: the same, and where action and type of the
            answer allow it the first piece is there before the upstream has sent the last.
    """

    invocation: bytes
    proofs: list[bytes]
    answer: Literal["whole", "pieces", "live"] = "whole"


class ReadAnswer(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for the next piece of an answer, at the replica that has it.

    Attributes:
        answer: id of the answer, from :class:`Rest`.
        seq: number of the piece, from 1; asked for again, the piece before the next is given again.
        wait_ms: how long to wait for a piece that has not come; then an empty one is answered.
        leave: the agent reads no further, and no piece is wanted.
    """

    answer: str
    seq: int
    wait_ms: int = 0
    leave: bool = False


class UploadPiece(Command, frozen=True, kw_only=True):
    """Sends the next piece of a content that an invocation waits for, at the replica that waits.

    The last one makes the call, and is answered as the invocation would be.

    Attributes:
        upload: id of the upload, from :class:`Wanted`.
        seq: number of the piece, from 1; sent again, the piece before the next changes nothing.
        data: its bytes, :data:`UPLOAD_PIECE_BYTES_MAX` at most; none are only for a content of no bytes.
    """

    upload: str
    seq: int
    data: bytes


class Revoke(Command, frozen=True, kw_only=True):
    """Takes back the last delegation of a chain, root first, and all that was handed on from it."""

    chain: list[bytes]
    why: str = ""


class AwaitApproval(Command, frozen=True, kw_only=True):
    """Asks for the state of an approval; answered when it leaves ``pending`` or after ``wait_ms``."""

    approval: str
    wait_ms: int = 0


class ReadAudit(Command, frozen=True, kw_only=True):
    """Asks for the caller's tenant's records from ``from_tseq`` on, ``limit`` at most.

    Where there is none yet, the answer waits for the next one, ``wait_ms`` at most.
    """

    from_tseq: int = 0
    limit: int = 500
    wait_ms: int = 0


class PolicyRef(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that determined a decision: its ``@id`` and its own sentence (``@description``)."""

    id: str
    description: str = ""


class Allowed(msgspec.Struct, frozen=True, kw_only=True, tag="allow"):
    """The action may run: ``delegation`` is a UCAN 1.0 delegation to this agent for exactly this request."""

    decision: str
    delegation: bytes
    expires_at: int
    policies: list[PolicyRef] = []
    revision: int = 0


class Denied(msgspec.Struct, frozen=True, kw_only=True, tag="deny"):
    """The action may not run. ``policies`` are those that forbade it; empty when nothing permits it."""

    decision: str
    reason: str
    policies: list[PolicyRef] = []
    revision: int = 0


class StepUpRequired(msgspec.Struct, frozen=True, kw_only=True, tag="step_up"):
    """A human must approve first. ``url`` is where, empty when no page is served."""

    decision: str
    approval: str
    expires_at: int
    url: str = ""
    policies: list[PolicyRef] = []
    revision: int = 0


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rest of an answer is: its id, and the replica (last token of the subject) at which it is read."""

    answer: str
    at: str


class Returned(msgspec.Struct, frozen=True, kw_only=True, tag="ok"):
    """The upstream's answer after the sanitizer: ``removed`` was taken out, ``noted`` was found and left (ADR 0030).

    ``next_args`` are the arguments of the next page, where there is one and the action says how to ask for it.
    ``rest`` says where the body goes on behind ``body``; until its last piece, what was removed is not all known.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    removed: list[dict[str, object]]
    invocation: str
    noted: list[dict[str, object]] = []
    next_args: dict[str, object] | None = None
    rest: Rest | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True, tag="wanted"):
    """The invocation holds, and waits for the content that its arguments name; nothing is used up yet.

    Attributes:
        upload: the id under which its pieces are sent.
        at: the replica (token of the subject) to which they are sent.
    """

    upload: str
    at: str


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag="taken"):
    """The piece ``seq`` of a content is there; further ones are wanted."""

    seq: int


class AnswerPiece(msgspec.Struct, frozen=True, kw_only=True, tag="piece", omit_defaults=True):
    """One piece of an answer, cleaned; empty where none came in time. The last one comes when the end is recorded.

    ``removed`` and ``noted`` stand in the last one of a live answer: what was found in all of it.
    """

    seq: int
    body: bytes
    is_last: bool = False
    removed: list[dict[str, object]] = []
    noted: list[dict[str, object]] = []


class ApprovalStatus(msgspec.Struct, frozen=True, kw_only=True, tag="approval"):
    """State of an approval; ``cosigner`` is there while it is approved and unused.

    ``reason`` is what the person said who refused it or took it back.
    """

    approval: str
    state: str
    expires_at: int
    cosigner: bytes | None = None
    reason: str = ""


class Revoked(msgspec.Struct, frozen=True, kw_only=True, tag="revoked"):
    """The delegation ``cid`` is revoked, durably; it would have expired at ``until``, Unix seconds."""

    cid: str
    until: int


class AuditRecords(msgspec.Struct, frozen=True, kw_only=True, tag="records"):
    """Records of one tenant: their bytes, and for each the chain hash before it (32 bytes)."""

    records: list[bytes]
    prev: list[bytes]
    head_tseq: int


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """Any refusal or fault. ``code`` is stable (``nomos.errors``), ``detail`` is safe to show.

    ``retry_after_ms`` says when it is worth another try, milliseconds from now; 0 where nothing is known.
    """

    code: str
    detail: str = ""
    hint: str | None = None
    retry_after_ms: int = 0


class Admin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's command; verb, tenant and operator stand in the subject. ``params`` are checked by the verb."""

    v: int
    id: str
    deadline_ms: int
    params: dict[str, object] = {}


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What an operator's command gives back."""

    result: dict[str, object]


AuthorizeReply = Allowed | Denied | StepUpRequired | Failure
InvokeReply = Returned | Wanted | Failure
UploadReply = Returned | Taken | Failure
ReadReply = AnswerPiece | Failure
ApprovalReply = ApprovalStatus | Failure
RevokeReply = Revoked | Failure
AdminReply = Done | Failure

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """The message as msgpack."""
    return _encoder.encode(message)


class Decoder(msgspec.Struct, frozen=True):
    """Decodes one message type; every fault is :class:`Malformed`. Build once, use for every message."""

    decoder: msgspec.msgpack.Decoder[object]
    what: str

    @classmethod
    def of(cls, kind: object, what: str) -> Decoder:
        """A decoder for ``kind`` (a struct or a union of tagged structs), named ``what`` in errors."""
        return cls(msgspec.msgpack.Decoder(kind), what)

    def decode(self, payload: bytes) -> object:
        """Decodes ``payload``.

        Raises:
            LimitExceeded: it is over :data:`MESSAGE_BYTES_MAX`.
            Malformed: it is not msgpack of this type.
        """
        if len(payload) > MESSAGE_BYTES_MAX:
            raise LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(payload))
        try:
            return self.decoder.decode(payload)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError, OverflowError) as e:
            raise Malformed(f"not a {self.what} message", cause=str(e)) from e


def check_command(command: Command | Admin, now_ms: int) -> None:
    """Checks version, id and deadline of a command.

    Raises:
        Malformed: wrong version, or an id that is not one of ours.
        Expired: its deadline is over.
    """
    if command.v != 1:
        raise Malformed(f"expected message version 1, got {command.v}")
    if not is_id(command.id, "rq"):
        raise Malformed("request id must be rq_ and 32 hex digits")
    if command.deadline_ms <= now_ms:
        raise Expired("the deadline of this request is over")
    if command.deadline_ms > now_ms + DEADLINE_AHEAD_MS_MAX:
        raise LimitExceeded("DEADLINE_AHEAD_MS_MAX", DEADLINE_AHEAD_MS_MAX, command.deadline_ms - now_ms)


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def failure(error: NomosError) -> Failure:
    """The wire form of an error; its cause stays here."""
    return Failure(
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        retry_after_ms=error.retry_after_ms,
    )

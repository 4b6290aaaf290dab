"""What services ask one another, as types: minting, approvals, bodies to clean, facts. On the wire as of ``messages``.

Unlike in :mod:`nomos.messages`, a tenant or an agent that stands here is believed: the server lets only the services
that may ask publish to these subjects, and who asks has taken both from the subject of the request that it serves.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from nomos.messages import Failure, PolicyRef

#: How many people one request can ask for.
APPROVALS_NEEDED_MAX: Final = 8


class MintItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fresh allow of policy, with the decision event that minting journals together with the delegation.

    Attributes:
        agent_did: the agent's UCAN key, from identity.
        decision: the decision's envelope, msgpack.
    """

    tenant: str
    agent: str
    agent_did: str
    action: str
    resource: str
    connection: str
    digest: bytes
    decision: msgspec.Raw


class MintBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The allows of one tick of the policy service."""

    v: int
    items: list[MintItem]


class Minted(msgspec.Struct, frozen=True, kw_only=True, tag="minted"):
    """A delegation, its CID and its end (Unix seconds). Its event is durable."""

    delegation: bytes
    cid: str
    expires_at: int


class MintReply(msgspec.Struct, frozen=True, kw_only=True, tag="mints"):
    """One answer for each item, in order."""

    items: list[Minted | Failure]


class Quorum(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How many different people must approve; of one group of approvers, or of all (``group`` empty)."""

    approvals: Annotated[int, msgspec.Meta(ge=1, le=APPROVALS_NEEDED_MAX)]
    group: Annotated[str, msgspec.Meta(max_length=63)] = ""


class OpenApproval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Policy asks stepup to ask a human. Everything here was verified by policy."""

    v: int
    tenant: str
    agent: str
    agent_did: str
    app: str
    request: str
    action: str
    risk: str
    resource: str
    connection: str
    args: dict[str, object]
    digest: bytes
    decision: str
    revision: int
    policy_set: str
    policies: list[PolicyRef]
    quorums: list[Quorum] = []


class ApprovalOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The approval is durable and waits for a human."""

    approval: str
    expires_at: int
    url: str = ""


class ConsumeApproval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Policy spends an approved step-up; the second spending is refused."""

    v: int
    tenant: str
    agent: str
    approval: str
    connection: str
    digest: bytes
    request: str


class ApprovalConsumed(msgspec.Struct, frozen=True, kw_only=True, tag="consumed"):
    """The approval is spent, durably."""

    approval: str


class Sanitize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A body to clean. It holds no credential of the broker's: the proxy has taken that out before.

    ``pii`` are the classes of personal data that are removed for this tenant; on the wire only where there are some.
    """

    v: int
    tenant: str
    content_type: str
    headers: list[tuple[str, str]]
    body: bytes
    pii: list[str] = []


class Sanitized(msgspec.Struct, frozen=True, kw_only=True, tag="sanitized"):
    """The cleaned body, what was removed, and what was noted and left."""

    headers: list[tuple[str, str]]
    body: bytes
    removed: list[dict[str, object]]
    noted: list[dict[str, object]] = []


class OpenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A body to clean that comes in pieces; members as of :class:`Sanitize`.

    ``is_live`` asks for what can leave before the whole has come, where its type allows that.
    """

    v: int
    tenant: str
    content_type: str
    headers: list[tuple[str, str]]
    pii: list[str] = []
    is_live: bool = False


class BodyOpened(msgspec.Struct, frozen=True, kw_only=True, tag="body_opened"):
    """Pieces go to the replica ``at``. ``is_live`` says whether cleaned ones come back before the last was sent.

    ``is_lines``: no member of the body, and no event, goes over the end of a line.
    """

    body: str
    at: str
    is_live: bool
    is_lines: bool
    headers: list[tuple[str, str]]
    removed: list[dict[str, object]] = []


class BodyPiece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The next piece of a body, in order; ``seq`` counts from 1.

    ``step`` says what follows: ``more`` pieces, none (``last``), or that nobody wants the rest (``drop``). An empty
    piece asks for what is clean already.
    """

    v: int
    body: str
    seq: int
    data: bytes = b""
    step: Literal["more", "last", "drop"] = "more"


class CleanPiece(msgspec.Struct, frozen=True, kw_only=True, tag="clean_piece", omit_defaults=True):
    """What may leave. With ``has_more`` there is more of it already: ask with an empty piece.

    ``is_over``: this was the last of it; then ``headers``, ``removed`` and ``noted`` are those of the whole body.
    """

    data: bytes
    has_more: bool = False
    is_over: bool = False
    headers: list[tuple[str, str]] = []
    removed: list[dict[str, object]] = []
    noted: list[dict[str, object]] = []


class FeedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica asks for the facts from number ``since`` on."""

    v: int
    since: int


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the owner, in the order of ``rev``; ``event`` is its payload."""

    rev: int
    type: str
    tenant: str
    event: dict[str, object]


class FeedReply(msgspec.Struct, frozen=True, kw_only=True, tag="feed"):
    """Facts from ``since`` on. ``rev`` is where to ask next; ``complete`` says that nothing newer exists."""

    rev: int
    facts: list[Fact]
    complete: bool

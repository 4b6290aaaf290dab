"""The versions and drafts of one tenant's policies, as a fold over events.

A version is never changed or removed, and revisions rise by one. A draft is a text that is not in force; a version that
was made of it ends it.

A text that one event cannot hold stands in pieces (:mod:`nomos.policytext`), events of their own before the one that
names them. A replica keeps the pieces of the set in force and those that came since; so a piece that an event names
and that is not among these is written again.

Pure. Leaves to others: what may happen (``aggregate``), durability (``store``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from nomos.errors import MalformedRecord, NotFound
from nomos.events import DRAFT_DISCARDED, DRAFT_SAVED, POLICY_PIECE, POLICY_PUT
from nomos.ids import TenantId
from nomos.policytext import join_pieces, piece_name
from nomos_policy.policyset import text_sha256


class PolicyPiece(Struct, frozen=True, kw_only=True):
    """A piece of a text. Payload of ``policy.piece``."""

    sha256: str
    text: str

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        return msgspec.structs.asdict(self)


class PolicyPut(Struct, frozen=True, kw_only=True):
    """A text came in force. Payload of ``policy.put``.

    Attributes:
        tenant: whose policies.
        revision: from 1, without gaps.
        sha256: policy-set hash, hex.
        text: the exact text, where it stands in no pieces.
        actor: who did it.
        why: the reason given.
        at: Unix seconds.
        restores: the revision whose text this is, for a roll-back; else None.
        draft: the draft that came in force; else None.
        pieces: names of the text's pieces, in order; else None.
    """

    tenant: str
    revision: int
    sha256: str
    text: str = ""
    actor: str
    why: str
    at: int
    restores: int | None = None
    draft: str | None = None
    pieces: tuple[str, ...] | None = None

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        return _payload(self)


class DraftSaved(Struct, frozen=True, kw_only=True):
    """A text was kept. Payload of ``policy.draft-saved``; ``based_on`` is the revision that was in force then."""

    draft: str
    sha256: str
    text: str = ""
    actor: str
    why: str
    at: int
    based_on: int
    pieces: tuple[str, ...] | None = None

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        return _payload(self)


class DraftDiscarded(Struct, frozen=True, kw_only=True):
    """A draft was ended. Payload of ``policy.draft-discarded``."""

    draft: str
    actor: str
    why: str
    at: int

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        return msgspec.structs.asdict(self)


Event = PolicyPiece | PolicyPut | DraftSaved | DraftDiscarded
_TYPES: Final[dict[type[Event], str]] = {
    PolicyPiece: POLICY_PIECE,
    PolicyPut: POLICY_PUT,
    DraftSaved: DRAFT_SAVED,
    DraftDiscarded: DRAFT_DISCARDED,
}
_KINDS: Final = {name: kind for kind, name in _TYPES.items()}
#: Types of events that :func:`evolve` folds.
FOLDED: Final = frozenset(_KINDS)


class PolicyHistory(Struct, frozen=True, kw_only=True):
    """All versions of one tenant, oldest first, and the drafts that are there.

    Attributes:
        tenant: whose.
        versions: oldest first; use :meth:`text_of` for a version's text.
        drafts: by name.
        kept: the newest draft of each text that was ever saved, by the text's hash.
        pieces: every piece that was ever written, by name. Shared by all states of a fold: it only grows, and a name
            says what stands under it.
        live: names of the pieces that a replica has.
    """

    tenant: TenantId
    versions: tuple[PolicyPut, ...] = ()
    drafts: Mapping[str, DraftSaved] = {}
    kept: Mapping[str, DraftSaved] = {}
    pieces: dict[str, str] = msgspec.field(default_factory=dict)
    live: frozenset[str] = frozenset()

    @property
    def revision(self) -> int:
        """The revision in force; 0 before the first."""
        return len(self.versions)

    @property
    def in_force(self) -> PolicyPut | None:
        """The version in force; None means that nothing is permitted."""
        return self.versions[-1] if self.versions else None

    def version(self, revision: int) -> PolicyPut:
        """One version.

        Raises:
            NotFound: the tenant has no such revision.
        """
        if not 1 <= revision <= len(self.versions):
            raise NotFound(f"no revision {revision}; the newest is {len(self.versions)}")
        return self.versions[revision - 1]

    def draft(self, name: str) -> DraftSaved:
        """One draft.

        Raises:
            NotFound: the tenant has none of that name.
        """
        found = self.drafts.get(name)
        if found is None:
            raise NotFound("there is no such draft", hint="nomos policy draft list --tenant T")
        return found

    def text_of(self, one: PolicyPut | DraftSaved) -> str:
        """The text of a version or draft.

        Raises:
            MalformedRecord: a piece of it is not there.
        """
        return one.text if one.pieces is None else join_pieces(one.pieces, self.pieces)

    def listing(self, *, newest: int = 100) -> list[dict[str, object]]:
        """The newest versions without their texts, newest first."""
        recent = self.versions[::-1][:newest]
        return [
            {name: value for name, value in put.payload().items() if name not in ("text", "pieces")} for put in recent
        ]


def evolve(state: PolicyHistory, event: Event) -> PolicyHistory:
    """The history after an event.

    Raises:
        MalformedRecord: another tenant's event, a gap or step back in the revisions, a hash that is not the text's,
            or a piece that is not there.
    """
    match event:
        case PolicyPiece(sha256=name, text=text):
            if piece_name(text) != name:
                raise MalformedRecord("the name of a piece is not its hash")
            state.pieces[name] = text
            return msgspec.structs.replace(state, live=state.live | {name})
        case DraftSaved():
            _check_text(state, event)
            drafts = {**state.drafts, event.draft: event}
            return msgspec.structs.replace(state, drafts=drafts, kept={**state.kept, event.sha256: event})
        case DraftDiscarded(draft=name):
            drafts = {one: draft for one, draft in state.drafts.items() if one != name}
            return msgspec.structs.replace(state, drafts=drafts)
        case PolicyPut():
            if event.tenant != state.tenant:
                raise MalformedRecord("the event belongs to another tenant")
            if event.revision != state.revision + 1:
                raise MalformedRecord(f"expected revision {state.revision + 1}, got {event.revision}")
            _check_text(state, event)
            return msgspec.structs.replace(
                state,
                versions=(*state.versions, event),
                drafts={name: draft for name, draft in state.drafts.items() if name != event.draft},
                live=frozenset(event.pieces or ()),
            )


def type_of(event: Event) -> str:
    """The event's type in the log."""
    return _TYPES[type(event)]


def parse_event(kind: str, payload: object) -> Event:
    """Reads an event of this aggregate; fields that a later version added are passed over.

    Raises:
        MalformedRecord: not such a payload.
    """
    try:
        return msgspec.convert(payload, _KINDS[kind])
    except (KeyError, msgspec.ValidationError) as error:
        raise MalformedRecord(f"the event is no {kind}", cause=str(error)) from error


def parse_policy_put(payload: object) -> PolicyPut:
    """Reads the payload of ``policy.put``; fields that a later version added are passed over.

    Raises:
        MalformedRecord: not such a payload.
    """
    try:
        return msgspec.convert(payload, PolicyPut)
    except msgspec.ValidationError as error:
        raise MalformedRecord("the event is no policy.put", cause=str(error)) from error


def _check_text(state: PolicyHistory, event: PolicyPut | DraftSaved) -> None:
    if event.pieces is not None and not state.live.issuperset(event.pieces):
        raise MalformedRecord("a piece of the text was not written before it")
    if event.sha256 != text_sha256(state.text_of(event)):
        raise MalformedRecord("the policy-set hash is not that of the text")


def _payload(event: PolicyPut | DraftSaved) -> dict[str, object]:
    payload = msgspec.structs.asdict(event)
    if event.pieces is None:
        del payload["pieces"]
    else:
        del payload["text"]
        payload["pieces"] = list(event.pieces)
    if payload.get("draft", "") is None:
        del payload["draft"]
    return payload

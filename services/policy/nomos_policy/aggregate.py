"""What may happen to one tenant's policies: which text may become the next version, or be kept as a draft.

Going back is a new version with an old text, so revisions only rise and a replica can refuse any set that is older than
one it has seen. Activating a draft makes its text the next version.

Rules, in order: a writer that names the revision it edited loses to one that came before; a reason is always given;
the text compiles without fault against the catalogue of now, also when it is an old text; a text that is in force
already makes no version.

Pure: time is an argument. Leaves to others: who may write (``handlers``), durability (``store``), the fold
(``history``).

Source: rules "Cedar": a policy change is confirmed, bundles never roll back.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from nomos.errors import Conflict, LimitExceeded, Malformed
from nomos.ids import OperatorId, parse_slug
from nomos.policytext import PIECE_BYTES_MAX, cut_text, is_one_event, piece_name
from nomos_policy.history import DraftDiscarded, DraftSaved, Event, PolicyHistory, PolicyPiece, PolicyPut
from nomos_policy.policyset import compile_policies
from nomos_policy.vocabulary import Vocabulary

#: Characters of the reason for a change.
WHY_LENGTH_MAX: Final = 500
#: Versions of one tenant.
REVISIONS_MAX: Final = 100_000
#: Drafts of one tenant at once.
DRAFTS_MAX: Final = 50
#: Pieces that may have come since the set in force; more is no edit of a set.
PIECES_MAX: Final = 2_000


class PutPolicySet(Struct, frozen=True, kw_only=True, tag="put"):
    """Puts a text in force.

    Attributes:
        text: Cedar policies.
        actor: the operator, from the bus subject.
        why: the operator's reason.
        expected_revision: the revision that was edited, or None to write whatever is in force.
    """

    text: str
    actor: OperatorId
    why: str
    expected_revision: int | None = None


class RollBack(Struct, frozen=True, kw_only=True, tag="roll_back"):
    """Puts the text of an earlier revision in force again, as a new version.

    Attributes:
        to_revision: whose text.
        actor: the operator, from the bus subject.
        why: the operator's reason.
        expected_revision: the revision that is thought to be in force, or None.
    """

    to_revision: int
    actor: OperatorId
    why: str
    expected_revision: int | None = None


class Activate(Struct, frozen=True, kw_only=True, tag="activate"):
    """Puts a draft in force.

    Attributes:
        draft: its name.
        actor: the operator, from the bus subject.
        why: the operator's reason; empty for the draft's own.
        expected_revision: the revision that is thought to be in force; None for the one that the draft was made from.
        expected_sha256: of the draft that was looked at; None for whatever it holds.
    """

    draft: str
    actor: OperatorId
    why: str
    expected_revision: int | None = None
    expected_sha256: str | None = None


class SaveDraft(Struct, frozen=True, kw_only=True, tag="save_draft"):
    """Keeps a text as a draft, in place of one of that name.

    Attributes:
        draft: its name.
        text: Cedar policies.
        actor: the operator, from the bus subject.
        why: what it is for.
        expected_sha256: of the draft that was edited; empty where none of that name may be there; None for any.
    """

    draft: str
    text: str
    actor: OperatorId
    why: str
    expected_sha256: str | None = None


class DiscardDraft(Struct, frozen=True, kw_only=True, tag="discard_draft"):
    """Ends a draft.

    Attributes:
        draft: its name.
        actor: the operator, from the bus subject.
        why: the operator's reason.
    """

    draft: str
    actor: OperatorId
    why: str


Command = PutPolicySet | RollBack | Activate | SaveDraft | DiscardDraft


def decide(state: PolicyHistory, command: Command, *, vocabulary: Vocabulary, now_seconds: int) -> tuple[Event, ...]:
    """What a command makes happen. Compiles the text: run it in a thread.

    Args:
        state: the tenant's versions and drafts.
        command: the order.
        vocabulary: the schema of the catalogue in force.
        now_seconds: Unix time.

    Returns:
        One event, after the pieces that it names; none when the text is in force, or kept, already.

    Raises:
        Conflict: another revision is in force, or another draft there, than the command expects.
        NotFound: no revision to roll back to, or no draft.
        MalformedPolicy, LimitExceeded, Malformed: the text, the reason or the name is not accepted.
    """
    match command:
        case PutPolicySet(text=text):
            return _put(state, command, text, why=command.why, vocabulary=vocabulary, now_seconds=now_seconds)
        case RollBack(to_revision=revision):
            text = state.text_of(state.version(revision))
            return _put(state, command, text, why=command.why, vocabulary=vocabulary, now_seconds=now_seconds)
        case Activate(draft=name):
            draft = state.draft(name)
            if command.expected_sha256 not in (None, draft.sha256):
                raise Conflict(f"the draft {name} is another than the one that was looked at")
            if command.expected_revision is None and draft.based_on != state.revision:
                raise Conflict(
                    f"the draft {name} was made from revision {draft.based_on}, and {state.revision} is in force",
                    hint=f"nomos policy diff, and then --if-revision {state.revision}",
                )
            return _put(
                state,
                command,
                state.text_of(draft),
                why=command.why or draft.why,
                vocabulary=vocabulary,
                now_seconds=now_seconds,
            )
        case SaveDraft():
            return _save(state, command, vocabulary, now_seconds)
        case DiscardDraft(draft=name):
            state.draft(name)
            return (DraftDiscarded(draft=name, actor=command.actor, why=checked_why(command.why), at=now_seconds),)


def decide_pieces(state: PolicyHistory, texts: tuple[str, ...]) -> tuple[PolicyPiece, ...]:
    """The pieces among ``texts`` that a replica does not have: what has to be written before they are named.

    Raises:
        LimitExceeded: a piece is too long for an event, or too many have come since the set in force.
    """
    new: dict[str, PolicyPiece] = {}
    for text in texts:
        if not is_one_event(text):
            raise LimitExceeded("bytes of a piece of a policy text", PIECE_BYTES_MAX)
        name = piece_name(text)
        if name not in state.live:
            new[name] = PolicyPiece(sha256=name, text=text)
    if len(new) + len(state.live) > PIECES_MAX:
        raise LimitExceeded("pieces since the set in force", PIECES_MAX, len(new) + len(state.live))
    return tuple(new.values())


def checked_why(why: str) -> str:
    """The reason for a change, without blanks around it.

    Raises:
        Malformed: none, or not one line of printable text.
        LimitExceeded: over :data:`WHY_LENGTH_MAX` characters.
    """
    reason = why.strip()
    if not reason:
        raise Malformed("a policy change needs a reason")
    if len(reason) > WHY_LENGTH_MAX:
        raise LimitExceeded("length of the reason", WHY_LENGTH_MAX, len(reason))
    if not reason.isprintable():
        raise Malformed("the reason must be one line of printable text")
    return reason


def _put(
    state: PolicyHistory,
    command: PutPolicySet | RollBack | Activate,
    text: str,
    *,
    why: str,
    vocabulary: Vocabulary,
    now_seconds: int,
) -> tuple[Event, ...]:
    if command.expected_revision is not None and command.expected_revision != state.revision:
        raise Conflict(f"revision {state.revision} is in force, expected {command.expected_revision}")
    if state.revision >= REVISIONS_MAX:
        raise LimitExceeded("revisions of a tenant", REVISIONS_MAX)
    reason = checked_why(why)
    compiled = compile_policies(text, vocabulary, revision=state.revision + 1)
    draft = command.draft if isinstance(command, Activate) else None
    if state.in_force is not None and state.in_force.sha256 == compiled.sha256:
        return ()
    new, names = _pieces(state, text)
    put = PolicyPut(
        tenant=state.tenant,
        revision=compiled.revision,
        sha256=compiled.sha256,
        text=text if names is None else "",
        actor=command.actor,
        why=reason,
        at=now_seconds,
        restores=command.to_revision if isinstance(command, RollBack) else None,
        draft=draft,
        pieces=names,
    )
    return (*new, put)


def _save(state: PolicyHistory, command: SaveDraft, vocabulary: Vocabulary, now_seconds: int) -> tuple[Event, ...]:
    name = parse_slug(command.draft, "draft")
    there = state.drafts.get(name)
    expected = command.expected_sha256
    if expected is not None and expected != ("" if there is None else there.sha256):
        raise Conflict(f"the draft {name} is another than the one that was edited")
    if there is None and len(state.drafts) >= DRAFTS_MAX:
        raise LimitExceeded("drafts of a tenant", DRAFTS_MAX)
    reason = checked_why(command.why)
    compiled = compile_policies(command.text, vocabulary)
    if there is not None and (there.sha256, there.based_on) == (compiled.sha256, state.revision):
        return ()
    new, names = _pieces(state, command.text)
    saved = DraftSaved(
        draft=name,
        sha256=compiled.sha256,
        text=command.text if names is None else "",
        actor=command.actor,
        why=reason,
        at=now_seconds,
        based_on=state.revision,
        pieces=names,
    )
    return (*new, saved)


def _pieces(state: PolicyHistory, text: str) -> tuple[tuple[PolicyPiece, ...], tuple[str, ...] | None]:
    """The pieces to write for a text, and the names of all of its pieces; None where one event holds it."""
    if is_one_event(text):
        return (), None
    pieces = cut_text(text)
    return decide_pieces(state, pieces), tuple(piece_name(one) for one in pieces)

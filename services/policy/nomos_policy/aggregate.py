"""The versions of one tenant's policies: which text may become the next one, and which is in force.

A version is never changed or removed. Going back is a new version with an old text, so revisions only rise and a
replica can refuse any set that is older than one it has seen.

Rules, in order: a writer that names the revision it edited loses to one that came before; a reason is always given;
the text compiles without fault against the catalogue of now, also when it is an old text; a text that is in force
already makes no version.

Pure: time is an argument. Leaves to others: who may write (``handlers``), durability (``store``).

Source: rules "Cedar": a policy change is confirmed, bundles never roll back.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos.ids import OperatorId, TenantId
from nomos_policy.policyset import compile_policies, text_sha256
from nomos_policy.vocabulary import Vocabulary

#: Characters of the reason for a change.
WHY_LENGTH_MAX: Final = 500
#: Versions of one tenant.
REVISIONS_MAX: Final = 100_000


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


class PolicyPut(Struct, frozen=True, kw_only=True):
    """A text came in force. Payload of ``policy.put``.

    Attributes:
        tenant: whose policies.
        revision: from 1, without gaps.
        sha256: policy-set hash, hex.
        text: the exact text.
        actor: who did it.
        why: the reason given.
        at: Unix seconds.
        restores: the revision whose text this is, for a roll-back; else None.
    """

    tenant: str
    revision: int
    sha256: str
    text: str
    actor: str
    why: str
    at: int
    restores: int | None = None

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        return msgspec.structs.asdict(self)


class PolicyHistory(Struct, frozen=True, kw_only=True):
    """All versions of one tenant, oldest first."""

    tenant: TenantId
    versions: tuple[PolicyPut, ...] = ()

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

    def listing(self, *, newest: int = 100) -> list[dict[str, object]]:
        """The newest versions without their texts, newest first."""
        recent = self.versions[::-1][:newest]
        return [{name: value for name, value in put.payload().items() if name != "text"} for put in recent]


def decide(
    state: PolicyHistory, command: PutPolicySet | RollBack, *, vocabulary: Vocabulary, now_seconds: int
) -> tuple[PolicyPut, ...]:
    """What a command makes happen. Compiles the text: run it in a thread.

    Args:
        state: the tenant's versions.
        command: the order.
        vocabulary: the schema of the catalogue in force.
        now_seconds: Unix time.

    Returns:
        One event; none when the text is in force already.

    Raises:
        Conflict: another revision is in force than the command expects.
        NotFound: no revision to roll back to.
        MalformedPolicy, LimitExceeded, Malformed: the text or the reason is not accepted.
    """
    if command.expected_revision is not None and command.expected_revision != state.revision:
        raise Conflict(f"revision {state.revision} is in force, expected {command.expected_revision}")
    if state.revision >= REVISIONS_MAX:
        raise LimitExceeded("revisions of a tenant", REVISIONS_MAX)
    why = checked_why(command.why)
    restores = command.to_revision if isinstance(command, RollBack) else None
    text = state.version(command.to_revision).text if isinstance(command, RollBack) else command.text
    compiled = compile_policies(text, vocabulary, revision=state.revision + 1)
    if state.in_force is not None and state.in_force.text == text:
        return ()
    return (
        PolicyPut(
            tenant=state.tenant,
            revision=compiled.revision,
            sha256=compiled.sha256,
            text=text,
            actor=command.actor,
            why=why,
            at=now_seconds,
            restores=restores,
        ),
    )


def evolve(state: PolicyHistory, event: PolicyPut) -> PolicyHistory:
    """The history after an event.

    Raises:
        MalformedRecord: another tenant's event, a gap or step back in the revisions, or a hash that is not the text's.
    """
    if event.tenant != state.tenant:
        raise MalformedRecord("the event belongs to another tenant")
    if event.revision != state.revision + 1:
        raise MalformedRecord(f"expected revision {state.revision + 1}, got {event.revision}")
    if event.sha256 != text_sha256(event.text):
        raise MalformedRecord("the policy-set hash is not that of the text")
    return PolicyHistory(tenant=state.tenant, versions=(*state.versions, event))


def parse_policy_put(payload: object) -> PolicyPut:
    """Reads the payload of ``policy.put``; fields that a later version added are passed over.

    Raises:
        MalformedRecord: not such a payload.
    """
    try:
        return msgspec.convert(payload, PolicyPut)
    except msgspec.ValidationError as error:
        raise MalformedRecord("the event is no policy.put", cause=str(error)) from error


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

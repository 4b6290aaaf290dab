"""One policy of a tenant, read from its own text: id, sentence, scope, and how it depends on a human's approval.

Decides what a policy may look like beyond Cedar's grammar: every policy has an ``@id``; ``@unattended`` stands only
on a permit that names its actions; no policy grants less with a human's approval than without (anti-monotone in
``context.cosigned``), because then an agent would gain by not asking. Leaves types to validation (``policyset``).

Source: Cedar JSON policy format (EST).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import cedarpy
import orjson
from msgspec import Struct

from nomos.catalogue import Risk
from nomos.errors import Malformed, MalformedPolicy
from nomos.ids import parse_slug
from nomos.servicemessages import APPROVALS_NEEDED_MAX, Quorum
from nomos_policy.guard import Fragment
from nomos_policy.polarity import context_reads, cosigned_polarity
from nomos_policy.slicing import EntityUid, Head, Scope

#: Characters of ``@description`` and of the reason in ``@unattended``.
ANNOTATION_LENGTH_MAX: Final = 500
#: Ids of the platform's own rules begin so; a tenant's policy cannot.
PLATFORM_PREFIX: Final = "nomos:"
#: The rule named when a human is asked because nothing else was said.
HIGH_STAKES_ID: Final = "nomos:high-stakes"
HIGH_STAKES_DESCRIPTION: Final = "destructive, payment and permission actions need a human's approval"
#: Version of what the platform adds to a tenant's text; decisions name it so that a replay is exact.
PLATFORM_VERSION: Final = "high-stakes/1"

_HIGH_STAKES_GROUPS: Final = ", ".join(f'Action::"risk:{risk.value}"' for risk in Risk if risk.is_high_stakes)
#: Added to every permit that is not ``@unattended``. See docs/adr/0003-high-stakes-by-default.md.
HIGH_STAKES_CLAUSE: Final = f" unless {{ action in [{_HIGH_STAKES_GROUPS}] && !context.cosigned }}"

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")

Effect = Literal["permit", "forbid"]


class Policy(Struct, frozen=True, kw_only=True):
    """A tenant's policy.

    Attributes:
        id: its ``@id``.
        description: its ``@description``, or empty.
        effect: permit or forbid.
        unattended: the reason in ``@unattended``, or None.
        text: exactly as it stands in the set.
        line: of its first token.
        column: of its first token.
        head: whom, which actions and what it is about.
        reads_cosigned: whether its result can depend on ``context.cosigned``.
        anti_monotone: whether it may grant less with an approval than without.
        reads: names of the context's attributes that its conditions read; None for possibly any.
        quorum: whose approval it wants, where it asks for one: ``@approvals`` and ``@approvers``.
    """

    id: str
    description: str
    effect: Effect
    unattended: str | None
    text: str
    line: int
    column: int
    head: Head
    reads_cosigned: bool
    anti_monotone: bool
    reads: frozenset[str] | None
    quorum: Quorum

    @property
    def effective_text(self) -> str:
        """What the engine evaluates: the text, and for an attended permit the high-stakes clause."""
        if self.effect == "forbid" or self.unattended is not None:
            return self.text
        return self.text.removesuffix(";") + "\n" + HIGH_STAKES_CLAUSE + ";"


def parse_policy(fragment: Fragment) -> Policy:
    """Reads one policy.

    Args:
        fragment: from :func:`nomos_policy.guard.split_policies`, so within every limit.

    Raises:
        MalformedPolicy: not one policy of Cedar, a template, no ``@id``, or annotations that break a rule.
            The detail names the policy and its position.
    """
    est = _est(fragment)
    notes = _annotations(est)
    where = f"line {fragment.line}, column {fragment.column}"
    name = _policy_id(notes, where)
    effect: Effect = "forbid" if est.get("effect") == "forbid" else "permit"
    head = parse_head(est)
    unattended = _unattended(notes, effect, head, f"policy {name} ({where})")
    description = notes.get("description") or ""
    if len(description) > ANNOTATION_LENGTH_MAX:
        raise MalformedPolicy(f"policy {name} ({where}): @description is over {ANNOTATION_LENGTH_MAX} characters")
    polarity = cosigned_polarity(est["conditions"])
    return Policy(
        id=name,
        description=description,
        effect=effect,
        unattended=unattended,
        text=fragment.text,
        line=fragment.line,
        column=fragment.column,
        head=head,
        reads_cosigned=bool(polarity),
        anti_monotone=bool(polarity - {1 if effect == "permit" else -1}),
        reads=context_reads(est["conditions"]),
        quorum=_quorum(notes, f"policy {name} ({where})"),
    )


def parse_head(est: Mapping[str, object]) -> Head:
    """The head of one policy.

    Args:
        est: the policy in Cedar's JSON policy format.

    Raises:
        MalformedPolicy: an operator that is not Cedar's, or a template's slot.
    """
    return Head(principal=_scope(est["principal"]), actions=_actions(est["action"]), resource=_scope(est["resource"]))


def read_roughly(fragment: Fragment) -> tuple[str, Effect | None]:
    """Id and effect of a policy that :func:`parse_policy` refused: empty and None where they cannot be known."""
    try:
        est = _est(fragment)
    except MalformedPolicy:
        return "", None
    return (_annotations(est).get("id") or "")[:64], "forbid" if est.get("effect") == "forbid" else "permit"


def _est(fragment: Fragment) -> dict[str, object]:
    where = f"line {fragment.line}, column {fragment.column}"
    try:
        parsed = orjson.loads(cedarpy.policies_to_json_str(fragment.text))
    except orjson.JSONDecodeError as error:
        raise MalformedPolicy(f"policy at {where} nests too deep") from error
    except ValueError as error:
        raise MalformedPolicy(f"policy at {where}: {str(error)[:300]}") from error
    if parsed["templates"]:
        raise MalformedPolicy(f"policy at {where} is a template; name the principal and resource instead of a slot")
    found: list[dict[str, object]] = list(parsed["staticPolicies"].values())
    if len(found) != 1:
        raise MalformedPolicy(f"text at {where} is not one policy")
    return found[0]


def _annotations(est: dict[str, object]) -> dict[str, str | None]:
    found = est.get("annotations")
    return dict(found) if isinstance(found, dict) else {}


def _policy_id(notes: dict[str, str | None], where: str) -> str:
    name = notes.get("id")
    if not name:
        raise MalformedPolicy(f"policy at {where} has no @id", hint='write @id("a-name") before permit or forbid')
    if _ID.fullmatch(name) is None:
        raise MalformedPolicy(f"policy at {where}: @id must be 1 to 64 letters, digits and _.:/-")
    if name.startswith(PLATFORM_PREFIX):
        raise MalformedPolicy(f"policy at {where}: ids that begin with {PLATFORM_PREFIX} belong to the platform")
    return name


def _unattended(notes: dict[str, str | None], effect: Effect, head: Head, who: str) -> str | None:
    if "unattended" not in notes:
        return None
    reason = notes["unattended"] or ""
    if not reason.strip() or len(reason) > ANNOTATION_LENGTH_MAX:
        raise MalformedPolicy(f"{who}: @unattended needs a reason of at most {ANNOTATION_LENGTH_MAX} characters")
    if effect == "forbid":
        raise MalformedPolicy(f"{who}: @unattended stands only on a permit")
    if head.actions is None:
        raise MalformedPolicy(f"{who}: an @unattended permit must name its actions after the word action")
    return reason


def _quorum(notes: dict[str, str | None], who: str) -> Quorum:
    number = notes.get("approvals", "1") or ""
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= APPROVALS_NEEDED_MAX):
        raise MalformedPolicy(f"{who}: @approvals must be a number from 1 to {APPROVALS_NEEDED_MAX}")
    if "approvers" not in notes:
        return Quorum(approvals=int(number))
    try:
        return Quorum(approvals=int(number), group=parse_slug(notes["approvers"] or "", "group"))
    except Malformed as error:
        raise MalformedPolicy(f"{who}: @approvers must name a group: {error.detail}") from error


def _scope(head: object) -> Scope:
    if not isinstance(head, dict) or head["op"] == "All":
        return Scope()
    match head["op"]:
        case "==":
            return Scope(equal=_uid(head.get("entity")))
        case "in":
            return Scope(within=_uid(head.get("entity")))
        case "is":
            inner = head.get("in")
            return Scope(type=str(head["entity_type"]), within=None if inner is None else _uid(inner.get("entity")))
        case unknown:
            raise MalformedPolicy(f"unknown head {str(unknown)[:20]!r}")


def _actions(head: object) -> frozenset[EntityUid] | None:
    if not isinstance(head, dict) or head["op"] == "All":
        return None
    entities = [head["entity"]] if "entity" in head else head["entities"]
    return frozenset(map(_uid, entities))


def _uid(entity: Mapping[str, str] | None) -> EntityUid:
    if entity is None:
        raise MalformedPolicy("the head of a template has no entity")
    return (entity["type"], entity["id"])

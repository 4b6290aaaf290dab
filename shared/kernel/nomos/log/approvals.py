"""What the log proves of people's approvals: enrolled passkeys signed exactly what was asked, before it was used.

Decides, over the records of one log or one tenant in order:

1. A request for approval is recorded with the salt and the text that people read; the text is the one that the request
   binds.
2. Each signature on it verifies (:mod:`nomos.log.assertion`), and its challenge is the hash of exactly that request.
3. The key that signed was enrolled by that approver before, in that tenant, and neither revoked nor was the approver
   removed; nobody signs twice; who asks does not sign; the time is not over. A right that is taken away while a
   signature is judged may be recorded first: for :data:`RACE_SECONDS` of the log's time such a signature counts.
4. An approval is used once, by the agent that asked, after as many have signed as were needed, of the groups that were
   asked, before its time is over; a signature counts for a group only of who was in it.
5. A decision that counts on a person (``cosigned``) follows the use of an approval of exactly its request.

Only the services whose business it is may say these things: approvals come from ``stepup``, decisions from ``policy``
and ``minting``.

:func:`read_approvals` looks at each record alone, so it can run in parallel; :class:`Approvals` joins what it found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from nomos import events
from nomos.errors import BadSignature, Malformed, MalformedRecord
from nomos.log.assertion import Assertion, approval_challenge, decode_base64url, verify_assertion
from nomos.log.record import Record, parse_record, parse_ts
from nomos.log.report import Tally, Verdict

_STEPUP: Final = "stepup"
#: Minting records an allow together with the delegation that it signs for it.
_DECIDERS: Final = ("policy", "minting")
_ENDS: Final = frozenset({events.APPROVAL_DENIED, events.APPROVAL_EXPIRED, events.APPROVAL_CANCELLED})
#: Types of records that are read for approvals; and the text without which no decision counts on one.
TYPES: Final = frozenset(
    {
        events.APPROVAL_REQUESTED,
        events.APPROVAL_APPROVED,
        events.APPROVAL_CONSUMED,
        events.PASSKEY_ENROLLED,
        events.PASSKEY_REVOKED,
        events.APPROVER_REMOVED,
        events.APPROVER_GROUPED,
        *_ENDS,
    }
)
COSIGNED: Final = b'"cosigned":true'


#: How long judging a signature may take; by so much the record of a withdrawn right can come before it.
RACE_SECONDS: Final = 30
_MICROSECONDS: Final = 1_000_000


class Asked(NamedTuple):
    """A request for approval."""

    approval: str
    challenge: bytes
    agent: str
    behalf: str | None
    connection: str
    digest: str
    #: Group (empty: everybody) and how many of it.
    quorums: tuple[tuple[str, int], ...]
    expires_at: int


class Signed(NamedTuple):
    """A signature on one, verified by the key in it."""

    approval: str
    approver: str
    credential: str
    key: str
    challenge: bytes
    missing: int
    at: int
    groups: tuple[str, ...]


class Ended(NamedTuple):
    """One that ended without being approved."""

    approval: str


class Used(NamedTuple):
    """One that was used up by a request."""

    approval: str
    agent: str
    request: str
    at: int


class Enrolled(NamedTuple):
    """A passkey that an approver may sign with from now on."""

    approver: str
    credential: str
    key: str


class Withdrawn(NamedTuple):
    """A passkey that signs nothing any more, or (``credential`` None) all of an approver's."""

    approver: str
    credential: str | None


class Grouped(NamedTuple):
    """The groups that an approver is in from now on."""

    approver: str
    groups: tuple[str, ...]


class Cosigned(NamedTuple):
    """A decision that counts on an approval."""

    request: str
    agent: str
    connection: str
    digest: str


Said = Asked | Signed | Ended | Used | Enrolled | Withdrawn | Grouped | Cosigned


class ApprovalFact(NamedTuple):
    """What record ``seq`` of ``tenant``, written at ``at`` (microseconds since 1970), says."""

    seq: int
    at: int
    tenant: str
    said: Said


class ApprovalFacts(NamedTuple):
    """What a row group says about approvals, up to the first record that says something wrong: its row and why."""

    facts: tuple[ApprovalFact, ...]
    bad: tuple[int, str] | None


class _Quorum(msgspec.Struct, frozen=True, kw_only=True):
    approvals: int
    group: str = ""


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    approval: str
    tenant: str
    agent: str
    behalf: str | None
    connection: str
    args_digest: str
    args_text_sha256: str
    needed: int
    expires_at: int
    quorums: tuple[_Quorum, ...] = ()


class _Decided(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    connection: str
    digest: str
    cosigned: bool


def read_approvals(rows: Iterable[tuple[int, bytes]]) -> ApprovalFacts:
    """Reads and verifies what needs no other record.

    Args:
        rows: row and bytes of each record of :data:`TYPES`, and of decisions with :data:`COSIGNED`, in order; form
            and members were judged before.
    """
    found: list[ApprovalFact] = []
    for row, encoded in rows:
        try:
            record = parse_record(encoded)
            said = _read(record)
        except (Malformed, BadSignature) as error:
            return ApprovalFacts(tuple(found), (row, error.detail))
        if said is not None:
            found.append(ApprovalFact(record.seq, parse_ts(record.ts), record.tenant, said))
    return ApprovalFacts(tuple(found), None)


def _read(record: Record) -> Said | None:
    event, service = record.event, "" if record.pc is None else record.pc.svc
    if record.type == events.DECISION_MADE:
        return _decision(record, service)
    if service != _STEPUP:
        raise MalformedRecord(f"{record.type} is said by another service than {_STEPUP}")
    match record.type:
        case events.APPROVAL_REQUESTED:
            return _asked(event, record.tenant)
        case events.APPROVAL_APPROVED:
            return _signed(event)
        case events.APPROVAL_CONSUMED:
            return Used(event["approval"], event["agent"], event["request"], event["at"])
        case events.PASSKEY_ENROLLED:
            return Enrolled(event["approver"], event["credential_id"], event["public_key"])
        case events.PASSKEY_REVOKED:
            return Withdrawn(event["approver"], event["credential_id"])
        case events.APPROVER_REMOVED:
            return Withdrawn(event["approver"], None)
        case events.APPROVER_GROUPED:
            return Grouped(event["approver"], _texts(event["groups"]))
        case _:
            return Ended(event["approval"])


def _asked(event: dict[str, Any], tenant: str) -> Asked:
    try:
        request = msgspec.convert(event["request"], _Request)
    except msgspec.ValidationError as error:
        raise MalformedRecord("a request for approval lacks a member or has a wrong one", cause=str(error)) from None
    if request.approval != event["approval"] or request.tenant != tenant:
        raise MalformedRecord("a request for approval is of another approval or tenant than its record")
    if sha256(event["args_text"].encode()).hexdigest() != request.args_text_sha256:
        raise MalformedRecord("the text that people read is not the one that the request binds")
    # The record is canonical, so these are the bytes that the service hashed.
    canonical = orjson.dumps(event["request"], option=orjson.OPT_SORT_KEYS)
    return Asked(
        approval=request.approval,
        challenge=approval_challenge(decode_base64url(event["salt"]), canonical),
        agent=request.agent,
        behalf=request.behalf,
        connection=request.connection,
        digest=request.args_digest,
        quorums=tuple((one.group, one.approvals) for one in request.quorums) or (("", request.needed),),
        expires_at=request.expires_at,
    )


def _signed(event: dict[str, Any]) -> Signed:
    challenge = verify_assertion(
        Assertion(
            public_key=decode_base64url(event["public_key"]),
            client_data=decode_base64url(event["client_data_json"]),
            authenticator_data=decode_base64url(event["authenticator_data"]),
            signature=decode_base64url(event["signature"]),
            rp_id=event["rp_id"],
        )
    )
    return Signed(
        approval=event["approval"],
        approver=event["approver"],
        credential=event["credential_id"],
        key=event["public_key"],
        challenge=challenge,
        missing=event["missing"],
        at=event["at"],
        groups=_texts(event.get("groups", [])),
    )


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not all(type(one) is str for one in values):
        raise MalformedRecord("the groups of an approver are no texts")
    return tuple(values)


def _decision(record: Record, service: str) -> Cosigned | None:
    try:
        request = msgspec.convert(record.event["request"], _Decided)
    except msgspec.ValidationError:
        # What an agent sends can hold the text that was looked for; a decision that is none is another judge's.
        return None
    if not request.cosigned:
        return None
    if service not in _DECIDERS:
        raise MalformedRecord("a decision is said by another service than policy and minting")
    return Cosigned(record.corr or "", request.agent, request.connection, request.digest)


class _Open:
    """A request that waits, and who has signed it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.signers: dict[str, tuple[str, ...]] = {}

    def missing(self) -> int:
        """How many more must sign, at least."""
        return max(
            max(number - sum(not group or group in groups for groups in self.signers.values()), 0)
            for group, number in self.asked.quorums
        )


class Approvals:
    """The approvals of one log. Give it each group's facts in order, then :meth:`tell`."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], dict[str, str]] = {}
        #: What each approver's newest withdrawal took away, and when.
        self._withdrawn: dict[tuple[str, str], dict[str, tuple[str, int]]] = {}
        #: The groups of each approver now, those before the newest change, and when that was.
        self._groups: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...], int]] = {}
        self._open: dict[tuple[str, str], _Open] = {}
        #: Tenant, request, agent, connection and digest -> approvals that were used and no decision counts on yet.
        self._used: Counter[tuple[str, str, str, str, str]] = Counter()
        self._signatures = 0
        self._uses = 0
        self._decisions = 0

    def take(self, facts: ApprovalFacts) -> tuple[Verdict, int, str] | None:
        """Judges the next group's facts.

        Returns:
            What is wrong: verdict, seq of the record and reason; None while nothing is.
        """
        for fact in facts.facts:
            wrong = self._judge(fact.tenant, fact.said, fact.at)
            if wrong is not None:
                return Verdict.TAMPERED, fact.seq, wrong
        return None

    def _judge(self, tenant: str, said: Said, at: int) -> str | None:
        match said:
            case Asked():
                return self._ask(tenant, said)
            case Signed():
                return self._sign(tenant, said, at)
            case Ended():
                return self._end(tenant, said)
            case Used():
                return self._use(tenant, said)
            case Enrolled():
                self._keys.setdefault((tenant, said.approver), {})[said.credential] = said.key
                return None
            case Withdrawn():
                held = self._keys.get((tenant, said.approver), {})
                gone = list(held) if said.credential is None else [said.credential]
                self._withdrawn[tenant, said.approver] = {one: (held.pop(one), at) for one in gone if one in held}
                return None
            case Grouped():
                before, _, _ = self._groups.get((tenant, said.approver), ((), (), 0))
                self._groups[tenant, said.approver] = (said.groups, before, at)
                return None
            case Cosigned():
                return self._decide(tenant, said)

    def _ask(self, tenant: str, asked: Asked) -> str | None:
        if (tenant, asked.approval) in self._open:
            return "an approval is asked for twice"
        self._open[tenant, asked.approval] = _Open(asked)
        return None

    def _end(self, tenant: str, ended: Ended) -> str | None:
        waiting = self._open.pop((tenant, ended.approval), None)
        if waiting is None:
            return "an approval ends that was not asked for"
        if not waiting.missing():
            return "an approval ends that everybody has signed"
        return None

    def _sign(self, tenant: str, signed: Signed, at: int) -> str | None:
        waiting = self._open.get((tenant, signed.approval))
        if waiting is None:
            return "a signature releases an approval that does not wait for one"
        asked = waiting.asked
        if signed.challenge != asked.challenge:
            return "the passkey signed another request than the recorded one"
        if self._key_of(tenant, signed, at) != signed.key:
            return "the passkey that signed was not enrolled by this approver, or not any more"
        if signed.approver in waiting.signers:
            return "one approver signed twice"
        if signed.approver in (asked.agent, asked.behalf):
            return "who asks has approved"
        if signed.at >= asked.expires_at:
            return "an approval was signed after its time"
        if not self._groups_of(tenant, signed.approver, at).issuperset(signed.groups):
            return "a signature counts for a group that the approver is not in"
        if not waiting.missing():
            return "an approval is signed that needs no signature any more"
        waiting.signers[signed.approver] = signed.groups
        if signed.missing != waiting.missing():
            return "the number of signatures that are missing is wrong"
        self._signatures += 1
        return None

    def _groups_of(self, tenant: str, approver: str, at: int) -> set[str]:
        """The groups that the approver may have been in when a signature was judged."""
        now, before, changed = self._groups.get((tenant, approver), ((), (), 0))
        return {*now, *(before if at - changed <= RACE_SECONDS * _MICROSECONDS else ())}

    def _key_of(self, tenant: str, signed: Signed, at: int) -> str | None:
        """The key that the approver could sign with when the signature was judged."""
        held = self._keys.get((tenant, signed.approver), {}).get(signed.credential)
        gone = self._withdrawn.get((tenant, signed.approver), {}).get(signed.credential)
        if held is None and gone is not None and at - gone[1] <= RACE_SECONDS * _MICROSECONDS:
            return gone[0]
        return held

    def _use(self, tenant: str, used: Used) -> str | None:
        waiting = self._open.pop((tenant, used.approval), None)
        if waiting is None:
            return "an approval is used that does not wait, or that was used before"
        asked = waiting.asked
        if missing := waiting.missing():
            return f"an approval is used while {missing} signatures are missing"
        if used.agent != asked.agent:
            return "an approval is used by another agent than the one that asked"
        if used.at >= asked.expires_at:
            return "an approval is used after its time"
        # An agent names its requests, and may give one name twice.
        self._used[tenant, used.request, asked.agent, asked.connection, asked.digest] += 1
        self._uses += 1
        return None

    def _decide(self, tenant: str, decided: Cosigned) -> str | None:
        covered = (tenant, decided.request, decided.agent, decided.connection, decided.digest)
        if not self._used[covered]:
            return "a decision counts on a person's approval, and none was used for exactly its request"
        self._used[covered] -= 1
        if not self._used[covered]:
            del self._used[covered]
        self._decisions += 1
        return None

    def tell(self, tally: Tally) -> None:
        """Puts what was found into ``tally``."""
        if self._signatures or self._decisions:
            tally.checked.append(
                f"{self._signatures} passkey signatures: over exactly what was asked, by keys enrolled before; "
                f"{self._uses} approvals used once; {self._decisions} decisions that count on one"
            )
            tally.not_checked.append("who the passkeys' owners are, and which models they use (no attestation)")

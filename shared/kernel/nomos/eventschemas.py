"""What the payload of each known event must hold: member names and the kind of each value. A closed table.

Decides level 2's question whether an event can be read as what its type says. An event may hold more members than its
type demands (a later version may have added some), never fewer, and never one of another kind. A type that is not here
is not judged; the caller says so.

A member's meaning never changes, so a line of this table never changes either: new members are added as optional
(``?``), and what was recorded before stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nomos import events
from nomos.log.sealedfield import PERSONAL, SUBJECT_ERASED, SUBJECT_NAMED

#: Texts that may be sealed: then :mod:`nomos.log.erasure` judges them.
_PERSONAL: Final = frozenset((kind, name) for kind, fields in PERSONAL.items() for name, _ in fields)

_Kind = str
_KINDS: Final[Mapping[_Kind, type]] = {"text": str, "integer": int, "flag": bool, "list": list, "object": dict}
_GAP: Final = "kind: text, first: integer, last: integer, stream: text?, producer: text?, svc: text?, known: flag?"
_REFUSED: Final = "code: text, detail: text, verb: text, service: text, counting: flag?"
_DECISION: Final = (
    "decision: text, request: object, entities: list, policy_set: text, revision: integer, outcome: text, "
    "reason: text, policies: list, passes: list, errors: list, alarm: flag, at_ms: integer, schema: text?, "
    "platform: text?, approval: text?, quorums: list?"
)
_ATTEMPTED: Final = (
    "invocation: text, delegation: text, action: text, resource: text, connection: text, method: text, path: text, "
    "request_sha256: text, deadline_ms: integer, root: text?, via: list?"
)
_APPROVED: Final = (
    "approval: text, approver: text, credential_id: text, public_key: text, client_data_json: text, "
    "authenticator_data: text, signature: text, rp_id: text, sign_count: integer, missing: integer, at: integer, "
    "groups: list?"
)
_MINTED: Final = (
    "action: text, agent: text, agent_did: text, cid: text, connection: text, decision: text, digest: text, "
    "expires_at: integer, issuer: text, resource: text"
)
_COMPARED: Final = (
    "shadow: text, evaluated: integer, changed: integer, missed: integer, by_answer: object, by_agent: object, "
    "by_action: object, by_resource: object, examples: list, at: integer"
)
_ENROLLED: Final = (
    "approver: text, credential_id: text, public_key: text, sign_count: integer, aaguid: text, label: text, "
    "backup_eligible: flag, at: integer"
)
_POISON: Final = (
    "detail: text, reason: text, sha256: text, size: integer, svc: text, account: text?, stream: text?, "
    "position: integer?"
)
_SPELLED: Final[Mapping[str, str]] = {
    events.DECISION_MADE: _DECISION,
    events.REQUEST_REFUSED: _REFUSED,
    events.REFUSALS_COUNTED: "service: text, count: integer, kinds: list, since: integer, seconds: integer",
    events.POLICY_PUT: (
        "tenant: text, revision: integer, sha256: text, actor: text, why: text, at: integer, text: text?, "
        "pieces: list?, draft: text?"
    ),
    events.POLICY_PIECE: "sha256: text, text: text",
    events.DRAFT_SAVED: (
        "draft: text, sha256: text, actor: text, why: text, at: integer, based_on: integer, text: text?, pieces: list?"
    ),
    events.DRAFT_DISCARDED: "draft: text, actor: text, why: text, at: integer",
    events.SHADOW_STARTED: "shadow: text, draft: text, sha256: text, why: text, at: integer, until: integer",
    events.SHADOW_STOPPED: "shadow: text, why: text, at: integer",
    events.SHADOW_COMPARED: _COMPARED,
    events.DELEGATION_MINTED: _MINTED,
    events.ISSUER_CREATED: "did: text",
    events.ISSUER_ROTATED: "did: text, previous: text, at: integer, why: text",
    events.DELEGATION_REVOKED: "cid: text, until: integer, why: text",
    events.ISSUED_REVOKED: "app: text, until: integer, at: integer, why: text",
    events.CALL_ATTEMPTED: _ATTEMPTED,
    events.CALL_FINISHED: (
        "invocation: text, outcome: text, status: integer, response_sha256: text, removed: list, bytes: integer, "
        "code: text?, withheld: text?, noted: list?, passed: integer?"
    ),
    events.PII_SET: "classes: list",
    events.CONNECTION_ADDED: (
        "connector: text, name: text, key_id: text, base_url: text?, method: text?, scopes: list?, host: text?, "
        "auth: text?, federation: object?, exchange: text?, ssh: object?, shared: flag?"
    ),
    events.CONNECTION_REPLACED: "name: text, key_id: text?, scopes: list?, shared: flag?, host_keys: list?",
    events.CONNECTION_LOST: "name: text, code: text",
    events.CONNECTION_REMOVED: "name: text",
    events.OAUTH_CLIENT_SET: (
        "connector: text, client_id: text, has_secret: flag, key_id: text, base_url: text?, has_key: flag?"
    ),
    events.OAUTH_CLIENT_WITHDRAWN: "connector: text",
    events.CONNECT_OFFERED: (
        "flow: text, connector: text, name: text, scopes: list, link_sha256: text, expires_at: integer, at: integer, "
        "base_url: text?, shared: flag?, device: flag?"
    ),
    events.CONNECT_BEGUN: "flow: text, state_sha256: text, browser_sha256: text, at: integer",
    events.CONNECT_RETURNED: "flow: text, at: integer",
    events.CONNECT_ENDED: "flow: text, outcome: text, code: text, at: integer",
    events.CREDENTIAL_RENEWING: "connection: text, generation: integer, at: integer, step: text?",
    events.CREDENTIAL_RENEWED: (
        "connection: text, generation: integer, outcome: text, code: text, expires_at: integer, at: integer, "
        "step: text?"
    ),
    events.CREDENTIAL_REVOKED: "connection: text, outcome: text, tries: integer, code: text, at: integer",
    events.TENANT_CREATED: "account: text, roles: object, tenant: text",
    events.TENANT_CLOSED: "tenant: text, basis: text, at: integer",
    events.TENANT_ERASED: (
        "tenant: text, service: text, subjects: integer, secrets: integer, basis: text, at: integer"
    ),
    SUBJECT_NAMED: "subject: text, name: text",
    SUBJECT_ERASED: "subject: text, dek: text, kc: text, kind: text, basis: text, at: integer",
    events.SUBJECT_DISCLOSED: "subject: text, dek: text, purpose: text",
    events.APP_CREATED: "app: text, env: text",
    events.AGENT_CREATED: "agent: text, app: text, did: text, env: text, issued_at: integer, key: text",
    events.AUDITOR_CREATED: "auditor: text, issued_at: integer, key: text",
    events.OPERATOR_ADDED: "operator: text, tenant: text, at: integer",
    events.OPERATOR_REMOVED: "operator: text, at: integer",
    events.KEY_REVOKED: "at: integer, key: text, name: text, role: text, why: text",
    events.APPROVAL_REQUESTED: "approval: text, request: object, salt: text, args_text: text",
    events.APPROVAL_APPROVED: _APPROVED,
    events.APPROVAL_DENIED: "approval: text, approver: text, reason: text, at: integer",
    events.APPROVAL_EXPIRED: "approval: text, at: integer",
    events.APPROVAL_CANCELLED: "approval: text, by_kind: text, by: text, reason: text, at: integer",
    events.APPROVAL_CONSUMED: "approval: text, agent: text, request: text, at: integer",
    events.APPROVER_ADDED: "approver: text, tenant: text, name: text, user_handle: text, at: integer",
    events.PASSKEY_ENROLLED: _ENROLLED,
    "passkey.offered": "approver: text, challenge_sha256: text, expires_at: integer, at: integer",
    "passkey.counter": "approver: text, credential_id: text, sign_count: integer",
    "passkey.stalled": "approver: text, credential_id: text, stored: integer, got: integer, at: integer",
    "passkey.renamed": "approver: text, credential_id: text, label: text, at: integer",
    events.PASSKEY_REVOKED: "approver: text, credential_id: text, at: integer",
    events.APPROVER_REMOVED: "approver: text, at: integer",
    events.APPROVER_GROUPED: "approver: text, groups: list, at: integer",
    "approver.signed-out": "approver: text, at: integer",
    "session.opened": (
        "session: text, approver: text, credential_id: text, secret_sha256: text, expires_at: integer, at: integer"
    ),
    "session.closed": "session: text, approver: text, at: integer",
    "operator.passkey-offered": "operator: text, challenge_sha256: text, expires_at: integer, at: integer",
    "operator.passkey-enrolled": (
        "operator: text, credential_id: text, public_key: text, sign_count: integer, aaguid: text, "
        "backup_eligible: flag, at: integer"
    ),
    "operator.passkey-counter": "operator: text, credential_id: text, sign_count: integer",
    "operator.passkey-stalled": "operator: text, credential_id: text, stored: integer, got: integer, at: integer",
    "operator.passkey-revoked": "operator: text, credential_id: text, at: integer",
    "operator.signed-in": (
        "session: text, operator: text, service: text, credential_id: text, code_sha256: text, state: text, "
        "code_expires_at: integer, expires_at: integer, at: integer"
    ),
    "operator.code-redeemed": "session: text, operator: text, service: text, secret_sha256: text, at: integer",
    "operator.session-ended": "session: text, operator: text, why: text, at: integer",
    events.NOTIFY_ADDED: "channel: text, kind: text, group: text, after: integer, at: integer",
    events.NOTIFY_REMOVED: "channel: text, at: integer",
    events.PUSH_ADDED: "approver: text, subscription: text, at: integer",
    events.PUSH_REMOVED: "approver: text, subscription: text, why: text, at: integer",
    events.NOTICE_BEGUN: "approval: text, channel: text, at: integer",
    events.NOTICE_ENDED: ("approval: text, channel: text, outcome: text, tries: integer, detail: text, at: integer"),
    events.COSIGNER_CREATED: "did: text",
    "audit.gap": _GAP,
    "audit.poison": _POISON,
    "audit.retired": "stream: text, first_block: integer, last_block: integer, first: integer, last: integer",
}


def _table() -> dict[str, tuple[tuple[str, type, bool], ...]]:
    read = {}
    for kind, spelled in _SPELLED.items():
        members = [one.split(": ") for one in spelled.split(", ")]
        read[kind] = tuple((name, _KINDS[what.rstrip("?")], what.endswith("?")) for name, what in members)
    return read


#: Type -> (member, Python type, whether it may be absent).
SCHEMAS: Final = _table()


def is_known(kind: str) -> bool:
    """Whether events of type ``kind`` are judged."""
    return kind in SCHEMAS


def what_is_wrong(kind: str, event: Mapping[str, object]) -> str | None:
    """Why ``event`` is none of type ``kind``, or None. Of an unknown type nothing is wrong."""
    for name, expected, is_optional in SCHEMAS.get(kind, ()):
        value = event.get(name)
        if value is None:
            if is_optional:
                continue
            return f"the event has no {name}"
        # Exactly this type: true is no integer.
        if type(value) is not expected and not (type(value) is dict and (kind, name) in _PERSONAL):
            return f"{name} of the event has another type"
    return None

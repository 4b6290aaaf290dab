"""Events: what happened, in past tense, as it goes into the journal and from there into the log.

An :class:`Envelope` names tenant, actor, correlation id (the request) and causation id (the event before). Its
``event`` holds jcs-strict values only (``audit-log`` profile: string, integer within 2^53, boolean, null, array,
object), so the log's canonical bytes exist for every event. Digests and CIDs are text.

The types of events are the constants here; the payload of each is described beside its constant. A field's meaning
never changes; a new meaning is a new field.
"""

from __future__ import annotations

from typing import Final

import msgspec

# policy
#: request, entities, policies, passes, outcome: everything needed to evaluate it again.
DECISION_MADE: Final = "authz.decision"
#: {code, detail, verb, service, counting}: a request that did not reach a decision; with ``counting`` further ones of
#: this agent are counted until a minute is over since the first.
REQUEST_REFUSED: Final = "request.refused"
#: {service, count, kinds: [{verb, code, count}], since, seconds}: so many refusals of one agent have no record of their
#: own, in the span that begins at ``since``, Unix seconds.
REFUSALS_COUNTED: Final = "request.refusals-counted"
#: {sha256, text}: a piece of a policy text, before the event that names it (:mod:`nomos.policytext`).
POLICY_PIECE: Final = "policy.piece"
#: {revision, sha256, text or pieces, why}
POLICY_PUT: Final = "policy.put"
#: {draft, sha256, text or pieces, why, based_on}: a text that is not in force, made from the revision ``based_on``.
DRAFT_SAVED: Final = "policy.draft-saved"
#: {draft, why}
DRAFT_DISCARDED: Final = "policy.draft-discarded"
#: {shadow, draft, sha256, why, at, until}: a draft's text is evaluated beside the set in force, ``until`` then at most.
SHADOW_STARTED: Final = "policy.shadow-started"
#: {shadow, why, at}
SHADOW_STOPPED: Final = "policy.shadow-stopped"
#: {shadow, evaluated, changed, missed, by_answer, by_agent, by_action, by_resource, examples, at}: what one replica has
#: compared since its event before; ``missed`` requests could not be compared.
SHADOW_COMPARED: Final = "policy.shadow-compared"
# minting
#: {cid, decision, agent, action, resource, digest, connection, expires_at, issuer}
DELEGATION_MINTED: Final = "ucan.minted"
#: {did}
ISSUER_CREATED: Final = "ucan.issuer"
#: {did, previous, at, why}: the issuing key from ``at`` on, Unix seconds; what ``previous`` signed runs out.
ISSUER_ROTATED: Final = "ucan.issuer-rotated"
#: {cid, until, why}: a delegation, and all that was handed on from it, is refused; ``until`` it has expired anyway.
DELEGATION_REVOKED: Final = "ucan.revoked"
#: {app, until, at, why}: what was issued for the app (empty: for the tenant) up to ``at``, Unix seconds, is refused,
#: with all that was handed on from it; ``until`` all of it has ended (:mod:`nomos.ucan.cutoff`).
ISSUED_REVOKED: Final = "ucan.revoked-all"
# proxy
#: {invocation, delegation, root, via, action, resource, connection, method, path, request_sha256, deadline_ms}
#: ``root`` is the delegation that was minted; ``via`` are the agents that handed it on, the first holder first.
CALL_ATTEMPTED: Final = "proxy.attempted"
#: {invocation, outcome: done|failed|unknown|refused, status, response_sha256, removed, bytes, noted}
CALL_FINISHED: Final = "proxy.finished"
#: {connector, name, key_id, base_url, method, scopes, host, auth, federation, exchange, ssh, shared}: ``method`` is
#: ``oauth`` where somebody connected an account, ``federation`` where a cloud gives credentials, ``none`` where none is
#: needed; ``host`` and ``auth`` where the connector leaves them open; ``ssh`` {user, port, host_keys, roots} of a host
#: of SSH; ``shared`` where the account came through the installation's client.
CONNECTION_ADDED: Final = "connection.added"
#: {name, key_id, scopes, shared, host_keys}: a person put another credential, or other host keys, in place of those of
#: a connection.
CONNECTION_REPLACED: Final = "connection.replaced"
#: {name, code}: the provider refuses to renew; somebody must connect the account again.
CONNECTION_LOST: Final = "connection.lost"
#: {name}: closed for good; its credential is destroyed, and revoked where the provider takes it back.
CONNECTION_REMOVED: Final = "connection.removed"
#: {connector, client_id, has_secret, key_id, base_url, has_key}: as which client the tenant asks a provider from now
#: on; ``has_key`` where it proves itself by a private key. Of ``_sys``: as which client every tenant may.
OAUTH_CLIENT_SET: Final = "oauth.client-set"
#: {connector}: the installation's client takes no further accounts; those that came through it go on. Of ``_sys``.
OAUTH_CLIENT_WITHDRAWN: Final = "oauth.client-withdrawn"
#: {flow, connector, name, scopes, link_sha256, expires_at, at, base_url, shared, device}: a link by which an account
#: may be connected; with ``device`` a code that a person enters at the provider instead.
CONNECT_OFFERED: Final = "oauth.offered"
#: {flow, state_sha256, browser_sha256, at}: one browser opened it and goes to the provider.
CONNECT_BEGUN: Final = "oauth.begun"
#: {flow, at}: the browser came back with a code, which is used now and never again.
CONNECT_RETURNED: Final = "oauth.returned"
#: {flow, outcome: connected|denied|failed, code, at}
CONNECT_ENDED: Final = "oauth.ended"
#: {connection, generation, at, step}: the provider is asked for new tokens; written ahead. ``step`` where two questions
#: make one credential: ``exchange``, then ``impersonation``.
CREDENTIAL_RENEWING: Final = "credential.renewing"
#: {connection, generation, outcome: renewed|refused|failed|unknown, code, expires_at, at, step}
CREDENTIAL_RENEWED: Final = "credential.renewed"
#: {connection, outcome: revoked|failed|unsupported, tries, code, at}: a removed connection's tokens are given back.
CREDENTIAL_REVOKED: Final = "credential.revoked"
#: {classes}: the classes of personal data that are removed from the tenant's answers from now on.
PII_SET: Final = "sanitizer.pii-set"
# identity
TENANT_CREATED: Final = "tenant.created"
APP_CREATED: Final = "app.created"
AGENT_CREATED: Final = "agent.created"
AUDITOR_CREATED: Final = "auditor.created"
KEY_REVOKED: Final = "key.revoked"
#: {operator, tenant, at}: the operator whom records name by this id has a name, sealed in ``subject.named``. Of
#: ``_sys``; ``tenant`` is the one that the operator may name, or empty.
OPERATOR_ADDED: Final = "operator.added"
#: {operator, at}: every service refuses the operator from now on. Of ``_sys``.
OPERATOR_REMOVED: Final = "operator.removed"
#: {tenant, basis, at}: the account takes no connection any more, and nothing new of the tenant is accepted.
TENANT_CLOSED: Final = "tenant.closed"
# stepup
APPROVAL_REQUESTED: Final = "stepup.requested"
APPROVAL_APPROVED: Final = "stepup.approved"
APPROVAL_DENIED: Final = "stepup.denied"
APPROVAL_EXPIRED: Final = "stepup.expired"
APPROVAL_CANCELLED: Final = "stepup.cancelled"
APPROVAL_CONSUMED: Final = "stepup.consumed"
APPROVER_ADDED: Final = "approver.added"
APPROVER_REMOVED: Final = "approver.removed"
#: {approver, groups, at}: the groups that the approver is in from now on, all of them.
APPROVER_GROUPED: Final = "approver.grouped"
PASSKEY_ENROLLED: Final = "passkey.enrolled"
PASSKEY_REVOKED: Final = "passkey.revoked"
#: {channel, kind, group, after, at}: a channel is told when somebody must approve; where it leads is sealed.
NOTIFY_ADDED: Final = "notify.added"
#: {channel, at}
NOTIFY_REMOVED: Final = "notify.removed"
#: {approval, channel, at}: one process tells the channel of the approval, and no other does.
NOTICE_BEGUN: Final = "notify.begun"
#: {approval, channel, outcome: sent|failed, tries, detail, at}
NOTICE_ENDED: Final = "notify.ended"
#: {approver, subscription, at}: a browser of the approver is told too; where it is, is sealed.
PUSH_ADDED: Final = "push.added"
#: {approver, subscription, why, at}
PUSH_REMOVED: Final = "push.removed"
COSIGNER_CREATED: Final = "stepup.cosigner"
# every service that holds keys of tenants or people; those of people are in nomos.log.sealedfield
#: {tenant, service, subjects, secrets, basis, at}: the service has destroyed every key of the tenant that it held.
TENANT_ERASED: Final = "tenant.erased"
#: {subject, dek, purpose}: the key of a person was handed to an operator, sealed to a key of theirs.
SUBJECT_DISCLOSED: Final = "subject.disclosed"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who did it. ``kind`` is agent, operator, approver, auditor, service or system."""

    kind: str
    id: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way into the log.

    Attributes:
        id: ``ev_`` and 32 hex digits.
        type: one of the constants of this module.
        tenant: the tenant whose record it becomes.
        actor: who acted; verified by the service that emits the event.
        corr: correlation id, the request's id.
        cause: id of the event that caused this one, or empty.
        event: the payload.
    """

    id: str
    type: str
    tenant: str
    actor: Actor
    corr: str
    cause: str
    event: dict[str, object]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one append to the journal carries: ``e`` are encoded envelopes with counters ``n``, ``n+1``, ...

    Attributes:
        v: 1.
        p: producer id, unique for the life of one producer.
        n: counter of the first event; counters of a producer are contiguous from 0.
        e: the envelopes.
    """

    v: int
    p: str
    n: int
    e: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder()


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope as msgpack, as it stands inside a batch."""
    return _encoder.encode(envelope)


def encode_batch(producer: str, first: int, events: list[bytes]) -> bytes:
    """The payload of one journal append."""
    return _encoder.encode(Batch(v=1, p=producer, n=first, e=[msgspec.Raw(e) for e in events]))

"""The one tree of errors. Each class has a stable ``code`` that goes on the wire and into the log.

``detail`` is safe to show to the caller: never a secret, a payload or a credential. ``cause`` is for the
operator's diagnostics and never leaves the process. ``hint`` says what to do next. Messages are lower case
and have no full stop.

A parser raises a subclass of :class:`Malformed`; a check of a signed object raises :class:`Refused`; where a
dependency cannot answer, :class:`Unavailable` (which always means deny, never "go on").
"""

from __future__ import annotations

from typing import ClassVar


class NomosError(Exception):
    """Root of every error that Nomos raises on purpose.

    Attributes:
        detail: safe to show the caller.
        cause: for the operator alone.
        hint: what to do next.
        retry_after_ms: when another try is worth it, milliseconds from now; 0 where nobody knows.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self, detail: str = "", *, cause: str | None = None, hint: str | None = None, retry_after_ms: int = 0
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause
        if hint is None and retry_after_ms:
            hint = f"again in {retry_after_ms / 1000:g} seconds"
        self.hint = hint
        self.retry_after_ms = retry_after_ms


class Malformed(NomosError):
    """Input that is not what its format says. Raised by parsers only."""

    code = "malformed"


class MalformedToken(Malformed):
    """A UCAN that is not a canonical, well-formed UCAN 1.0 envelope."""

    code = "malformed_token"


class MalformedPolicy(Malformed):
    """Cedar text that is not accepted on write."""

    code = "malformed_policy"


class MalformedCatalogue(Malformed):
    """A connector file that breaks the catalogue's schema."""

    code = "malformed_catalogue"


class MalformedRecord(Malformed):
    """An audit record, checkpoint, proof or archive file that breaks its format."""

    code = "malformed_record"


class LimitExceeded(Malformed):
    """Input over a named limit. ``limit`` is the limit's name as documented, ``allowed`` its value."""

    code = "limit_exceeded"

    def __init__(self, limit: str, allowed: int, got: int | None = None) -> None:
        said = f"{limit} is {allowed}" + (f", got {got}" if got is not None else "")
        super().__init__(said)
        self.limit = limit
        self.allowed = allowed


class Refused(NomosError):
    """A well-formed request that must not be served."""

    code = "refused"


class ReservedKey(Refused):
    """The caller tried to set a context key that belongs to the server."""

    code = "reserved_key"


class Expired(Refused):
    """A deadline, delegation, challenge or approval whose time is over."""

    code = "expired"


class NotYetValid(Refused):
    """A token whose ``nbf`` or ``iat`` lies in the future."""

    code = "not_yet_valid"


class Replayed(Refused):
    """A single-use object that was used before."""

    code = "replayed"


class Revoked(Refused):
    """A delegation, key, agent, app, connection or tenant that has been revoked."""

    code = "revoked"


class BadSignature(Refused):
    """A signature that does not verify, or a key that must not be used."""

    code = "bad_signature"


class NotCovered(Refused):
    """The capability chain does not cover this request (command, policy, audience, subject or resource)."""

    code = "not_covered"


class ProofMissing(NotCovered):
    """A delegation that the invocation names was not sent along, or not in the order named."""

    code = "proof_missing"


class Unrooted(NotCovered):
    """The chain of delegations does not start at the subject, or its root is not trusted."""

    code = "unrooted"


class AudienceMismatch(NotCovered):
    """A token that was given to somebody other than the one who uses it."""

    code = "audience_mismatch"


class SubjectMismatch(NotCovered):
    """Tokens of one chain that are about different subjects."""

    code = "subject_mismatch"


class CommandNotCovered(NotCovered):
    """A command that lies outside the command of a delegation above it."""

    code = "command_not_covered"


class PolicyNotMet(NotCovered):
    """Arguments that do not satisfy the policy of a delegation in the chain."""

    code = "policy_not_met"


class BindingMismatch(NotCovered):
    """The request about to be made is not the one whose digest was signed."""

    code = "binding_mismatch"


class OutsideProfile(Refused):
    """A valid UCAN that the Nomos profile does not take (no expiry, no subject, top command, too long a life, ...)."""

    code = "outside_profile"


class UnknownTenant(Refused):
    """A bus account that is no tenant of this installation."""

    code = "unknown_tenant"


class UnknownAgent(Refused):
    """A bus user that is no agent of this tenant."""

    code = "unknown_agent"


class UnknownOperator(Refused):
    """An operator's credential whose holder has given no name."""

    code = "unknown_operator"


class UnknownAction(Refused):
    """An action that no connector declares."""

    code = "unknown_action"


class UnknownResource(Refused):
    """A resource that is not written as the connector's resource types are written."""

    code = "unknown_resource"


class NotFound(Refused):
    """A named object (policy, connection, approval, approver, ...) that this tenant does not have."""

    code = "not_found"


class Conflict(Refused):
    """A write that lost a compare-and-set, or a name that is taken."""

    code = "conflict"


class NotFresh(Refused):
    """Minting was asked without a fresh allow for exactly this request."""

    code = "not_fresh"


class ConnectionLost(Refused):
    """The provider does not renew the tokens of this connection any more. A person must connect the account again."""

    code = "connection_lost"


class PolicyDenied(Refused):
    """Cedar said no."""

    code = "policy_denied"


class ApprovalRefused(Refused):
    """A passkey assertion or approver that must not release this request."""

    code = "approval_refused"


class DestinationRefused(Refused):
    """An upstream address, URL, redirect or header that the broker will not use. Raised before any socket."""

    code = "destination_refused"


class HostKeyChanged(DestinationRefused):
    """A host that proves itself with another key than the connection's. Nothing was sent, not even who asks."""

    code = "host_key_changed"


class PathRefused(Refused):
    """A path that leads over a link, or to something that is neither a file nor a directory. Nothing was changed."""

    code = "path_refused"


class ResponseRefused(Refused):
    """An upstream answer that cannot be made safe (undecodable, over a limit)."""

    code = "response_refused"


class AnswerEnded(Refused):
    """The rest of an answer that was read piece by piece is not passed on: nobody read further, or nobody may."""

    code = "answer_ended"


class NotPermitted(Refused):
    """The verified caller has no right to this subject or verb."""

    code = "not_permitted"


class Unavailable(NomosError):
    """A dependency did not answer in time. Always means deny."""

    code = "unavailable"


class JournalUnavailable(Unavailable):
    """The journal did not confirm the event, so no answer may leave."""

    code = "journal_unavailable"


class RateLimited(Refused):
    """More calls than a rate allows, or sooner than the provider asked for. Nothing was used up."""

    code = "rate_limited"


class StalePolicy(Unavailable):
    """This replica cannot prove that its policies and revocations are fresh."""

    code = "stale_policy"


class UpstreamFailed(Unavailable):
    """The upstream could not be reached or broke the protocol before the request was sent."""

    code = "upstream_failed"


class CircuitOpen(UpstreamFailed):
    """The upstream failed several times in a row and is left alone for a while. Nothing was used up."""

    code = "circuit_open"


class UnknownOutcome(Unavailable):
    """The request was sent and no complete answer came back: it may or may not have taken effect."""

    code = "unknown_outcome"


class Fenced(NomosError):
    """This writer lost the compare-and-swap on the chain head to another writer."""

    code = "fenced"


class RolledBack(NomosError):
    """The log in the store is behind, or differs from, a checkpoint published earlier."""

    code = "rolled_back"


class Misconfigured(NomosError):
    """A setting that is missing or wrong. Raised at start, before anything is served."""

    code = "misconfigured"

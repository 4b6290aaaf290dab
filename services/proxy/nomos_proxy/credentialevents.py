"""What the log is told of credentials that a provider or a cloud gives: asked, given or not, taken back."""

from __future__ import annotations

from nomos.events import CREDENTIAL_RENEWED, CREDENTIAL_RENEWING, CREDENTIAL_REVOKED, Envelope
from nomos.ids import new_id
from nomos_proxy.domain import PROXY, ConnectionFacts


def renewing(connection: ConnectionFacts, *, generation: int, now: int, step: str = "") -> Envelope:
    """A provider is asked for a credential; written ahead.

    Args:
        connection: whose credential.
        generation: of the tokens; 0 where nothing is stored.
        now: Unix seconds.
        step: which of two questions, where it takes two; else empty.
    """
    event: dict[str, object] = {"generation": generation, "at": now} | ({"step": step} if step else {})
    return _told(connection, CREDENTIAL_RENEWING, event, corr=new_id("rq"))


def renewed(
    connection: ConnectionFacts, asked: Envelope, *, outcome: str, now: int, code: str = "", expires_at: int = 0
) -> Envelope:
    """How it ended that a provider was asked.

    Args:
        connection: whose credential.
        asked: what was written ahead.
        outcome: ``renewed``, ``refused``, ``failed``, or ``unknown`` where the answer may have been lost.
        now: Unix seconds.
        code: of what went wrong.
        expires_at: Unix seconds; 0 for none.
    """
    event: dict[str, object] = {
        "generation": asked.event["generation"],
        "outcome": outcome,
        "code": code,
        "expires_at": expires_at,
        "at": now,
    }
    if "step" in asked.event:
        event["step"] = asked.event["step"]
    return _told(connection, CREDENTIAL_RENEWED, event, corr=asked.corr, cause=asked.id)


def revoked(connection: ConnectionFacts, *, outcome: str, tries: int, code: str, now: int) -> Envelope:
    """The tokens of a removed connection were given back, or could not be."""
    event: dict[str, object] = {"outcome": outcome, "tries": tries, "code": code, "at": now}
    return _told(connection, CREDENTIAL_REVOKED, event, corr=new_id("rq"))


def _told(connection: ConnectionFacts, kind: str, event: dict[str, object], *, corr: str, cause: str = "") -> Envelope:
    return Envelope(
        id=new_id("ev"),
        type=kind,
        tenant=connection.tenant,
        actor=PROXY,
        corr=corr,
        cause=cause,
        event={"connection": connection.name, **event},
    )

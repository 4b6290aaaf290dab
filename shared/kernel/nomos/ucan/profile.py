"""Profiles: how much of UCAN a verifier takes.

``SPEC`` is the specification with limits; ``NOMOS`` is what this installation serves. A profile only ever narrows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.ucan.invocation import PROOFS_MAX

#: Longest life of a delegation or invocation, from now to its expiry.
LIFETIME_SECONDS_MAX: Final = 60
#: Clock difference allowed between the issuer and this verifier. It never prolongs a life: expiry is exact.
SKEW_SECONDS: Final = 5
#: Delegations in a chain: one minted, and up to four hand-overs to sub-agents.
CHAIN_LENGTH_MAX: Final = 5
NONCE_BYTES: Final = 12


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a verifier takes beyond well-formed, signed and aligned tokens."""

    name: str
    endless_allowed: bool
    """``exp: null`` on delegations and invocations."""
    powerline_allowed: bool
    """``sub: null`` on delegations below the root."""
    top_command_allowed: bool
    """``cmd: "/"``."""
    self_issued_allowed: bool
    """An invocation by the subject itself, without any delegation."""
    foreign_executor_allowed: bool
    """An invocation whose ``aud`` is not its subject. The executor must compare it with its own name."""
    pinned_root_required: bool
    """The root's policy must fix ``.resource`` and ``.digest`` by equality at its top level."""
    lifetime_seconds_max: int | None
    """Seconds from now to expiry; None is no limit."""
    skew_seconds: int
    chain_length_max: int
    nonce_bytes_min: int


SPEC: Final = Profile(
    name="ucan-1.0",
    endless_allowed=True,
    powerline_allowed=True,
    top_command_allowed=True,
    self_issued_allowed=True,
    foreign_executor_allowed=True,
    pinned_root_required=False,
    lifetime_seconds_max=None,
    skew_seconds=0,
    chain_length_max=PROOFS_MAX,
    nonce_bytes_min=0,
)

NOMOS: Final = Profile(
    name="nomos-1",
    endless_allowed=False,
    powerline_allowed=False,
    top_command_allowed=False,
    self_issued_allowed=False,
    foreign_executor_allowed=False,
    pinned_root_required=True,
    lifetime_seconds_max=LIFETIME_SECONDS_MAX,
    skew_seconds=SKEW_SECONDS,
    chain_length_max=CHAIN_LENGTH_MAX,
    nonce_bytes_min=NONCE_BYTES,
)

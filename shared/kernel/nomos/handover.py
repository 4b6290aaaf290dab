"""A permission on its way from an agent to a sub-agent: a chain of delegations, root first.

Decides the form in which it travels (text, one token a line) and how a hand-over narrows it. That it only ever narrows
is :mod:`nomos.ucan.attenuate`'s; what it is worth is the proxy's, which verifies every link. Whoever reads one learns
what it permits and cannot use it: the invocation is signed by the last link's agent.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nomos.errors import Expired, Malformed
from nomos.ids import Did
from nomos.keys import SigningKey
from nomos.ucan.attenuate import attenuate
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.delegation import Delegation, parse_delegation
from nomos.ucan.inspect import parse_token_text
from nomos.ucan.profile import CHAIN_LENGTH_MAX, NONCE_BYTES

#: How far a policy's selector may be from the arguments: ``only={"labels.first": ...}``.
ONLY_MAX: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A permission that was handed on.

    Attributes:
        chain: the delegations, root first; the last one's audience may use it.
    """

    chain: tuple[bytes, ...]

    @property
    def audience(self) -> Did:
        """Who may use it."""
        return self.last.audience

    @property
    def last(self) -> Delegation:
        """The link that the holder was given."""
        return parse_delegation(self.chain[-1])

    @property
    def expires_at(self) -> int:
        """Its end, Unix seconds.

        Raises:
            Malformed: a link has none.
        """
        ends = [parse_delegation(token).expires_at for token in self.chain]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends):
            raise Malformed("a delegation of the chain has no end")
        return min(known)

    def __str__(self) -> str:
        """One token a line, root first: what :meth:`parse` and ``nomos inspect`` read."""
        return "\n".join(base64.urlsafe_b64encode(token).rstrip(b"=").decode() for token in self.chain)

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Reads the text form.

        Raises:
            Malformed: a line is no token, or there is none, or too many.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not 1 <= len(lines) <= CHAIN_LENGTH_MAX:
            raise Malformed(f"a grant has 1 to {CHAIN_LENGTH_MAX} lines, one token each; got {len(lines)}")
        chain = tuple(parse_token_text(line) for line in lines)
        for token in chain:
            parse_delegation(token)
        return cls(chain=chain)


def hand_on(
    signing_key: SigningKey,
    chain: tuple[bytes, ...],
    *,
    to: Did,
    only: Mapping[str, Ipld],
    ttl_seconds: int | None,
) -> Grant:
    """Signs one more link below ``chain``.

    Args:
        signing_key: of the agent that holds the chain.
        chain: root first.
        to: the sub-agent's key.
        only: arguments by path (``state``, ``labels.0``) and the value that each must have.
        ttl_seconds: life from now; None is as long as the chain lives.

    Raises:
        Malformed: a path or value cannot be a policy's; more than :data:`ONLY_MAX`.
        Expired: the chain has run out.
        NotCovered: by its subclasses: the chain is another key's, or the life is longer than its own.
        LimitExceeded: the chain would be longer than ``chain_length_max``.
    """
    if len(only) > ONLY_MAX:
        raise Malformed(f"ONLY_MAX is {ONLY_MAX}")
    policy: list[Ipld] = [["==", f".args.{path}", value] for path, value in only.items()]
    end, now = Grant(chain=chain).expires_at, int(time.time())
    if end < now:
        raise Expired("the delegation has expired; authorize again")
    link = attenuate(
        signing_key,
        chain,
        audience=to,
        expires_at=end if ttl_seconds is None else now + ttl_seconds,
        nonce=os.urandom(NONCE_BYTES),
        policy=policy,
    )
    return Grant(chain=(*chain, link))

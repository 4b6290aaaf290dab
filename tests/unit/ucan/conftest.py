"""Keys and tokens for the UCAN tests. Seeds are hashes of labels; none is used anywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nomos.keys import SigningKey
from nomos.request import command_of, request_digest
from nomos.ucan.cid import Link, cid_of
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.envelope import Kind, seal
from nomos.ucan.grant import mint_grant, sign_request
from nomos.ucan.verify import VerifiedInvocation, verify_invocation

VECTORS = Path(__file__).parents[2] / "vectors" / "ucan"


class World:
    """One tenant, its cosigner, an agent, two sub-agents and a stranger, at one fixed time."""

    now = 1_800_000_000
    action = "github:issues.create"
    resource = "github:repo/acme/site"
    args: dict[str, object] = {"title": "hello", "labels": ["bug", "urgent"], "draft": False, "milestone": 7}  # noqa: RUF012
    vectors = VECTORS

    def __init__(self) -> None:
        self.tenant = self.key("tenant acme")
        self.cosigner = self.key("cosigner acme")
        self.agent = self.key("agent support-bot")
        self.runner = self.key("agent runner")
        self.intern = self.key("agent intern")
        self.stranger = self.key("stranger")
        self.command = command_of(self.action)
        self.digest = request_digest(self.action, self.resource, self.args)
        self.nonce = hashlib.sha256(b"TEST ONLY nonce").digest()[:12]

    @staticmethod
    def key(label: str) -> SigningKey:
        return SigningKey(hashlib.sha256(f"TEST ONLY {label}".encode()).digest())

    def grant(self, **changes: object) -> bytes:
        fields: dict[str, object] = {
            "agent": self.agent.did,
            "command": self.command,
            "resource": self.resource,
            "digest": self.digest,
            "now": self.now,
            "ttl_seconds": 60,
            "nonce": self.nonce,
        }
        signing_key = changes.pop("signing_key", self.tenant)
        return mint_grant(signing_key, **{**fields, **changes})  # type: ignore[arg-type]

    def raw_delegation(self, signing_key: SigningKey | None = None, **changes: Ipld) -> bytes:
        """A delegation with any field, also such as minting refuses. ``drop`` names a field to leave out."""
        signing_key = signing_key or self.tenant
        payload: dict[str, Ipld] = {
            "iss": signing_key.did,
            "aud": self.agent.did,
            "sub": self.tenant.did,
            "cmd": self.command,
            "pol": [["==", ".resource", self.resource], ["==", ".digest", self.digest]],
            "exp": self.now + 60,
            "nonce": self.nonce,
        }
        return seal(signing_key, Kind.DELEGATION, _changed(payload, changes))

    def raw_invocation(
        self, proofs: Sequence[bytes] = (), signing_key: SigningKey | None = None, **changes: Ipld
    ) -> bytes:
        """An invocation with any field, also such as signing refuses."""
        signing_key = signing_key or self.agent
        payload: dict[str, Ipld] = {
            "iss": signing_key.did,
            "sub": self.tenant.did,
            "cmd": self.command,
            "args": {"resource": self.resource, "connection": "", "args": dict(self.args), "digest": self.digest},  # type: ignore[dict-item]
            "prf": [Link(cid_of(token)) for token in proofs],
            "exp": self.now + 60,
            "nonce": self.nonce,
        }
        return seal(signing_key, Kind.INVOCATION, _changed(payload, changes))

    def sign(self, proofs: Sequence[bytes], **changes: object) -> bytes:
        fields: dict[str, object] = {
            "subject": self.tenant.did,
            "action": self.action,
            "resource": self.resource,
            "args": self.args,
            "proofs": proofs,
            "now": self.now,
            "ttl_seconds": 60,
            "nonce": self.nonce,
        }
        signing_key = changes.pop("signing_key", self.agent)
        return sign_request(signing_key, **{**fields, **changes})  # type: ignore[arg-type]

    def verify(
        self,
        invocation: bytes,
        proofs: Sequence[bytes],
        *,
        now: int | None = None,
        revoked: Callable[[bytes], bool] = lambda _cid: False,
    ) -> VerifiedInvocation:
        return verify_invocation(
            invocation,
            proofs,
            now=self.now if now is None else now,
            trusted_roots={self.tenant.did},
            revoked=revoked,
        )


def _changed(payload: dict[str, Ipld], changes: dict[str, Ipld]) -> dict[str, Ipld]:
    dropped = changes.pop("drop", None)
    return {name: value for name, value in {**payload, **changes}.items() if name != dropped}


@pytest.fixture(scope="session")
def world() -> World:
    return World()

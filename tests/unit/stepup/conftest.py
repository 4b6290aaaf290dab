"""The stage of these tests: a tenant, an approver, and an authenticator that can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, ClassVar

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from nomos.keys import SigningKey
from nomos.request import request_digest
from nomos_stepup.approvercommands import AddApprover, EnrolPasskey, OfferEnrolment
from nomos_stepup.approvers import Approver, decide_approver, evolve_approver
from nomos_stepup.challenge import ApprovalRequest, ReasonPolicy, args_text_of, text_sha256
from nomos_stepup.domain import Approval, Approve, Open, decide, evolve
from nomos_stepup.facts import VerifiedAssertion
from nomos_stepup.party import RelyingParty, relying_party
from nomos_stepup.responses import parse_assertion, parse_registration
from nomos_stepup.webauthn import verify_assertion, verify_registration

UP, UV, BE, BS, AT, ED = 0x01, 0x04, 0x08, 0x10, 0x40, 0x80


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Authenticator:
    """An authenticator and its browser; every part of what it sends can be chosen."""

    def __init__(self, algorithm: str = "ES256", flags: int = 0) -> None:
        self.algorithm = algorithm
        self.flags = flags
        self.counter = 0
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        self.credential_id = hashlib.sha256(self.cose).digest()[:16]

    @property
    def cose(self) -> bytes:
        numbers = self.private.public_key().public_numbers()
        if self.algorithm == "ES256":
            x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
            return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        return cbor2.dumps({1: 3, 3: -257, -1: numbers.n.to_bytes(256, "big"), -2: numbers.e.to_bytes(3, "big")})

    def client_data(self, kind: str, challenge: bytes, origin: str, **members: object) -> bytes:
        return json.dumps(
            {"type": kind, "challenge": b64(challenge), "origin": origin, "crossOrigin": False, **members}
        ).encode()

    def register(
        self,
        challenge: bytes,
        *,
        rp_id: str = "approve.example.test",
        origin: str = "https://approve.example.test",
        flags: int = UP | UV | AT,
        cose: bytes | None = None,
        aaguid: bytes = bytes(16),
        fmt: str = "none",
        statement: dict[str, object] | None = None,
        extensions: bytes = b"",
        client_data: bytes | None = None,
        kind: str = "webauthn.create",
        **members: object,
    ) -> dict[str, Any]:
        client = client_data or self.client_data(kind, challenge, origin, **members)
        data = hashlib.sha256(rp_id.encode()).digest() + bytes([flags | self.flags]) + self.counter.to_bytes(4, "big")
        if flags & AT:
            data += aaguid + len(self.credential_id).to_bytes(2, "big") + self.credential_id + (cose or self.cose)
        data += extensions
        if fmt == "packed" and statement is None:
            alg = -7 if self.algorithm == "ES256" else -257
            statement = {"alg": alg, "sig": self.signature(data + hashlib.sha256(client).digest())}
        attestation = cbor2.dumps({"fmt": fmt, "attStmt": statement or {}, "authData": data})
        return self.response(clientDataJSON=b64(client), attestationObject=b64(attestation))

    def sign(
        self,
        challenge: bytes,
        *,
        rp_id: str = "approve.example.test",
        origin: str = "https://approve.example.test",
        flags: int = UP | UV,
        counter: int | None = None,
        extensions: bytes = b"",
        client_data: bytes | None = None,
        kind: str = "webauthn.get",
        **members: object,
    ) -> dict[str, Any]:
        if counter is None:
            self.counter += 1
            counter = self.counter
        client = client_data or self.client_data(kind, challenge, origin, **members)
        data = hashlib.sha256(rp_id.encode()).digest() + bytes([flags | self.flags]) + counter.to_bytes(4, "big")
        data += extensions
        return self.response(
            clientDataJSON=b64(client),
            authenticatorData=b64(data),
            signature=b64(self.signature(data + hashlib.sha256(client).digest())),
        )

    def signature(self, signed: bytes) -> bytes:
        if self.algorithm == "ES256":
            return bytes(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return bytes(self.private.sign(signed, padding.PKCS1v15(), hashes.SHA256()))

    def response(self, **response: str) -> dict[str, Any]:
        named = b64(self.credential_id)
        return {"id": named, "rawId": named, "type": "public-key", "response": response}


class Stage:
    """Values that are right in every respect, to be changed in one."""

    Authenticator = Authenticator
    UP, UV, BE, BS, AT, ED = UP, UV, BE, BS, AT, ED
    NOW = 1_800_000_000
    ARGS: ClassVar[dict[str, object]] = {"delete_branch": True, "note": "old site"}
    DIGEST = request_digest("github:repos.delete", "github:repo/acme/site", ARGS, "github")
    party: RelyingParty = relying_party(
        rp_id="approve.example.test",
        name="Nomos test",
        origins=("https://approve.example.test", "https://eu.approve.example.test"),
    )

    b64 = staticmethod(b64)

    def request(self, **changes: object) -> ApprovalRequest:
        right = ApprovalRequest(
            v=1,
            approval="ap_" + "1" * 32,
            tenant="acme",
            app="support",
            agent="site-bot",
            agent_did=SigningKey(hashlib.sha256(b"the agent of this test").digest()).did,
            behalf=None,
            connection="github",
            action="github:repos.delete",
            risk="destructive",
            resource="github:repo/acme/site",
            args_digest=self.DIGEST.hex(),
            args_text_sha256=text_sha256(args_text_of(self.ARGS)),
            body_sha256=None,
            request="rq_" + "2" * 32,
            decision="dc_" + "3" * 32,
            revision=7,
            policy_set="5" * 64,
            policies=(ReasonPolicy(id="destructive-needs-human", description="Deleting needs a human."),),
            needed=1,
            asked_at=self.NOW,
            expires_at=self.NOW + 900,
        )
        return msgspec.structs.replace(right, **changes)

    def opening(self, salt: bytes = b"s" * 32, **changes: object) -> Open:
        return Open(
            request=self.request(**changes),
            salt=salt,
            args_text=args_text_of(self.ARGS),
            pending_of_agent=0,
            now=self.NOW,
        )

    def approval(self, salt: bytes = b"s" * 32, **changes: object) -> Approval:
        state: Approval | None = None
        for event in decide(None, self.opening(salt, **changes)):
            state = evolve(state, event)
        assert state is not None
        return state

    def approver(
        self, *authenticators: Authenticator, id: str = "ada", tenant: str = "acme", software: bool = False
    ) -> Approver:
        state = self.then_approver(
            None,
            AddApprover(
                tenant=tenant,
                approver=id,
                name="Ada L.",
                user_handle=hashlib.sha256(f"{tenant}/{id}".encode()).digest(),
                now=self.NOW,
            ),
        )
        for number, authenticator in enumerate(authenticators):
            challenge = hashlib.sha256(f"{id}{number}".encode()).digest()
            state = self.then_approver(
                state, OfferEnrolment(challenge=challenge, expires_at=self.NOW + 600, now=self.NOW)
            )
            registration = verify_registration(
                parse_registration(authenticator.register(challenge)), challenge=challenge, party=self.party
            )
            state = self.then_approver(
                state, EnrolPasskey(registration=registration, label="key", is_taken=False, now=self.NOW)
            )
        return state

    def then_approver(self, state: Approver | None, command: Any) -> Approver:
        for event in decide_approver(state, command):
            state = evolve_approver(state, event)
        assert state is not None
        return state

    def assertion(
        self, approver: Approver, response: dict[str, Any], challenge: bytes, party: RelyingParty | None = None
    ) -> VerifiedAssertion:
        parsed = parse_assertion(response)
        return verify_assertion(
            parsed,
            challenge=challenge,
            passkey=approver.passkey(parsed.credential_id),
            user_handle=approver.user_handle,
            party=party or self.party,
        )

    def approve(self, approval: Approval, approver: Approver, authenticator: Authenticator, now: int = 0) -> Approve:
        verified = self.assertion(approver, authenticator.sign(approval.challenge), approval.challenge)
        return Approve(approver=approver, assertion=verified, now=now or self.NOW + 1)

    def then(self, state: Approval | None, command: Any) -> Approval:
        for event in decide(state, command):
            state = evolve(state, event)
        assert state is not None
        return state


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage()

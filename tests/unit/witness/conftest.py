"""A log in small, as a witness sees it: sizes, roots, proofs and signed checkpoints of one or two histories."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest

from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner
from nomos.log.tree import consistency_proof, leaf_hash, root_from_leaf_hashes
from nomos.witness.decide import format_request

ORIGIN = "audit.example.com/prod"


class History:
    """Leaves that are what they are by ``name``: two names, two histories with a common beginning of ``common``."""

    origin = ORIGIN

    def __init__(self, name: str = "a", common: int = 0, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.signer = NoteSigner(origin, sha256(f"TEST ONLY {origin}".encode()).digest())
        self._leaves = [
            leaf_hash(sha256(f"{'common' if n < common else name} {n}".encode()).digest()) for n in range(70)
        ]

    @property
    def logs(self) -> dict[str, list[object]]:
        return {self.origin: [self.signer.verifier_key]}

    def root(self, size: int) -> bytes:
        return root_from_leaf_hashes(self._leaves, size)

    def note(self, size: int, signers: Sequence[NoteSigner] | None = None) -> bytes:
        checkpoint = Checkpoint(origin=self.origin, size=size, root=self.root(size))
        return sign_checkpoint(checkpoint, [self.signer] if signers is None else signers)

    def proof(self, old: int, new: int) -> list[bytes]:
        return consistency_proof(self._leaves, old, new)

    def request(self, old: int, new: int) -> bytes:
        return format_request(old, self.proof(old, new), self.note(new))


@pytest.fixture(scope="session")
def history() -> type[History]:
    return History

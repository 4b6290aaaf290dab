"""``head.json``: a tenant's head is proven in a statement, and the statement in the log; anything else is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.chain import genesis, link
from nomos.log.headproof import HeadProof, check_head, format_head, parse_head
from nomos.log.heads import (
    HEADS,
    Place,
    Roots,
    Statement,
    event_of,
    prove_leaf,
    root_of,
    tenant_key,
    tenant_leaf,
    tenant_leaves,
)
from nomos.log.record import canonical_bytes
from nomos.log.tree import EMPTY_ROOT, CompactRange, ProofFailed, inclusion_proof, leaf_hash

BLINDING = bytes(range(32))
HEAD_OF = {name: (number + 1, f"{number + 1:064x}") for number, name in enumerate(("acme", "beta", "gamma", "_sys"))}


def made(tenant: str = "acme", kind: str = HEADS, of: str = "_sys", seq: int = 5) -> tuple[HeadProof, int, bytes]:
    """A proof for ``tenant``, the size and the root."""
    leaves = tenant_leaves(HEAD_OF, BLINDING)
    data = [tenant_leaf(one) for one in leaves]
    index = next(at for at, one in enumerate(leaves) if one.n == HEAD_OF[tenant][0])
    statement = Statement(
        last=4,
        keys=("log+00000000",),
        pc_root=EMPTY_ROOT.hex(),
        src=(Place(s="INTAKE", q=1),),
        tenants=Roots(n=len(leaves), root=root_of(data).hex()),
    )
    record: dict[str, Any] = {
        "actor": {"id": "audit", "kind": "system"}, "cause": "", "corr": "", "event": event_of(statement),
        "id": f"ev_{seq:032x}", "pc": {"id": "a1", "n": 0, "svc": "audit"}, "seq": seq,
        "src": {"i": 0, "q": 1, "s": "INTAKE"}, "tenant": of, "tprev": "0" * 64, "ts": "2026-11-22T12:00:00.000000Z",
        "tseq": 0, "type": kind, "v": 1,
    }  # fmt: skip
    encoded, prev = canonical_bytes(record), genesis("log.example.com/x")
    hashes = [leaf_hash(bytes([number] * 32)) for number in range(5)] + [leaf_hash(link(prev, encoded))]
    tree = CompactRange()
    tree.extend([bytes([number] * 32) for number in range(5)] + [link(prev, encoded)])
    proof = HeadProof(
        key=tenant_key(BLINDING, tenant),
        leaf=leaves[index],
        index=index,
        path=tuple(prove_leaf(data, index)),
        record=encoded,
        prev=prev,
        inclusion=tuple(inclusion_proof(hashes, 5, 6)),
    )
    return proof, 6, tree.root()


@pytest.mark.parametrize("tenant", HEAD_OF)
def test_every_tenants_head_is_proven_and_survives_the_file(tenant: str) -> None:
    proof, size, root = made(tenant)
    again = parse_head(format_head(proof))
    assert again == proof
    assert check_head(again, tenant, size=size, root=root).last == 4


def test_a_head_is_of_no_other_tenant() -> None:
    proof, size, root = made("acme")
    with pytest.raises(ProofFailed):
        check_head(proof, "beta", size=size, root=root)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"leaf": msgspec.structs.replace(p.leaf, n=p.leaf.n + 1)},
        lambda p: {"leaf": msgspec.structs.replace(p.leaf, h="f" * 64)},
        lambda p: {"key": bytes(32)},
        lambda p: {"index": p.index ^ 1},
        lambda p: {"path": p.path[:-1]},
        lambda p: {"path": (*p.path, bytes(32))},
        lambda p: {"inclusion": p.inclusion[:-1]},
        lambda p: {"prev": bytes(32)},
        lambda p: {"record": p.record.replace(b'"corr":""', b'"corr":"x"')},
    ],
)
def test_a_changed_proof_of_a_head_is_refused(change: Any) -> None:
    proof, size, root = made()
    with pytest.raises((ProofFailed, MalformedRecord)):
        check_head(msgspec.structs.replace(proof, **change(proof)), "acme", size=size, root=root)


def test_only_a_statement_of_the_logs_own_counts() -> None:
    for more in ({"kind": "test.decision"}, {"of": "acme"}, {"seq": 4}):
        proof, size, root = made(**more)  # type: ignore[arg-type]
        with pytest.raises((MalformedRecord, ProofFailed)):
            check_head(proof, "acme", size=size, root=root)


@given(st.binary(max_size=400))
@settings(max_examples=100)
def test_any_bytes_are_a_proof_of_a_head_or_malformed(encoded: bytes) -> None:
    for one in (encoded, encoded + b"\n"):
        with pytest.raises((MalformedRecord, LimitExceeded)):
            parse_head(one)

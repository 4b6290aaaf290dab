"""Tokens of Nomos and of the npm package iso-ucan 0.5.0, each read and verified by the other: ``make interop``.

Not a part of ``make test``: it needs node 20 or newer, and fetches the package. What both agree on is what these tests
show: the envelope, the varsig header of Ed25519, canonical DAG-CBOR, CIDs, did:key, delegations, a hand-over,
invocations, and policies that compare text and bytes.

Where iso-ucan differs from UCAN 1.0, or from what Nomos takes:

* It writes the tag ``1.0.0-rc.1`` and reads any version. Nomos writes ``1.0.0`` and reads these two.
* A command is below another if it begins alike: ``/github/issues`` covers ``/github/issuesx``. The specification, and
  Nomos, compare segment by segment (:func:`test_iso_takes_a_command_that_only_begins_alike_and_we_refuse_it`).
* It verifies, and names by CID, the bytes that it makes again from what it decoded, not those that it received. So it
  takes any four letters for the ``ucan`` of a tag (:func:`test_iso_refuses_ours_with_any_byte_changed`). Nomos checks
  the received bytes, and refuses a second spelling before it.
* An invocation always names its executor (``aud``), the subject where none is given; Nomos leaves it out, and takes one
  that is the subject.
* It takes delegations of any life, and without an end; Nomos takes 60 seconds.
* ``iat`` is written only where it is given.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from nomos.errors import BadSignature, CommandNotCovered, Malformed, NotCovered
from nomos.handover import hand_on
from nomos.keys import SigningKey
from nomos.request import command_of, request_digest
from nomos.ucan.cid import cid_of, format_cid
from nomos.ucan.delegation import mint_delegation
from nomos.ucan.grant import mint_grant, pin_policy, sign_request
from nomos.ucan.invocation import sign_invocation
from nomos.ucan.verify import VerifiedInvocation, verify_invocation

#: Where ``make interop`` installs the package.
FOLDER: Final = Path(__file__).parents[2] / ".venv" / "interop"
NODE_SECONDS: Final = 120
ACTION, RESOURCE, CONNECTION = "github:issues.create", "github:repo/acme/site", "github"
ARGS: dict[str, Any] = {"title": "ä título", "labels": ["bug", "p1"], "count": 3, "draft": False, "none": None}
COMMAND = command_of(ACTION)
DIGEST = request_digest(ACTION, RESOURCE, ARGS, CONNECTION)
SEEDS = {name: os.urandom(32) for name in ("issuer", "agent", "helper")}
ISSUER, AGENT, HELPER = (SigningKey(seed) for seed in SEEDS.values())
TTL_SECONDS = 50

Chain = tuple[bytes, list[bytes]]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def iso(**asked: Any) -> Any:
    """What iso-ucan answers."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "iso-ucan").is_dir():
        pytest.fail("node or the package is missing: run make interop")
    done = subprocess.run(
        [node, "iso.mjs"], cwd=FOLDER, input=json.dumps(asked), capture_output=True, text=True, timeout=NODE_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def iso_verifies(*chains: Chain) -> list[dict[str, Any]]:
    cases = [{"invocation": b64(invocation), "proofs": [b64(p) for p in proofs]} for invocation, proofs in chains]
    answers: list[dict[str, Any]] = iso(do="verify", cases=cases)
    assert len(answers) == len(chains)
    return answers


def we_verify(invocation: bytes, proofs: list[bytes]) -> VerifiedInvocation:
    return verify_invocation(
        invocation, proofs, now=int(time.time()), trusted_roots={ISSUER.did}, revoked=lambda _: False
    )


def our_root(command: str = COMMAND) -> bytes:
    return mint_grant(
        ISSUER, agent=AGENT.did, command=command, resource=RESOURCE, digest=DIGEST, now=int(time.time()),
        ttl_seconds=TTL_SECONDS, nonce=os.urandom(12),
    )  # fmt: skip


def invoked(key: SigningKey, proofs: list[bytes]) -> bytes:
    return sign_request(
        key, subject=ISSUER.did, action=ACTION, resource=RESOURCE, args=ARGS, proofs=proofs, now=int(time.time()),
        ttl_seconds=TTL_SECONDS, nonce=os.urandom(12), connection=CONNECTION,
    )  # fmt: skip


def our_chain(handed: bool) -> Chain:
    root = our_root()
    if not handed:
        return invoked(AGENT, [root]), [root]
    chain = hand_on(AGENT, (root,), to=HELPER.did, only={"draft": False}, ttl_seconds=30).chain
    return invoked(HELPER, list(chain)), list(chain)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """What iso-ucan makes: ``own`` by the agent that was granted it, ``handed`` by a helper."""
    made: dict[str, Any] = iso(
        do="make", seeds={name: b64(seed) for name, seed in SEEDS.items()}, command=COMMAND, resource=RESOURCE,
        connection=CONNECTION, args=ARGS, digest=b64(DIGEST), expires_at=int(time.time()) + TTL_SECONDS,
    )  # fmt: skip
    return made


def their_chain(made: dict[str, Any]) -> Chain:
    return base64.b64decode(made["invocation"]), [base64.b64decode(p) for p in made["proofs"]]


def spoilt(chain: Chain) -> list[tuple[str, Chain]]:
    """The chain with one bit of one byte changed, for every byte of every token."""
    invocation, proofs = chain
    tokens = [invocation, *proofs]
    found = []
    for which, token in enumerate(tokens):
        for at in range(len(token)):
            changed = bytearray(token)
            changed[at] ^= 1 << (at % 8)
            all_ = [*tokens[:which], bytes(changed), *tokens[which + 1 :]]
            found.append((f"token {which}, byte {at}", (all_[0], all_[1:])))
    return found


@pytest.mark.parametrize("handed", [False, True])
def test_iso_verifies_what_we_sign_and_reads_the_same(handed: bool) -> None:
    invocation, proofs = our_chain(handed)
    (read,) = iso_verifies((invocation, proofs))
    ours = we_verify(invocation, proofs)
    assert read == {
        "invocation": format_cid(cid_of(invocation)),
        "proofs": [format_cid(cid_of(p)) for p in proofs],
        "issuer": (HELPER if handed else AGENT).did,
        "subject": ISSUER.did,
        "command": COMMAND,
        "resource": RESOURCE,
        "arguments": ARGS,
        "digest": b64(DIGEST),
        "expires_at": read["expires_at"],
    }
    assert ours.expires_at <= read["expires_at"] <= int(time.time()) + TTL_SECONDS


@pytest.mark.parametrize("name", ["own", "handed"])
def test_we_verify_what_iso_signs_and_read_the_same(theirs: dict[str, Any], name: str) -> None:
    made = theirs[name]
    invocation, proofs = their_chain(made)
    read = we_verify(invocation, proofs)
    assert format_cid(read.invocation_cid) == made["cid"]
    assert [format_cid(cid) for cid in read.delegation_cids] == made["cids"]
    assert read.holders == ((AGENT.did,) if name == "own" else (AGENT.did, HELPER.did))
    assert (read.agent, read.subject, read.command, read.resource) == (
        read.holders[-1], ISSUER.did, COMMAND, RESOURCE,
    )  # fmt: skip
    assert (read.args, read.digest, read.connection) == (ARGS, DIGEST, CONNECTION)


def test_iso_refuses_ours_with_any_byte_changed() -> None:
    invocation, proofs = our_chain(handed=True)
    cases = spoilt((invocation, proofs))
    answers = iso_verifies(*(chain for _, chain in cases))
    taken = {what for (what, _), read in zip(cases, answers, strict=True) if "error" not in read}
    # The word before the slash of each tag, which it does not read and makes anew.
    tags = [(which, token.index(b"ucan/")) for which, token in enumerate([invocation, *proofs])]
    assert taken == {f"token {which}, byte {first + n}" for which, first in tags for n in range(len("ucan"))}
    for _, (changed, links) in cases:
        with pytest.raises((Malformed, BadSignature, NotCovered)):
            we_verify(changed, links)


def test_we_refuse_theirs_with_any_byte_changed(theirs: dict[str, Any]) -> None:
    for what, (invocation, proofs) in spoilt(their_chain(theirs["handed"])):
        with pytest.raises((Malformed, BadSignature, NotCovered)):
            we_verify(invocation, proofs)
            pytest.fail(what)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda chain: (chain[0], chain[1][:1]),
        lambda chain: (chain[0], chain[1][::-1]),
        lambda chain: (invoked(AGENT, chain[1]), chain[1]),
        lambda chain: (chain[0], [our_root(), chain[1][1]]),
    ],
    ids=["a missing link", "links in another order", "by another key", "another root"],
)
def test_both_refuse_a_chain_that_does_not_fit(spoil: Callable[[Chain], Chain]) -> None:
    good = our_chain(handed=True)
    invocation, proofs = spoil(good)
    if invocation == good[0] and sorted(proofs) == sorted(good[1]):
        # iso-ucan finds proofs by their CIDs, in the order of the invocation; we want them in that order.
        assert "error" not in iso_verifies((invocation, proofs))[0]
    else:
        assert "error" in iso_verifies((invocation, proofs))[0]
    with pytest.raises((Malformed, NotCovered)):
        we_verify(invocation, proofs)


def test_iso_takes_a_command_that_only_begins_alike_and_we_refuse_it() -> None:
    expires_at = int(time.time()) + TTL_SECONDS
    root = mint_delegation(
        ISSUER, audience=AGENT.did, subject=ISSUER.did, command="/github/issues",
        policy=pin_policy(RESOURCE, DIGEST), expires_at=expires_at, nonce=os.urandom(12),
    )  # fmt: skip
    invocation = sign_invocation(
        AGENT, subject=ISSUER.did, command="/github/issuesx",
        arguments={"resource": RESOURCE, "connection": CONNECTION, "args": ARGS, "digest": DIGEST},
        proofs=[cid_of(root)], expires_at=expires_at, nonce=os.urandom(12),
    )  # fmt: skip
    assert "error" not in iso_verifies((invocation, [root]))[0]
    with pytest.raises(CommandNotCovered):
        we_verify(invocation, [root])

"""A log of any size on disk, made fast: real records, a real chain, signed; what ``bench verify`` verifies.

The records are decisions of about 675 bytes of :data:`TENANTS` tenants from :data:`PRODUCERS` producers. All but the
numbers and hashes that change from record to record is made once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from nomos.log.archive import ArchiveRow, write_export
from nomos.log.chain import NO_HASH, genesis
from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner
from nomos.log.record import canonical_bytes, format_ts
from nomos.log.tree import CompactRange

ORIGIN: Final = "nomos.localhost/bench"
TENANTS: Final = 50
PRODUCERS: Final = 4
#: Records that one journal message carries; as group commit does under load.
BATCH: Final = 32
#: 2026-11-22 00:00 UTC; 20,000 records a second stay within one day for hours.
_START: Final = 1_795_305_600_000_000
_MICROSECONDS: Final = 50
#: Leaves that the tree takes at once.
_CHUNK: Final = 65_536


def sample(tenant: str) -> dict[str, object]:
    """One record's members, with values that :class:`_Mould` puts in later."""
    return {
        "actor": {"id": "issue-bot", "kind": "agent"},
        "cause": "",
        "corr": "rq_0123456789abcdef0123456789abcdef",
        "event": {
            "alarm": False,
            "at_ms": 1_795_305_600_000,
            "decision": "dc_0123456789abcdef0123456789abcdef",
            "entities": [],
            "errors": [],
            "outcome": "allow",
            "passes": [],
            "policies": ["triage-reads"],
            "policy_set": sha256(b"a policy set").hexdigest(),
            "reason": "",
            "request": {"action": "github:issues.list", "args": {}, "resource": "github:repo/acme/site"},
            "revision": 12,
        },
        "id": "ev_0123456789abcdef0123456789abcdef",
        "pc": {"id": "policy-7f", "n": 111111111, "svc": "policy"},
        "seq": 222222222,
        "src": {"i": 3333333, "q": 444444444, "s": "INTAKE"},
        "tenant": tenant,
        "tprev": "5" * 64,
        "ts": "2026-11-22T00:00:06.666666Z",
        "tseq": 777777777,
        "type": "authz.decision",
        "v": 1,
    }


class _Mould:
    """A tenant's records as a form: canonical bytes with holes."""

    def __init__(self, tenant: str) -> None:
        text = canonical_bytes(sample(tenant)).decode().replace("%", "%%")
        for value, hole in (
            ("policy-7f", "policy-%d"),
            ("111111111", "%d"),
            ("222222222", "%d"),
            ("3333333", "%d"),
            ("444444444", "%d"),
            ("5" * 64, "%s"),
            ("2026-11-22T00:00:06.666666Z", "%s"),
            ("777777777", "%d"),
        ):
            before, found, after = text.partition(value)
            if not found:
                raise AssertionError(f"the mould lost {value}")
            text = before + hole + after
        self.form = text


def records(size: int) -> Iterator[ArchiveRow]:
    """``size`` records with their chain hashes, from genesis."""
    moulds = [_Mould(f"tenant-{number:02d}").form for number in range(TENANTS)]
    heads = [NO_HASH.hex()] * TENANTS
    head, hexed = genesis(ORIGIN), genesis(ORIGIN).hex().encode()
    for seq in range(size):
        tenant, batch, at = seq % TENANTS, seq // BATCH, seq % BATCH
        producer = batch % PRODUCERS
        ts = format_ts(_START + batch * BATCH * _MICROSECONDS)
        record = (
            moulds[tenant]
            % (producer, batch // PRODUCERS * BATCH + at, seq, at, batch + 1, heads[tenant], ts, seq // TENANTS)
        ).encode()
        head = sha256(hexed + record).digest()
        hexed = head.hex().encode()
        heads[tenant] = hexed.decode()
        yield ArchiveRow(seq, head, record)


def write_log(folder: Path, size: int) -> bytes:
    """Writes a signed export of ``size`` records; gives the trust policy that it verifies under."""
    signer = NoteSigner(ORIGIN, os.urandom(32))
    # Once for the root, once for the files: a note is signed before the export that it vouches for is written.
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=_root(size))
    write_export(
        folder,
        origin=ORIGIN,
        kind="log",
        tenant=None,
        rows=records(size),
        checkpoints=[sign_checkpoint(checkpoint, [signer])],
        tool="nomos bench",
    )
    return f"log {signer.verifier_key}\nquorum none\n".encode()


def _root(size: int) -> bytes:
    tree = CompactRange()
    rows = records(size)
    while chunk := [row.hash for row in islice(rows, _CHUNK)]:
        tree.extend(chunk)
    return tree.root()

"""A real log in small: records, keys, checkpoints and exports, made at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.log.archive import ArchiveRow, write_export
from nomos.log.chain import NO_HASH, genesis, link
from nomos.log.checkpoint import Checkpoint, WitnessSigner, add_signature, sign_checkpoint
from nomos.log.index import INDEX_NAME, file_digest, format_index, parse_index
from nomos.log.note import NoteSigner, parse_note
from nomos.log.proof import many_proof
from nomos.log.record import canonical_bytes, format_ts
from nomos.log.report import Report
from nomos.log.tree import CompactRange
from nomos.log.verify import verify_export

ORIGIN = "audit.example.com/prod"
NOW = 1_795_305_600
TENANTS = ("acme", "globex", "_sys")


def seed(name: str) -> bytes:
    return sha256(f"TEST ONLY {name} key".encode()).digest()


class Book:
    """A log that its author can also falsify: rows, notes and trust policy are there to be changed."""

    def __init__(self, size: int, checkpoints: Sequence[int] | None = None, start: str | None = None) -> None:
        self.signer = NoteSigner(ORIGIN, seed("log"))
        self.witnesses = [WitnessSigner(f"witness.example.org/w{n}", seed(f"witness {n}")) for n in (1, 2, 3)]
        self.rows: list[ArchiveRow] = []
        self.objects: list[dict[str, Any]] = []
        self._start = 1_795_300_000_000_000
        for seq in range(size):
            self.objects.append(self.object_at(seq))
        self.chain()
        self.notes = {at: self.note(at) for at in (checkpoints if checkpoints is not None else [size])}

    def object_at(self, seq: int) -> dict[str, Any]:
        tenant = TENANTS[seq % 3]
        own = tenant == "_sys"
        return {
            "actor": {"id": "agent-1", "kind": "agent"},
            "cause": None,
            "corr": "rq_1",
            "event": {"effect": "allow" if seq % 2 else "deny", "note": f"№ {seq} é\u2028"},
            "id": f"ev_{seq}",
            "pc": None if own else {"id": f"p{seq % 2}", "n": 0, "svc": "policy"},
            "seq": seq,
            "src": None if own else {"i": seq % 5, "q": 100 + seq // 5, "s": "INTAKE"},
            "tenant": tenant,
            "tprev": "",
            "ts": format_ts(self._start + seq * 1_500_000),
            "tseq": 0,
            "type": "test.decision" if not own else "audit.note",
            "v": 1,
        }

    def chain(self, *, first: int = 0, count: bool = True) -> None:
        """Gives every object from ``first`` on its counters and hashes, as the writer would."""
        head = genesis(ORIGIN) if first == 0 else self.rows[first - 1].hash
        tenants: dict[str, tuple[int, bytes]] = {}
        producers: dict[str, int] = {}
        rows: list[ArchiveRow] = []
        for seq, one in enumerate(self.objects):
            tseq, tprev = tenants.get(one["tenant"], (0, NO_HASH))
            if count:
                one["seq"], one["tseq"], one["tprev"] = seq, tseq, tprev.hex()
                if one["pc"] is not None:
                    one["pc"]["n"] = producers.get(one["pc"]["id"], 0)
                    producers[one["pc"]["id"]] = one["pc"]["n"] + 1
            if seq < first:
                row = self.rows[seq]
            else:
                record = canonical_bytes(one)
                own = link(head, record)
                row = ArchiveRow(one["seq"], own, record, head)
                head = own
            tenants[one["tenant"]] = (tseq + 1, row.hash)
            rows.append(row)
        self.rows = rows

    def relink(self) -> None:
        """Gives every object its tenant's link and chains again; counters of producers stay."""
        head, heads = genesis(ORIGIN), dict[str, str]()
        self.rows = []
        for one in self.objects:
            one["tprev"] = heads.get(one["tenant"], NO_HASH.hex())
            record = canonical_bytes(one)
            own = link(head, record)
            self.rows.append(ArchiveRow(one["seq"], own, record, head))
            head, heads[one["tenant"]] = own, own.hex()

    def root(self, size: int) -> bytes:
        tree = CompactRange()
        tree.extend(row.hash for row in self.rows[:size])
        return tree.root()

    def note(self, size: int, witnesses: Sequence[int] = (0, 1), signer: NoteSigner | None = None) -> bytes:
        checkpoint = Checkpoint(origin=ORIGIN, size=size, root=self.root(size))
        signed = sign_checkpoint(checkpoint, [signer or self.signer])
        for which in witnesses:
            signed = add_signature(signed, self.witnesses[which].cosign(parse_note(signed).text, NOW - 10))
        return signed

    @property
    def trust(self) -> bytes:
        lines = [f"log {self.signer.verifier_key}"]
        lines += [f"witness w{n} {one.verifier_key}" for n, one in enumerate(self.witnesses)]
        return "\n".join([*lines, "group q 2 w0 w1 w2", "quorum q", ""]).encode()

    def export(self, directory: Path, *, group_rows: int = 65_536, tenant: str | None = None) -> Path:
        rows = self.rows
        proof: list[bytes] = []
        if tenant is not None:
            rows = [row for row, one in zip(self.rows, self.objects, strict=True) if one["tenant"] == tenant]
            proof = list(many_proof(self.subtree, [row.seq for row in rows], max(self.notes)))
        write_export(
            directory,
            origin=ORIGIN,
            kind="log" if tenant is None else "tenant",
            tenant=tenant,
            rows=rows,
            checkpoints=list(self.notes.values()),
            proof=proof,
            tool="nomos test",
            group_rows=group_rows,
        )
        return directory

    def subtree(self, begin: int, end: int) -> bytes:
        tree = CompactRange()
        tree.extend(row.hash for row in self.rows[begin:end])
        return tree.root()

    def verify(self, directory: Path, level: int = 1, **more: Any) -> Report:
        return verify_export(directory, more.pop("trust", self.trust), level, now=NOW, **more)


def refresh_index(directory: Path, **changes: Any) -> None:
    """What an attacker does who can write every file: the index fits again."""
    index = parse_index((directory / INDEX_NAME).read_bytes())
    kept = [one for one in index.files if (directory / one.n).exists()]
    files = tuple(msgspec.structs.replace(one, sha256=file_digest(directory / one.n)) for one in kept)
    others = tuple(
        msgspec.structs.replace(one, sha256=file_digest(directory / one.n))
        for one in index.others
        if (directory / one.n).exists()
    )
    changed = msgspec.structs.replace(index, **{"files": files, "others": others, **changes})
    (directory / INDEX_NAME).write_bytes(format_index(changed))


@pytest.fixture(scope="session")
def book() -> type[Book]:
    return Book


@pytest.fixture(scope="session")
def refresh() -> Callable[..., None]:
    return refresh_index

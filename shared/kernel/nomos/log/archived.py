"""The signed days of an archive: roots, seals and proofs, judged without reading a record.

Decides, from the trust policy alone, in this order for each day: the root is signed by a key that may speak for its
size; its last leaf is the day's seal; the root continues the root of the day before, and the records of the parts are a
prefix of it; seals follow one another without a missing day, each naming the one before; the heads that the seal signs
are those of the file beside it. The newest root needs the quorum of witnesses. Then: the parts that ``log.json`` lists
are the parts that the seals name, digest by digest, so that a file's digest is a signed one.

Leaves the records to :mod:`nomos.log.content`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import BadSignature, Malformed
from nomos.log.chain import link
from nomos.log.checkpoint import Checkpoint
from nomos.log.heads import SEAL, Seal, SealRef, parse_leaves, parse_seal
from nomos.log.index import INDEX_NAME, ROOTS_NAME, ExportIndex, PartEntry, root_name
from nomos.log.record import is_own_record, parse_record
from nomos.log.report import Tally, Verdict
from nomos.log.roots import RootProofs, parse_root_proofs
from nomos.log.seals import Opened, Seals, describe, open_note
from nomos.log.statements import Found, check_leaves, follows
from nomos.log.tree import leaf_hash, verify_consistency, verify_inclusion
from nomos.log.trust import TrustPolicy

_DAY: Final = re.compile(rf"{ROOTS_NAME}/([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})")
#: A file of heads: 200 bytes for each tenant.
HEADS_BYTES_MAX: Final = 256 * 1024 * 1024


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One verified day: its seal, where that stands, and its root."""

    seal: Seal
    ref: SealRef
    root: Checkpoint
    note: bytes
    statement: Found
    proofs: RootProofs


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What the days vouch for: the roots, and the statements that records are compared with."""

    seals: Seals
    statements: tuple[Found, ...]


class _Wrong(Exception):
    def __init__(self, verdict: Verdict, reason: str, file: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.file = file


def read_archive(
    directory: Path, index: ExportIndex, trust: TrustPolicy, now: int, tally: Tally, *, strict: bool
) -> Archived | None:
    """Reads and judges all days of the archive.

    Args:
        directory: the archive.
        index: its index, unsigned.
        trust: the auditor's policy.
        now: Unix seconds.
        tally: takes findings, warnings and the roots.
        strict: whether each day's root, not the newest alone, needs the quorum of witnesses.

    Returns:
        What the days vouch for; None where one of them is not right.
    """
    days: list[Day] = []
    names = sorted(one.n for one in index.others if _DAY.fullmatch(one.n))
    if not names:
        tally.fail(Verdict.UNVERIFIABLE, "the archive has no day's root", file=ROOTS_NAME)
        return None
    quorums: list[bool] = []
    for name in names:
        opened = open_note(directory, name, index.origin, trust, tally)
        if opened is None:
            return None
        try:
            day = _judge(directory, name.removeprefix(f"{ROOTS_NAME}/"), opened, days[-1] if days else None)
        except _Wrong as wrong:
            tally.fail(wrong.verdict, wrong.reason, file=wrong.file)
            return None
        described = describe(opened, trust, now, tally)
        tally.roots.append(described)
        quorums.append(described.quorum)
        days.append(day)
    _judge_quorum(names, quorums, tally, strict=strict)
    _judge_parts(index, days, tally)
    newest = days[-1]
    content = newest.proofs.content_size
    tally.to_size = newest.root.size
    tally.checked += [
        f"{len(days)} days, {days[0].seal.day} to {newest.seal.day}: a signed root and a seal for each, none missing",
        "each root continues the one before, and the records of the parts are a prefix of the newest",
        f"{len(index.files)} parts are those that the seals name, with their digests",
        "the heads of tenants beside each seal are those that it signs",
    ]
    return Archived(
        seals=Seals(
            newest=newest.root,
            note=newest.note,
            roots={
                **{day.root.size: day.root.root for day in days if day.root.size <= content},
                content: newest.proofs.content_root,
            },
            records=content,
        ),
        statements=tuple(day.statement for day in days),
    )


def _read(directory: Path, name: str, bytes_max: int) -> bytes:
    try:
        with (directory / name).open("rb") as source:
            content = source.read(bytes_max + 1)
    except FileNotFoundError:
        raise _Wrong(Verdict.INCOMPLETE, "the file is missing", name) from None
    except OSError as error:
        raise _Wrong(Verdict.UNVERIFIABLE, f"the file cannot be read: {error.strerror}", name) from None
    if len(content) > bytes_max:
        raise _Wrong(Verdict.TAMPERED, "the file is longer than any of its kind", name)
    return content


def _judge(directory: Path, day: str, opened: Opened, before: Day | None) -> Day:
    root = opened.verified.checkpoint
    name = root_name(day, ".json")
    try:
        proofs = parse_root_proofs(_read(directory, name, 1 << 20))
        record = parse_record(proofs.seal)
        seal = parse_seal(record.event)
        own = link(proofs.prev, proofs.seal)
        if record.type != SEAL or not is_own_record(record.tenant, record.type):
            raise _Wrong(Verdict.TAMPERED, "the root's last record is no seal", name)
        if not (proofs.day == seal.day == day and record.seq + 1 == proofs.size == root.size):
            raise _Wrong(Verdict.TAMPERED, "root, proofs and seal are not of one day and size", name)
        if seal.last + 1 != proofs.content_size or seal.last >= record.seq:
            raise _Wrong(Verdict.TAMPERED, "the seal speaks of other records than the proofs", name)
        verify_inclusion(root.size - 1, root.size, leaf_hash(own), proofs.inclusion, root.root)
        verify_consistency(proofs.content_size, root.size, proofs.content_root, root.root, proofs.consistency)
        if before is not None:
            verify_consistency(before.root.size, root.size, before.root.root, root.root, proofs.prev_consistency)
    except Malformed as error:
        raise _Wrong(Verdict.TAMPERED, error.detail, name) from None
    except BadSignature as error:
        raise _Wrong(Verdict.TAMPERED, f"a proof does not lead to the signed root: {error.detail}", name) from None
    if proofs.prev_size != (0 if before is None else before.root.size):
        raise _Wrong(Verdict.INCOMPLETE, f"a root of size {proofs.prev_size} comes before this one", name)
    unfollowed = follows(seal, None if before is None else (before.seal, before.ref))
    if unfollowed is not None:
        raise _Wrong(Verdict.INCOMPLETE if _is_later(seal, before) else Verdict.TAMPERED, unfollowed, name)
    return Day(
        seal=seal,
        ref=SealRef(seq=record.seq, h=own.hex()),
        root=root,
        note=opened.note,
        statement=_statement(directory, day, record.seq, proofs.seal, seal),
        proofs=proofs,
    )


def _is_later(seal: Seal, before: Day | None) -> bool:
    """Whether days in between would explain why ``seal`` does not follow."""
    return before is None or seal.day > before.seal.day


def _statement(directory: Path, day: str, seq: int, record: bytes, seal: Seal) -> Found:
    name = root_name(day, ".heads")
    try:
        leaves = parse_leaves(_read(directory, name, HEADS_BYTES_MAX))
    except Malformed as error:
        raise _Wrong(Verdict.TAMPERED, error.detail, name) from None
    wrong = check_leaves(leaves, seal.tenants.n, seal.tenants.root)
    if wrong is not None:
        raise _Wrong(Verdict.TAMPERED, wrong, name)
    return Found(seq=seq, type=SEAL, record=record, leaves=tuple(leaves))


def _judge_quorum(names: list[str], quorums: list[bool], tally: Tally, *, strict: bool) -> None:
    if quorums[-1]:
        tally.checked.append("the newest root has the quorum that the policy demands")
    else:
        tally.fail(Verdict.UNVERIFIABLE, "the newest root lacks the quorum of witnesses", file=names[-1])
    lacking = [name for name, quorum in zip(names[:-1], quorums, strict=False) if not quorum]
    if lacking and strict:
        tally.fail(Verdict.UNVERIFIABLE, f"{len(lacking)} older roots lack the quorum of witnesses", file=lacking[0])
    elif lacking:
        tally.warnings.append(f"{len(lacking)} older roots lack the quorum of witnesses")


def _judge_parts(index: ExportIndex, days: list[Day], tally: Tally) -> None:
    sealed = [PartEntry(**msgspec.structs.asdict(one)) for day in days for one in day.seal.files]
    for day in days:
        if sum(one.rows for one in day.seal.files) != day.seal.count:
            tally.fail(Verdict.TAMPERED, f"the parts of {day.seal.day} do not hold its records", file=INDEX_NAME)
    if list(index.files) == sealed:
        return
    listed = {one.n: one for one in index.files}
    for part in sealed:
        found = listed.pop(part.n, None)
        if found is None:
            tally.fail(Verdict.INCOMPLETE, "log.json does not list a part that a seal names", file=part.n)
        elif found != part:
            tally.fail(Verdict.TAMPERED, "log.json says another thing of the part than its seal", file=part.n)
    for name in listed:
        tally.fail(Verdict.TAMPERED, "no seal names the part", file=name)
    if not listed and {one.n for one in sealed} == {one.n for one in index.files}:
        tally.fail(Verdict.TAMPERED, "log.json lists the parts in another order", file=INDEX_NAME)

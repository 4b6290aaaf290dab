"""The offline verifier: judges an export with nothing but the auditor's trust policy.

Trusted: the policy text and this program. Not trusted: every file of the export; who controls them all can at most
make the verdict other than ``verified``.

Order: index, checkpoints (:mod:`nomos.log.seals`), files and digests, then from level 1 the records. Levels:

0. Signatures of all checkpoints, the quorum on the newest, file digests against the unsigned index.
1. Level 0, and every link, every leaf, the root at every checkpoint size, ``seq``/``tseq``/``tprev``, sources and
   producers' counters, typed columns.
2. Level 1, and the canonical form and members of each record. What of level 2 does not exist yet is listed under
   "not checked".

A demanded tenant is part of the question, not of the export: without it a tenant's bundle is not accepted, so that a
log that has been cut down to one tenant cannot pass for the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final

from nomos.errors import Malformed, MalformedRecord
from nomos.log.fold import LogFold, TenantFold
from nomos.log.group import LEVEL_MEANING, Gap, GroupSummary
from nomos.log.index import INDEX_NAME, PROOF_NAME, ExportIndex, file_digest, is_part_name, parse_index
from nomos.log.judging import GroupFailed, GroupTask, judge_all
from nomos.log.proof import many_root, parse_many_proof
from nomos.log.report import FINDINGS_MAX, Report, Tally, Verdict
from nomos.log.seals import Seals, read_seals
from nomos.log.statements import Divergence
from nomos.log.tree import ProofFailed, leaf_hash
from nomos.log.trust import NO_QUORUM, parse_trust

LEVELS: Final = (0, 1, 2)
#: A line of a many-proof is 45 bytes; longer ones are no proof.
_PROOF_LINE_MAX: Final = 128


def verify_export(
    directory: Path,
    trust_text: bytes,
    level: int = 1,
    *,
    now: int,
    tenant: str | None = None,
    strict: bool = False,
    workers: int = 1,
) -> Report:
    """Verifies the export in ``directory``.

    Args:
        directory: the export (see :mod:`nomos.log.archive`).
        trust_text: the auditor's policy (see :mod:`nomos.log.trust`).
        level: 0, 1 or 2.
        now: Unix seconds; cosignatures from after it do not count.
        tenant: the tenant whose bundle this must be; None demands a whole log.
        strict: whether events that the log itself declares missing (``audit.gap``) make it incomplete; otherwise
            they are told as warnings.
        workers: processes that judge row groups; 1 means this one.

    Returns:
        The report. It never says ``verified`` for an export without records or signatures.

    Raises:
        Malformed: the trust policy is malformed, or the level is unknown. Never raised for the export's content.
        NotADirectoryError: ``directory`` is no folder.
    """
    if level not in LEVELS:
        raise MalformedRecord("the level must be 0, 1 or 2")
    trust = parse_trust(trust_text)
    if not directory.is_dir():
        raise NotADirectoryError(directory.name)
    tally = Tally()
    index = _read_index(directory, tally)
    if index is not None and _is_demanded(index, tenant, tally):
        seals = read_seals(directory, index.origin, trust, now, tally)
        _check_files(directory, index, tally)
        if trust.quorum == NO_QUORUM:
            tally.not_checked.append("witnesses: the policy demands none")
        if seals is not None:
            _check_rows_stated(index, seals, tally)
            if level > 0 and index.files:
                _Content(directory, index, seals, tally, level=level, strict=strict, workers=workers).judge()
    _say_unchecked(level, tally)
    return tally.report(level)


def _read_index(directory: Path, tally: Tally) -> ExportIndex | None:
    try:
        index = parse_index((directory / INDEX_NAME).read_bytes())
    except FileNotFoundError:
        tally.fail(Verdict.INCOMPLETE, "the index of the export is missing", file=INDEX_NAME)
    except OSError as error:
        tally.fail(Verdict.UNVERIFIABLE, f"the index cannot be read: {error.strerror}", file=INDEX_NAME)
    except Malformed as error:
        tally.fail(Verdict.TAMPERED, error.detail, file=INDEX_NAME)
    else:
        tally.origin, tally.kind, tally.tenant = index.origin, index.kind, index.tenant
        return index
    return None


def _is_demanded(index: ExportIndex, tenant: str | None, tally: Tally) -> bool:
    if index.tenant == tenant:
        return True
    said = "a whole log" if index.tenant is None else f"a bundle of the tenant {index.tenant!a}"
    wanted = "a whole log" if tenant is None else f"a bundle of the tenant {tenant!a}"
    tally.fail(Verdict.UNVERIFIABLE, f"the export says that it is {said}, and {wanted} was demanded", file=INDEX_NAME)
    return False


def _check_files(directory: Path, index: ExportIndex, tally: Tally) -> None:
    """Looks for missing, changed and unknown files. The index is unsigned: it can only speak against the export."""
    for part in index.files:
        _check_digest(directory, part.n, part.sha256, tally, first=part.first)
    for other in index.others:
        _check_digest(directory, other.n, other.sha256, tally)
    known = {one.n for one in index.files} | {one.n for one in index.others} | {INDEX_NAME}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if name in known or path.is_dir():
            continue
        if is_part_name(name) or name.endswith(".parquet") or name.startswith("checkpoint"):
            tally.fail(Verdict.TAMPERED, "the file is not in log.json", file=ascii(name)[1:-1])
        else:
            tally.not_checked.append(f"{ascii(name)[1:-1]}: no file of an export")
    tally.checked.append(f"{len(index.files)} parts: SHA-256 against the unsigned log.json")


def _check_digest(directory: Path, name: str, stated: str, tally: Tally, *, first: int | None = None) -> None:
    try:
        digest = file_digest(directory / name)
    except FileNotFoundError:
        tally.fail(Verdict.INCOMPLETE, "the file is missing", file=name, seq=first)
    except OSError as error:
        tally.fail(Verdict.UNVERIFIABLE, f"the file cannot be read: {error.strerror}", file=name)
    else:
        if digest != stated:
            tally.fail(Verdict.TAMPERED, "file digest differs from log.json", file=name)


def _check_rows_stated(index: ExportIndex, seals: Seals, tally: Tally) -> None:
    tally.to_size = seals.newest.size
    stated = [(one.first, one.last + 1) for one in index.files]
    if any(left[1] > right[0] for left, right in pairwise(stated)):
        tally.fail(Verdict.TAMPERED, "log.json states overlapping parts", file=INDEX_NAME)
    if index.tenant is not None:
        if not index.files:
            tally.fail(Verdict.UNVERIFIABLE, "the bundle has no records", file=INDEX_NAME)
    elif sum(one.rows for one in index.files) < seals.newest.size:
        tally.fail(Verdict.INCOMPLETE, f"log.json states fewer records than {seals.newest.size}", file=INDEX_NAME)


def _say_unchecked(level: int, tally: Tally) -> None:
    if level == 0:
        tally.not_checked.append("the records: contents, links, tree, counters, columns (level 1)")
        tally.not_checked.append("consistency between checkpoints of different sizes (needs the records: level 1)")
        tally.not_checked.append("parts against a signed digest (log.json is not signed)")
    if level < LEVEL_MEANING:
        tally.not_checked.append("canonical form and members of each record (level 2)")
    else:
        tally.not_checked.append("event schemas, erasure records, seals' contents, tenant heads, time-stamp tokens")
    tally.not_checked.append("whether a newer checkpoint exists, or an earlier run saw another one")


class _Content:
    """Level 1 and 2: the records."""

    def __init__(
        self, directory: Path, index: ExportIndex, seals: Seals, tally: Tally, *, level: int, strict: bool, workers: int
    ) -> None:
        self._directory = directory
        self._index = index
        self._seals = seals
        self._tally = tally
        self._level = level
        self._strict = strict
        self._workers = workers
        self._at: GroupTask | None = None

    def judge(self) -> None:
        """Judges all records and puts what is wrong into the tally."""
        try:
            if self._index.tenant is None:
                self._judge_log()
            else:
                self._judge_bundle(self._index.tenant)
        except Divergence as error:
            at = self._at
            self._tally.fail(
                error.verdict,
                error.detail,
                seq=error.seq,
                file=None if at is None else at.name,
                row_group=None if at is None else at.group,
            )
        except GroupFailed as error:
            seq = self._tally.records if self._index.tenant is None else None
            self._tally.fail(error.verdict, error.detail, seq=seq, file=error.name, row_group=error.group)
        if self._tally.declared_gaps:
            self._tally.not_checked.append(f"what {self._tally.declared_gaps} declared gaps would have held")
        if self._level >= LEVEL_MEANING:
            self._tally.checked.append("canonical form and members of each record read")

    def _summaries(self, sizes: tuple[int, ...]) -> Iterator[GroupSummary]:
        with_prev = self._index.kind == "tenant"
        names = [one.n for one in self._index.files]
        judged = judge_all(
            self._directory, names, with_prev=with_prev, sizes=sizes, level=self._level, workers=self._workers
        )
        for self._at, summary in judged:
            yield summary
            for gap in summary.gaps:
                self._tell_gap(gap)

    def _tell_gap(self, gap: Gap) -> None:
        whose = "the journal" if gap.producer is None else f"producer {'/'.join(gap.producer)!a}"
        told = f"the log declares {gap.first} to {gap.last} of {whose} missing"
        self._tally.declared_gaps += 1
        if self._strict:
            self._tally.fail(Verdict.INCOMPLETE, told, seq=gap.seq)
        elif self._tally.declared_gaps <= FINDINGS_MAX:
            self._tally.warnings.append(f"record {gap.seq}: {told}")

    def _judge_log(self) -> None:
        signed = self._seals.roots
        fold = LogFold(self._seals.newest.origin, signed)
        for summary in self._summaries(tuple(sorted(signed))):
            fold.add(summary)
            self._tally.records = fold.size
        # What is missing or too much at the end stands in no row group.
        self._at = None
        fold.finish()
        self._tally.checked.append(
            f"records 0 to {fold.size - 1}: every link and leaf, seq, tseq, tprev, typed columns"
        )
        self._tally.checked.append(f"root recomputed at {len(signed)} checkpoints, so they are consistent")
        self._tally.checked.append("sources rise, and producers' counters have no gap that is not declared")

    def _judge_bundle(self, tenant: str) -> None:
        fold = TenantFold(tenant)
        newest = self._seals.newest

        def leaves() -> Iterator[tuple[int, bytes]]:
            for summary in self._summaries(()):
                fold.add(summary)
                self._tally.records = fold.size
                yield from ((seq, leaf_hash(own)) for seq, own in summary.leaves)

        try:
            root = self._bundle_root(leaves())
        except FileNotFoundError:
            self._tally.fail(Verdict.INCOMPLETE, "the proof of inclusion is missing", file=PROOF_NAME)
            return
        except (ProofFailed, Malformed) as error:
            self._tally.fail(Verdict.TAMPERED, error.detail, file=PROOF_NAME)
            return
        if root != newest.root:
            self._tally.fail(Verdict.TAMPERED, "records and proof do not lead to the signed root", file=PROOF_NAME)
            return
        self._tally.checked.append(
            f"{fold.size} records of the tenant: hash, tseq from 0, tprev, inclusion in the tree"
        )
        self._tally.not_checked += [
            f"records of the tenant after {fold.last_seq}, below size {newest.size} (needs a tenant head in a seal)",
            "gaps in producers' counters (other tenants' records are not here)",
            "consistency between checkpoints of different sizes (needs the whole log)",
        ]

    def _bundle_root(self, leaves: Iterator[tuple[int, bytes]]) -> bytes:
        with ExitStack() as stack:
            source = stack.enter_context((self._directory / PROOF_NAME).open("rb"))
            lines = iter(lambda: source.readline(_PROOF_LINE_MAX), b"")
            size, proof = parse_many_proof(lines)
            if size != self._seals.newest.size:
                raise ProofFailed("the proof is for another size than the newest checkpoint")
            return many_root(leaves, proof, size)

"""Level 1 and 2: the records of an export, judged against the roots that the signatures vouch for.

Decides in which order the pieces work: statements are found first and without trust (the heads must be kept at the
positions that they name), row groups are judged by themselves, joined in order, and every root and statement is
compared when its position is reached. For a tenant's bundle: the records lead to the signed root by their proof, and
``head.json`` says that nothing is missing up to its statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from nomos.errors import BadSignature, Malformed
from nomos.log.approvals import Approvals
from nomos.log.erasure import Erasures
from nomos.log.fold import LogFold, TenantFold
from nomos.log.group import LEVEL_MEANING, Gap, GroupSummary
from nomos.log.headproof import HEAD_BYTES_MAX, HeadProof, check_head, parse_head
from nomos.log.heads import SEAL, STATEMENTS, Statement, parse_seal
from nomos.log.index import HEAD_NAME, PROOF_NAME, ExportIndex
from nomos.log.judging import GroupFailed, GroupTask, Judges, judge_all
from nomos.log.keyturns import KeyTurns
from nomos.log.memory import Place
from nomos.log.parts import find_rows
from nomos.log.proof import many_root, parse_many_proof
from nomos.log.record import parse_record
from nomos.log.report import FINDINGS_MAX, Tally, Verdict
from nomos.log.seals import Seals
from nomos.log.statements import Divergence, Found, Statements
from nomos.log.tree import ProofFailed, leaf_hash
from nomos.log.trust import TrustPolicy

#: A line of a many-proof is 45 bytes; longer ones are no proof.
_PROOF_LINE_MAX: Final = 128
#: Unknown types of events that are told by name.
_TOLD_MAX: Final = 10


class Content:
    """The records of one export."""

    def __init__(
        self,
        directory: Path,
        index: ExportIndex,
        seals: Seals,
        tally: Tally,
        *,
        trust: TrustPolicy,
        statements: tuple[Found, ...] = (),
        level: int,
        strict: bool,
        judges: Judges,
        place: Place | None = None,
        progress: Callable[[int, int], None] | None = None,
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        """Takes what signatures vouch for.

        Args:
            directory: the export.
            index: its index, unsigned.
            seals: the verified roots.
            tally: takes what is found; holds the roots that were judged.
            trust: the auditor's policy.
            statements: seals that stand beside the records, verified; others are found among the records.
            level: 1 or 2.
            strict: whether declared gaps, and a bundle without a proof of its end, make it incomplete.
            judges: the processes that judge row groups.
            place: where to go on, from an earlier run; None reads every record.
            progress: told how many of how many records have been judged.
            keys: people's keys that were disclosed, by id; None where none were given.
        """
        self._directory = directory
        self._index = index
        self._seals = seals
        self._tally = tally
        self._trust = trust
        self._beside = statements
        self._level = level
        self._strict = strict
        self._judges = judges
        self._progress = progress
        self._erasures = Erasures(keys, strict=strict)
        self._approvals = Approvals()
        self._at: GroupTask | None = None
        # A place counts only where a part begins at it, and where it was judged as now demanded. It remembers nothing
        # of people's keys, so level 2 reads all records.
        starts = {one.first for one in index.files}
        fits = place is not None and place.seq in starts and (place.strict or not strict)
        usable = fits and level < LEVEL_MEANING
        self._from = place if usable else None
        self._files = [one for one in index.files if self._from is None or one.first >= self._from.seq]
        self._unknown: Counter[str] = Counter()
        #: The judge's state before the newest part, once all has been judged.
        self.place: Place | None = None

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
            seq = self._tally.from_size + self._tally.records if self._index.tenant is None else None
            self._tally.fail(error.verdict, error.detail, seq=seq, file=error.name, row_group=error.group)
        if self._tally.declared_gaps:
            self._tally.not_checked.append(f"what {self._tally.declared_gaps} declared gaps would have held")
        if self._level >= LEVEL_MEANING:
            self._tally.checked.append("canonical form and members of each record read, and of each known event")
            unknown = sum(self._unknown.values())
            if unknown:
                named = ", ".join(f"{kind} ({n})" for kind, n in self._unknown.most_common(_TOLD_MAX))
                self._tally.not_checked.append(f"members of {unknown} events of types unknown here: {named}")
            self._erasures.tell(self._tally)
            self._approvals.tell(self._tally)

    def _summaries(self, sizes: tuple[int, ...], cuts: tuple[int, ...] = ()) -> Iterator[GroupSummary]:
        with_prev = self._index.kind == "tenant"
        names = [one.n for one in self._files]
        total, done = sum(one.rows for one in self._files), 0
        judged = judge_all(
            self._directory,
            names,
            with_prev=with_prev,
            sizes=sizes,
            cuts=cuts,
            level=self._level,
            judges=self._judges,
        )
        for self._at, summary in judged:
            yield summary
            for wrong in (self._erasures.take(summary.keys), self._approvals.take(summary.approvals)):
                if wrong is not None:
                    raise Divergence(*wrong)
            for gap in summary.gaps:
                self._tell_gap(gap)
            self._unknown.update(summary.unknown)
            done += summary.rows
            if self._progress is not None:
                self._progress(done, total)

    def _tell_gap(self, gap: Gap) -> None:
        whose = "the journal" if gap.producer is None else f"producer {'/'.join(gap.producer)!a}"
        told = f"the log declares {gap.first} to {gap.last} of {whose} missing"
        self._tally.declared_gaps += 1
        if self._strict:
            self._tally.fail(Verdict.INCOMPLETE, told, seq=gap.seq)
        elif self._tally.declared_gaps <= FINDINGS_MAX:
            self._tally.warnings.append(f"record {gap.seq}: {told}")

    # -- a whole log -------------------------------------------------------------------------------------------------

    def _judge_log(self) -> None:
        first = 0 if self._from is None else self._from.seq
        signed = {size: root for size, root in self._seals.roots.items() if size > first}
        statements = Statements(self._statements())
        turns = KeyTurns(self._trust, self._tally.roots, first=first)
        fold = LogFold(self._seals.newest.origin, signed, statements, turns)
        passed = 0 if self._from is None else fold.resume(self._from)
        self._tally.from_size = first
        newest, place = self._files[-1].n, None
        for summary in self._summaries(tuple(sorted(signed)), statements.cuts):
            if self._at is not None and (self._at.name, self._at.group) == (newest, 0):
                place = fold.place(strict=self._strict)
            fold.add(summary)
            self._tally.records = fold.size - first
        # What is missing or too much at the end stands in no row group.
        self._at = None
        fold.finish()
        statements.finish(fold.size)
        turns.finish()
        self.place = place
        if self._level >= LEVEL_MEANING:
            self._judge_erasures(statements)
        self._tally.checked += [
            f"records {first} to {fold.size - 1}: every link and leaf, seq, tseq, tprev, typed columns",
            f"root recomputed at {len(signed)} sizes, so they are consistent",
            "sources rise, and producers' counters have no gap that is not declared",
        ]
        if self._from is not None:
            self._tell_skipped(first, len(self._seals.roots) - len(signed), passed)
        self._tell_statements(statements)
        self._tally.warnings += turns.warnings
        self._tally.not_checked += turns.not_checked
        if turns.proven:
            self._tally.checked.append(f"{turns.proven} changes of key: record, and checkpoint signed by both keys")

    def _tell_skipped(self, first: int, roots: int, passed: int) -> None:
        """What an earlier run checked, and this one took from the state file."""
        self._tally.checked.append(f"the tree continues the {first} records that an earlier run verified")
        copy = "this copy of " if self._index.kind == "log" else ""
        self._tally.not_checked.append(f"{copy}records 0 to {first - 1}, verified earlier (--full reads all)")
        if roots:
            self._tally.not_checked.append(f"{roots} roots at or below size {first} against the records (--full)")
        if passed:
            self._tally.not_checked.append(f"{passed} statements of heads of positions before {first} (--full)")

    def _judge_erasures(self, statements: Statements) -> None:
        # An archive's newest seals stand beside the records that they close, verified, and not among them yet.
        beside = [parse_seal(parse_record(one.record).event) for one in self._beside if one.type == SEAL]
        for seal in {one.day: one for one in (*beside, *statements.seals)}.values():
            found = self._erasures.number(seal.first, seal.last)
            if found != seal.erasures:
                told = f"the seal of {seal.day} counts {seal.erasures} erasures, the records {found}"
                self._tally.fail(Verdict.TAMPERED, told)

    def _statements(self) -> Iterator[Found]:
        """Those beside the records, and those among them; of one that is both, the one beside."""
        beside = {one.seq: one for one in self._beside}
        yield from beside.values()
        for entry in self._files:
            try:
                for seq, kind, record in find_rows(self._directory / entry.n, STATEMENTS):
                    if seq not in beside:
                        yield Found(seq=seq, type=kind, record=record)
            except (Malformed, FileNotFoundError):
                # Judged, and named, when its turn comes.
                return

    def _tell_statements(self, statements: Statements) -> None:
        self._tally.warnings += statements.warnings
        if statements.judged:
            self._tally.checked.append(
                f"{statements.judged} seals and statements of heads: number of tenants, producers' counters, order"
            )
        if statements.unblinded:
            self._tally.checked.append(f"the heads of all tenants at {statements.unblinded} seals")
        left = statements.judged - statements.unblinded
        if left:
            self._tally.not_checked.append(f"which tenants {left} statements of heads mean (names are blinded)")
        if not statements.judged:
            self._tally.not_checked.append("seals: there is none among these records")

    # -- a tenant's bundle -------------------------------------------------------------------------------------------

    def _judge_bundle(self, tenant: str) -> None:
        fold = TenantFold(tenant)
        newest = self._seals.newest
        head = self._head(tenant)
        # How many of the records the statement speaks of, and the chain hash of the last of them.
        number, last = 0, b""

        def leaves() -> Iterator[tuple[int, bytes]]:
            nonlocal number, last
            for summary in self._summaries(()):
                fold.add(summary)
                self._tally.records = fold.size
                for seq, own in summary.leaves:
                    if head is not None and seq <= head[1].last:
                        number, last = number + 1, own
                    yield seq, leaf_hash(own)

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
        if head is not None:
            self._judge_end(fold, *head, number, last)
        self._tally.not_checked += [
            "gaps in producers' counters (other tenants' records are not here)",
            "consistency between checkpoints of different sizes (needs the whole log)",
        ]

    def _head(self, tenant: str) -> tuple[HeadProof, Statement] | None:
        """The proof of the tenant's head, verified; None where there is none or it is wrong."""
        newest = self._seals.newest
        try:
            with (self._directory / HEAD_NAME).open("rb") as source:
                proof = parse_head(source.read(HEAD_BYTES_MAX + 1))
            return proof, check_head(proof, tenant, size=newest.size, root=newest.root)
        except FileNotFoundError:
            told = "that the bundle ends where the tenant's records end (no head.json)"
            if self._strict:
                self._tally.fail(Verdict.INCOMPLETE, f"it is not proven {told}", file=HEAD_NAME)
            else:
                self._tally.not_checked.append(told)
        except OSError as error:
            self._tally.fail(Verdict.UNVERIFIABLE, f"the file cannot be read: {error.strerror}", file=HEAD_NAME)
        except (Malformed, BadSignature) as error:
            self._tally.fail(Verdict.TAMPERED, error.detail, file=HEAD_NAME)
        return None

    def _judge_end(self, fold: TenantFold, proof: HeadProof, statement: Statement, number: int, last: bytes) -> None:
        if number < proof.leaf.n:
            missing = f"the log states {proof.leaf.n} records of the tenant up to {statement.last}, here are {number}"
            self._tally.fail(Verdict.INCOMPLETE, missing, seq=fold.last_seq, file=HEAD_NAME)
        elif number > proof.leaf.n or last.hex() != proof.leaf.h:
            self._tally.fail(Verdict.TAMPERED, "the tenant's head is not that of its records", file=HEAD_NAME)
        else:
            self._tally.checked.append(f"the tenant has no other record up to record {statement.last} of the log")
        if statement.last < self._seals.newest.size - 1:
            self._tally.not_checked.append(
                f"whether the tenant has further records after {statement.last}, below size {self._seals.newest.size}"
            )

    def _bundle_root(self, leaves: Iterator[tuple[int, bytes]]) -> bytes:
        with ExitStack() as stack:
            source = stack.enter_context((self._directory / PROOF_NAME).open("rb"))
            lines = iter(lambda: source.readline(_PROOF_LINE_MAX), b"")
            size, proof = parse_many_proof(lines)
            if size != self._seals.newest.size:
                raise ProofFailed("the proof is for another size than the newest checkpoint")
            return many_root(leaves, proof, size)

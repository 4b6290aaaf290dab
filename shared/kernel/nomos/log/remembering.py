"""One export against what earlier runs remember: compared before the records are read, remembered after a success.

Decides what a remembered root demands of this export: a log's records must give it, an archive must hold it among its
days, and nothing may end before it (:mod:`nomos.log.memory` says why). What this export cannot show is said.
"""

from __future__ import annotations

from base64 import b64decode

from nomos.log.index import ExportIndex
from nomos.log.memory import Entry, Memory, Place, what_of
from nomos.log.report import Report, Tally, Verdict
from nomos.log.seals import Seals
from nomos.log.trust import TrustPolicy


class Remembering:
    """The part of the memory that one export is compared with."""

    def __init__(self, memory: Memory, index: ExportIndex, trust: TrustPolicy) -> None:
        """Takes the memory.

        Raises:
            MalformedRecord: it was made under keys that the policy has not.
        """
        self._memory = memory
        self._origin = index.origin
        self._what = what_of(index.kind, index.tenant)
        self._kind = index.kind
        memory.check_keys(index.origin, frozenset(str(one) for one in trust.log_keys()))

    @property
    def place(self) -> Place | None:
        """Where an earlier run lets this one go on."""
        known = self._memory.entry(self._origin, self._what)
        return None if known is None else known.place

    def compare(self, seals: Seals, level: int, tally: Tally) -> None:
        """Compares all roots of the export, and has the records give the remembered ones where they can.

        Args:
            seals: the verified roots; takes the remembered ones that the records must give.
            level: 0 reads no records.
            tally: takes what is wrong, and what cannot be compared.
        """
        self._memory.judge(seals.newest, seals.note, self._what, tally)
        shown = {one.size: b64decode(one.root) for one in tally.roots}
        compared = 0
        for size, root in self._memory.roots(self._origin).items():
            if size in shown:
                compared += 1
                if shown[size] != root and size != seals.newest.size:
                    tally.fail(Verdict.TAMPERED, f"another root of size {size} than was verified earlier")
            elif size > seals.newest.size:
                continue
            elif self._kind == "archive" and size == self._size:
                tally.fail(Verdict.INCOMPLETE, f"the root of size {size}, which was verified earlier, is missing")
            elif level > 0 and self._kind != "tenant" and size <= seals.records:
                seals.roots[size] = root
                compared += 1
            else:
                tally.not_checked.append(f"whether this tree continues the root of size {size} (verified earlier)")
        if compared:
            tally.checked.append(f"{compared} roots that were verified earlier are those of this log")

    @property
    def _size(self) -> int:
        known = self._memory.entry(self._origin, self._what)
        return -1 if known is None else known.size

    def remember(self, seals: Seals, report: Report, place: Place | None, now: int) -> None:
        """Takes the outcome of a success. A run that read no records keeps the place of the one before.

        Args:
            seals: the verified roots.
            report: the outcome.
            place: from where a later run need not read again.
            now: Unix seconds.
        """
        root = next(one for one in report.roots if one.size == seals.newest.size)
        self._memory.remember(
            Entry(
                origin=self._origin,
                what=self._what,
                size=seals.newest.size,
                root=root.root,
                note=seals.note.decode("utf-8"),
                keys=root.keys,
                at=now,
                place=self.place if place is None else place,
            )
        )

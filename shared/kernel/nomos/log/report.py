"""What a verification found, and how it is told: human lines and one JSON object.

Decides the verdict from the findings. The worst one counts: ``tampered`` before ``incomplete`` before
``unverifiable``; ``verified`` only where there is none. What was not checked is always said.
"""

from __future__ import annotations

from base64 import b64encode
from enum import StrEnum
from typing import Final

import msgspec

from nomos.log.checkpoint import VerifiedCheckpoint

REPORT_SCHEMA: Final = "nomos.verify/1"
CONTINUITY_SCHEMA: Final = "nomos.verify-consistency/1"
_RECORDS_UNCHECKED: Final = "the records: an export, an archive or a receipt proves them"
#: Exit status for wrong arguments, an unreadable folder or a malformed trust policy.
EXIT_USAGE: Final = 2
#: Findings beyond this number are counted, not listed.
FINDINGS_MAX: Final = 20


class Verdict(StrEnum):
    """What can be said about an export."""

    VERIFIED = "verified"
    TAMPERED = "tampered"
    INCOMPLETE = "incomplete"
    UNVERIFIABLE = "unverifiable"

    @property
    def exit_code(self) -> int:
        """The exit status of the command: 0 verified, 1 tampered or incomplete, 3 cannot tell."""
        return {Verdict.VERIFIED: 0, Verdict.UNVERIFIABLE: 3}.get(self, 1)


_SEVERITY: Final = (Verdict.TAMPERED, Verdict.INCOMPLETE, Verdict.UNVERIFIABLE)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. ``seq`` is the first record that it can be pinned to, where there is one."""

    verdict: Verdict
    reason: str
    seq: int | None = None
    file: str | None = None
    row_group: int | None = None


class SignedRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of the export whose signatures were judged. Root in base64; witness times in Unix seconds."""

    size: int
    root: str
    keys: tuple[str, ...]
    witnesses: dict[str, int]
    quorum: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one verification."""

    verdict: Verdict
    level: int
    origin: str | None
    kind: str | None
    tenant: str | None
    from_size: int
    to_size: int
    records: int
    declared_gaps: int
    roots: tuple[SignedRoot, ...]
    keys: tuple[str, ...]
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    warnings: tuple[str, ...]
    first: Finding | None
    findings: tuple[Finding, ...]
    findings_total: int
    evidence: tuple[str, ...] = ()
    """Signed notes that contradict each other."""
    schema: str = REPORT_SCHEMA


class Tally:
    """Collects what is learnt on the way to a :class:`Report`."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.total = 0
        self.checked: list[str] = []
        self.not_checked: list[str] = []
        self.warnings: list[str] = []
        self.roots: list[SignedRoot] = []
        self.origin: str | None = None
        self.kind: str | None = None
        self.tenant: str | None = None
        self.from_size = 0
        self.to_size = 0
        self.records = 0
        self.evidence: list[str] = []
        self.declared_gaps = 0
        self._worst = Verdict.VERIFIED
        self._first: Finding | None = None

    def add(self, finding: Finding) -> None:
        """Takes one finding."""
        self.total += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        if self._worst is Verdict.VERIFIED or _SEVERITY.index(finding.verdict) < _SEVERITY.index(self._worst):
            self._worst = finding.verdict
        # The first one that names a record says most; before there is one, the first of all.
        if self._first is None or (self._first.seq is None and finding.seq is not None):
            self._first = finding

    def fail(
        self,
        verdict: Verdict,
        reason: str,
        *,
        seq: int | None = None,
        file: str | None = None,
        row_group: int | None = None,
    ) -> None:
        """Takes one finding in parts."""
        self.add(Finding(verdict=verdict, reason=reason, seq=seq, file=file, row_group=row_group))

    def report(self, level: int) -> Report:
        """The report so far. Success without a single record or signature is impossible."""
        if self._worst is Verdict.VERIFIED and not (self.roots and self.to_size):
            self.fail(Verdict.UNVERIFIABLE, "there are no records to vouch for")
        return Report(
            verdict=self._worst,
            level=level,
            origin=self.origin,
            kind=self.kind,
            tenant=self.tenant,
            from_size=self.from_size,
            to_size=self.to_size,
            records=self.records,
            declared_gaps=self.declared_gaps,
            roots=tuple(self.roots),
            keys=tuple(sorted({key for root in self.roots for key in root.keys})),
            checked=tuple(self.checked),
            not_checked=tuple(self.not_checked),
            warnings=tuple(self.warnings),
            first=self._first,
            findings=tuple(self.findings),
            findings_total=self.total,
            evidence=tuple(self.evidence),
        )


def base64_of(root: bytes) -> str:
    """The spelling of hashes in checkpoints and reports."""
    return b64encode(root).decode()


def render_json(report: Report) -> str:
    """The report as one JSON object with a newline."""
    return msgspec.json.encode(report).decode() + "\n"


def _where(finding: Finding) -> str:
    parts = []
    if finding.seq is not None:
        parts.append(f"record {finding.seq}")
    if finding.file is not None:
        parts.append(finding.file)
    if finding.row_group is not None:
        parts.append(f"row group {finding.row_group}")
    return ", ".join(parts)


def _line_of(finding: Finding) -> str:
    where = _where(finding)
    return f"{finding.verdict.value}: {f'{where}: ' if where else ''}{finding.reason}"


def render_text(report: Report) -> str:
    """The report as lines for a human, printable characters only."""
    lines = [f"{report.verdict.value.upper()} at level {report.level}"]
    if report.origin is not None:
        lines.append(f"log          {report.origin}")
    if report.tenant is not None:
        lines.append(f"tenant       {report.tenant}")
    lines.append(f"records      {report.records} read, tree size {report.to_size}")
    if report.roots:
        newest = report.roots[-1]
        lines.append(f"root         {newest.root}")
        lines += [f"signed by    {key}" for key in newest.keys]
        lines += [f"witness      {name} at {time}" for name, time in newest.witnesses.items()]
        lines.append(f"checkpoints  {len(report.roots)}")
    if report.first is not None:
        lines.append(f"first        {_line_of(report.first)}")
    lines += [f"finding      {_line_of(finding)}" for finding in report.findings if finding != report.first]
    if report.findings_total > len(report.findings):
        lines.append(f"finding      and {report.findings_total - len(report.findings)} more")
    for note in report.evidence:
        lines += [f"evidence     {line}" for line in note.rstrip("\n").split("\n")]
    lines += [f"warning      {warning}" for warning in report.warnings]
    lines += [f"checked      {what}" for what in report.checked]
    lines += [f"not checked  {what}" for what in report.not_checked]
    return "".join(f"{_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    """The export chose some of these characters; none of them may steer the reader's terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)


def render_continuity(
    verdict: Verdict, found: tuple[VerifiedCheckpoint, VerifiedCheckpoint] | None, reason: str | None, *, json: bool
) -> str:
    """The outcome of a proof of consistency, as one JSON object with a newline, or as lines for a human."""
    ends = [] if found is None else [(name, one) for name, one in zip(("from", "to"), found, strict=True)]
    origin = None if found is None else found[0].checkpoint.origin
    if json:
        spelled = {
            "schema": CONTINUITY_SCHEMA,
            "verdict": verdict.value,
            "reason": reason,
            "origin": origin,
            **{
                name: {
                    "size": one.checkpoint.size,
                    "root": base64_of(one.checkpoint.root),
                    "keys": [str(key) for key in one.keys],
                    "witnesses": {each.witness.name: each.time for each in one.cosignatures},
                }
                for name, one in ends
            },
            "not_checked": [_RECORDS_UNCHECKED],
        }
        return msgspec.json.encode(spelled).decode() + "\n"
    lines = [f"{verdict.value.upper()} consistency"]
    if reason is not None:
        lines.append(f"first        {verdict.value}: {reason}")
    if origin is not None:
        lines.append(f"log          {origin}")
    for name, one in ends:
        lines.append(f"{name:<13}size {one.checkpoint.size}, root {base64_of(one.checkpoint.root)}")
        lines += [f"  signed by  {key}" for key in one.keys]
        lines += [f"  witness    {each.witness.name} at {each.time}" for each in one.cosignatures]
    if ends:
        lines.append("checked      the tree of the first size is a prefix of the tree of the second")
    lines.append(f"not checked  {_RECORDS_UNCHECKED}")
    return "".join(f"{_printable(line)}\n" for line in lines)

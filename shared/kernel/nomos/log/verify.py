"""The offline verifier: judges an export with nothing but the auditor's trust policy.

Trusted: the policy text and this program. Not trusted: every file of the export; who controls them all can at most
make the verdict other than ``verified``.

Order: index, checkpoints (:mod:`nomos.log.seals`) or an archive's days (:mod:`nomos.log.archived`), files and digests,
then from level 1 the records (:mod:`nomos.log.content`). Levels:

0. Signatures of all checkpoints, the quorum on the newest, file digests against the index; in an archive the seals,
   their order and days, the roots' consistency, and the digests that the seals sign.
1. Level 0, and every link, every leaf, the root at every checkpoint size, ``seq``/``tseq``/``tprev``, sources and
   producers' counters, typed columns.
2. Level 1, the canonical form and members of each record, sealed fields and erasures. What of level 2 does not exist
   yet is listed under "not checked".

A demanded tenant is part of the question, not of the export: without it a tenant's bundle is not accepted, so that a
log that has been cut down to one tenant cannot pass for the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nomos.errors import Malformed, MalformedRecord
from nomos.log.archived import Archived, read_archive
from nomos.log.content import Content
from nomos.log.group import LEVEL_MEANING
from nomos.log.index import INDEX_NAME, ROOTS_NAME, ExportIndex, file_digest, is_part_name, parse_index
from nomos.log.judging import Judges
from nomos.log.memory import Memory
from nomos.log.remembering import Remembering
from nomos.log.report import Report, Tally, Verdict
from nomos.log.seals import Seals, read_seals
from nomos.log.stamped import judge_tokens
from nomos.log.tiles import is_tile_path
from nomos.log.trust import NO_QUORUM, TrustPolicy, parse_trust

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

LEVELS: Final = (0, 1, 2)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def verify_export(
    directory: Path,
    trust_text: bytes,
    level: int = 1,
    *,
    now: int,
    tenant: str | None = None,
    strict: bool = False,
    workers: int = 1,
    memory: Memory | None = None,
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tsa_roots: bytes | None = None,
    keys: Mapping[str, bytes] | None = None,
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
        memory: what earlier runs verified; takes the outcome of a success, and is not written here.
        full: whether to read all records, also those that an earlier run verified.
        progress: told how many of how many records have been judged.
        tsa_roots: certificates in PEM of whom the auditor trusts for time stamps; None leaves tokens unchecked.
        keys: people's keys that were disclosed to the auditor, by id, to open sealed fields at level 2.

    Returns:
        The report. It never says ``verified`` for an export without records or signatures.

    Raises:
        Malformed: the trust policy or the roots are malformed, the level unknown, or the memory of other keys. Never
            raised for the export's content.
        NotADirectoryError: ``directory`` is no folder.
    """
    if level not in LEVELS:
        raise MalformedRecord("the level must be 0, 1 or 2")
    trust = parse_trust(trust_text)
    if not directory.is_dir():
        raise NotADirectoryError(directory.name)
    stampers = None if tsa_roots is None else _parse_tsa_roots(tsa_roots)
    tally = Tally()
    index = _read_index(directory, tally)
    if index is None or not _is_demanded(index, tenant, tally):
        return tally.report(level)
    with Judges(workers if level > 0 and index.files else 1) as judges:
        archived = _read_signed(directory, index, trust, now, tally, strict=strict)
        _check_files(directory, index, tally)
        judge_tokens(directory, index, stampers, now, tally, strict=strict)
        if trust.quorum == NO_QUORUM:
            tally.not_checked.append("witnesses: the policy demands none")
        content = None
        before = None if memory is None else Remembering(memory, index, trust)
        if archived is not None:
            _check_rows_stated(index, archived.seals, tally)
            if before is not None:
                before.compare(archived.seals, level, tally)
            if level > 0 and index.files:
                content = Content(
                    directory,
                    index,
                    archived.seals,
                    tally,
                    trust=trust,
                    statements=archived.statements,
                    level=level,
                    strict=strict,
                    judges=judges,
                    place=None if before is None or full else before.place,
                    progress=progress,
                    keys=keys,
                )
                content.judge()
    _say_unchecked(level, index, tally, is_compared=before is not None)
    report = tally.report(level)
    if before is not None and archived is not None and report.verdict is Verdict.VERIFIED:
        before.remember(archived.seals, report, None if content is None else content.place, now)
    return report


def _parse_tsa_roots(pem: bytes) -> list[Certificate]:
    # Time stamps are optional, and so is the package that reads them.
    from nomos.log.timestamps import parse_roots  # noqa: PLC0415

    return parse_roots(pem)


def _read_signed(
    directory: Path, index: ExportIndex, trust: TrustPolicy, now: int, tally: Tally, *, strict: bool
) -> Archived | None:
    if index.kind == "archive":
        return read_archive(directory, index, trust, now, tally, strict=strict)
    seals = read_seals(directory, index.origin, trust, now, tally)
    return None if seals is None else Archived(seals=seals, statements=())


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
    newest = max(map(_day_of, known))
    tiles = 0
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if name in known or path.is_dir():
            continue
        if index.kind == "archive" and is_tile_path(name):
            tiles += 1
            continue
        if is_part_name(name) or name.endswith(".parquet") or name.startswith(("checkpoint", f"{ROOTS_NAME}/")):
            if index.kind == "archive" and _day_of(name) > newest:
                # An archive that grows: its files come first, the unsigned index last.
                said = "the file belongs to a day after the newest in log.json: copy the archive again"
                tally.fail(Verdict.INCOMPLETE, said, file=ascii(name)[1:-1])
            else:
                tally.fail(Verdict.TAMPERED, "the file is not in log.json", file=ascii(name)[1:-1])
        else:
            tally.not_checked.append(f"{ascii(name)[1:-1]}: no file of an export")
    if tiles:
        tally.not_checked.append(f"{tiles} tiles (they repeat the tree, and no judgement rests on them)")
    if index.kind != "archive":
        tally.checked.append(f"{len(index.files)} parts: SHA-256 against the unsigned log.json")


def _day_of(name: str) -> str:
    """The day that a file's name bears; empty where it bears none."""
    found = _DAY.search(name)
    return found.group() if found else ""


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
    if not seals.records:
        tally.fail(Verdict.UNVERIFIABLE, "there are no records to vouch for", file=INDEX_NAME)
    stated = [(one.first, one.last + 1) for one in index.files]
    if any(left[1] > right[0] for left, right in pairwise(stated)):
        tally.fail(Verdict.TAMPERED, "log.json states overlapping parts", file=INDEX_NAME)
    if index.tenant is not None:
        if not index.files:
            tally.fail(Verdict.UNVERIFIABLE, "the bundle has no records", file=INDEX_NAME)
    elif sum(one.rows for one in index.files) < seals.records:
        tally.fail(Verdict.INCOMPLETE, f"log.json states fewer records than {seals.records}", file=INDEX_NAME)


def _say_unchecked(level: int, index: ExportIndex, tally: Tally, *, is_compared: bool) -> None:
    if level == 0:
        tally.not_checked.append("the records: contents, links, tree, counters, columns (level 1)")
        if index.kind != "archive":
            tally.not_checked.append("consistency between checkpoints of different sizes (needs the records: level 1)")
            tally.not_checked.append("parts against a signed digest (log.json is not signed)")
    if level < LEVEL_MEANING:
        tally.not_checked.append("canonical form and members of each record and event (level 2)")
    seen = "" if is_compared else ", or an earlier run saw another one"
    tally.not_checked.append(f"whether a newer checkpoint exists{seen}")
    tally.not_checked.append("records that were cut after the newest checkpoint, with the counters of that time")

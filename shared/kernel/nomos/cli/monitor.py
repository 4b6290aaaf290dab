"""``nomos monitor``: looks at a log's files again and again, and alarms when the log goes back, forks or stands still.

Decides when to look and what an alarm is; whether the log is right is :mod:`nomos.log.verify`'s, with the state file
that makes each look continue the one before. An archive is judged by its signed days (level 0), an export or bundle by
its records. Exit with ``--once``: 0 all is well, 1 an alarm (rollback, fork, tampered, incomplete), 3 cannot tell, 5
stale. Without it, alarms are lines, and it goes on.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from hashlib import sha256
from pathlib import Path
from typing import Final

from nomos.cli.output import Exit, say
from nomos.errors import Malformed, Misconfigured
from nomos.log.index import INDEX_NAME
from nomos.log.memory import Memory
from nomos.log.reading import read_index
from nomos.log.report import Report, Verdict
from nomos.log.trust import parse_trust
from nomos.log.verify import verify_export

#: Exit status where the log is right and nobody has signed it for too long.
STALE: Final = 5
EVERY_SECONDS_MIN: Final = 1.0


def monitor(args: Namespace) -> int:
    """``nomos monitor PATH --trust FILE --state FILE``."""
    if args.every < EVERY_SECONDS_MIN or args.max_age < 0:
        raise Misconfigured(f"--every is at least {EVERY_SECONDS_MIN:g}, and --max-age 0 or more")
    while True:
        code, members, line = _look(args, int(time.time()))
        if args.json:
            print(json.dumps({"schema": "nomos.monitor/1", **members}), flush=True)
        else:
            print(line, flush=True)
        if args.once:
            return code
        time.sleep(args.every)


def _look(args: Namespace, now: int) -> tuple[int, dict[str, object], str]:
    path, state = Path(args.path), Path(args.state)
    try:
        trust = Path(args.trust).read_bytes()
        parse_trust(trust)
        memory = Memory.load(state)
    except Malformed as e:
        raise Misconfigured(f"trust policy or state: {e.detail}") from e
    except OSError as e:
        raise Misconfigured(f"{e.filename}: {e.strerror or e}") from e
    try:
        level = 0 if read_index(path).kind == "archive" else 1
        report = verify_export(path, trust, level, now=now, tenant=args.tenant or None, memory=memory)
    except (Malformed, OSError) as e:
        reason = f"{INDEX_NAME}: {e.detail}" if isinstance(e, Malformed) else f"{e.filename or path}: {e.strerror or e}"
        if args.once:
            raise Misconfigured(reason) from e
        # A copy that is being replaced; the next look sees it.
        return Exit.CANNOT_TELL, {"alarm": "unreadable", "reason": reason, "at": now}, f"cannot look: {reason}"
    if report.verdict is Verdict.VERIFIED:
        try:
            memory.save(state)
        except OSError as e:
            raise Misconfigured(f"the state cannot be kept: {e.strerror or e}") from e
    return _told(args, report, now)


def _told(args: Namespace, report: Report, now: int) -> tuple[int, dict[str, object], str]:
    newest = max((time for root in report.roots for time in root.witnesses.values()), default=None)
    members: dict[str, object] = {
        "at": now,
        "verdict": report.verdict.value,
        "origin": report.origin,
        "size": report.to_size,
        "root": report.roots[-1].root if report.roots else None,
        "cosigned_at": newest,
        "alarm": None,
    }
    if report.verdict is not Verdict.VERIFIED:
        reason = report.first.reason if report.first is not None else "nothing could be checked"
        files = _keep_evidence(args.evidence, report)
        members |= {"alarm": report.verdict.value, "reason": reason, "evidence": files}
        kept = f"; evidence in {', '.join(files)}" if files else ""
        return report.verdict.exit_code, members, f"ALARM {report.verdict.value}: {reason}{kept}"
    if args.max_age and (newest is None or now - newest > args.max_age):
        age = "no witness has signed it" if newest is None else f"the newest cosignature is {now - newest} s old"
        members |= {"alarm": "stale", "reason": age}
        return STALE, members, f"ALARM stale: {age}"
    return Exit.YES, members, f"size {report.to_size} of {report.origin} continues what was seen before"


def _keep_evidence(folder: str, report: Report) -> list[str]:
    """Writes notes that contradict each other, each under its digest, so that nothing is overwritten."""
    if not folder:
        return []
    kept = []
    for note in report.evidence:
        path = Path(folder) / f"{sha256(note.encode()).hexdigest()[:16]}.note"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(note, encoding="utf-8")
        except OSError as e:
            say(f"nomos: the evidence cannot be kept in {path}: {e.strerror}")
            sys.stderr.write(note)
            continue
        kept.append(str(path))
    return kept

"""The time-stamp tokens of an archive, judged at level 0 against roots that the auditor gives.

Decides, for each token that ``log.json`` lists: that it is over the bytes of its day's root, that a given root vouches
for it as of the time that it states, and that this time is neither before the day nor after now. Days without a token
are told; in strict mode they make the archive incomplete. Without roots nothing is claimed of tokens.

What a token is, is decided in :mod:`nomos.log.timestamps`, which is imported only where there are roots.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nomos.errors import BadSignature, Malformed
from nomos.log.index import ROOTS_NAME, ExportIndex
from nomos.log.note import NOTE_BYTES_MAX
from nomos.log.report import Tally, Verdict

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from nomos.log.timestamps import Stamp

_ROOT: Final = re.compile(rf"{ROOTS_NAME}/([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})")
_TOKEN: Final = re.compile(rf"({_ROOT.pattern})(?:\.[0-9]{{1,2}})?\.tsr")
#: An authority's clock may be ahead of ours by so many seconds.
CLOCK_SKEW_SECONDS: Final = 300


def judge_tokens(
    directory: Path, index: ExportIndex, roots: list[Certificate] | None, now: int, tally: Tally, *, strict: bool
) -> None:
    """Judges all tokens of an archive.

    Args:
        directory: the archive.
        index: its index, unsigned.
        roots: whom the auditor trusts for time stamps; None for nobody.
        now: Unix seconds.
        tally: takes what is found.
        strict: whether each day needs a token.
    """
    tokens = {one.n: found[1] for one in index.others if (found := _TOKEN.fullmatch(one.n))}
    days = [one.n for one in index.others if _ROOT.fullmatch(one.n)]
    if roots is None:
        if tokens:
            tally.not_checked.append(f"{len(tokens)} time-stamp tokens (give the authorities' roots: --tsa-roots)")
        return
    stamped: dict[str, list[Stamp]] = {}
    for name, root in sorted(tokens.items()):
        stamp = _judge(directory, name, root, roots, tally)
        if stamp is not None and _is_timely(name, root, stamp, now, tally):
            stamped.setdefault(root, []).append(stamp)
    if stamped:
        newest = max(stamped)
        said = " and ".join(f"{one.at:%Y-%m-%dT%H:%M:%SZ} by {one.authority}" for one in stamped[newest])
        number = sum(len(some) for some in stamped.values())
        tally.checked.append(f"{number} time-stamp tokens of {len(stamped)} days, as of their time; the newest: {said}")
    lacking = sorted(set(days) - set(tokens.values()))
    if lacking and strict:
        tally.fail(Verdict.INCOMPLETE, f"{len(lacking)} days have no time-stamp token", file=lacking[0])
    elif lacking:
        tally.warnings.append(f"{len(lacking)} days have no time-stamp token, first {lacking[0]}")


def _judge(directory: Path, name: str, root: str, roots: list[Certificate], tally: Tally) -> Stamp | None:
    from nomos.log.timestamps import TOKEN_BYTES_MAX, OtherContent, verify_token  # noqa: PLC0415 - optional

    try:
        token = _read(directory / name, TOKEN_BYTES_MAX + 1)
        return verify_token(token, _read(directory / root, NOTE_BYTES_MAX + 1), roots)
    except FileNotFoundError:
        tally.fail(Verdict.INCOMPLETE, "the token, or the root that it is over, is missing", file=name)
    except OSError as error:
        tally.fail(Verdict.UNVERIFIABLE, f"the token cannot be read: {error.strerror}", file=name)
    except (Malformed, OtherContent) as error:
        tally.fail(Verdict.TAMPERED, error.detail, file=name)
    except BadSignature as error:
        tally.fail(Verdict.UNVERIFIABLE, error.detail, file=name)
    return None


def _is_timely(name: str, root: str, stamp: Stamp, now: int, tally: Tally) -> bool:
    day = datetime.fromisoformat(root.removeprefix(f"{ROOTS_NAME}/")).replace(tzinfo=UTC)
    if stamp.at < day:
        tally.fail(Verdict.UNVERIFIABLE, "the token states a time before its day", file=name)
    elif stamp.at.timestamp() > now + CLOCK_SKEW_SECONDS:
        tally.fail(Verdict.UNVERIFIABLE, "the token states a time that has not come", file=name)
    else:
        return True
    return False


def _read(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as source:
        return source.read(bytes_max)

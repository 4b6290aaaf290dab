"""The signed roots of an export: which checkpoints there are and who vouches for them.

Decides, from the trust policy alone, that every checkpoint is signed by a key that may speak for its size, that the
newest has the quorum of witnesses, and that there is one root for each size. Older checkpoints may lack the quorum
(they were published with whatever cosignatures had arrived): the newest covers what they cover, once the records have
been read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from nomos.errors import BadSignature, Malformed
from nomos.log.checkpoint import Checkpoint, Cosignature, VerifiedCheckpoint, open_checkpoint
from nomos.log.index import CHECKPOINT_NAME, CHECKPOINTS_NAME, checkpoint_name
from nomos.log.note import NOTE_BYTES_MAX, NoKnownKey
from nomos.log.report import SignedRoot, Tally, Verdict, base64_of
from nomos.log.trust import TrustPolicy

#: A witness's clock may be ahead of ours by so many seconds.
CLOCK_SKEW_SECONDS: Final = 300
_SIZE_NAME = re.compile(r"[0-9]{12,19}")


class Seals(msgspec.Struct, frozen=True, kw_only=True):
    """The verified checkpoints: the newest and its note, all roots by size, and the records that there must be."""

    newest: Checkpoint
    note: bytes
    roots: dict[int, bytes]
    records: int


class Opened(NamedTuple):
    """A signed note of the export, verified: relative name, bytes, outcome."""

    name: str
    note: bytes
    verified: VerifiedCheckpoint


def open_note(directory: Path, name: str, origin: str, trust: TrustPolicy, tally: Tally) -> Opened | None:
    """Opens one signed note of the log ``origin``; what is wrong with it goes into the tally, and None comes back."""
    try:
        with (directory / name).open("rb") as source:
            note = source.read(NOTE_BYTES_MAX + 1)
    except FileNotFoundError:
        tally.fail(Verdict.INCOMPLETE, "the checkpoint is missing", file=name)
        return None
    except OSError as error:
        tally.fail(Verdict.UNVERIFIABLE, f"the checkpoint cannot be read: {error.strerror}", file=name)
        return None
    return judge_note(name, note, origin, trust, tally)


def judge_note(name: str, note: bytes, origin: str | None, trust: TrustPolicy, tally: Tally) -> Opened | None:
    """Judges one signed note, as :func:`open_note`; ``origin`` None takes any log of the policy."""
    try:
        verified = open_checkpoint(note, trust.log_keys(), trust.witnesses)
    except NoKnownKey:
        tally.fail(Verdict.UNVERIFIABLE, "no key of the trust policy signed the checkpoint", file=name)
        return None
    except (Malformed, BadSignature) as error:
        tally.fail(Verdict.TAMPERED, error.detail, file=name)
        return None
    checkpoint = verified.checkpoint
    if origin is not None and checkpoint.origin != origin:
        tally.fail(Verdict.TAMPERED, "the checkpoint is of another log than log.json says", file=name)
        return None
    if not any(trust.may_sign(one, checkpoint.size) for one in verified.keys):
        tally.fail(Verdict.TAMPERED, "the key that signed may not speak for this tree size", file=name)
        return None
    return Opened(name, note, verified)


def _timely(opened: Opened, now: int, tally: Tally) -> list[Cosignature]:
    timely = [one for one in opened.verified.cosignatures if one.time <= now + CLOCK_SKEW_SECONDS]
    if len(timely) != len(opened.verified.cosignatures):
        tally.warnings.append(f"{opened.name}: a cosignature from the future does not count")
    return timely


def describe(opened: Opened, trust: TrustPolicy, now: int, tally: Tally) -> SignedRoot:
    """Who signed and cosigned a note, and whether that is the quorum. ``now`` in Unix seconds."""
    timely = _timely(opened, now, tally)
    return SignedRoot(
        size=opened.verified.checkpoint.size,
        root=base64_of(opened.verified.checkpoint.root),
        keys=tuple(str(one) for one in opened.verified.keys),
        witnesses={one.witness.name: one.time for one in timely},
        quorum=trust.is_quorum([one.witness for one in timely]),
    )


def _stored_names(directory: Path, tally: Tally) -> list[str]:
    folder = directory / CHECKPOINTS_NAME
    if not folder.is_dir():
        tally.fail(Verdict.INCOMPLETE, "the folder of checkpoints is missing", file=CHECKPOINTS_NAME)
        return []
    names = []
    for path in sorted(folder.iterdir()):
        if _SIZE_NAME.fullmatch(path.name) is None:
            tally.fail(Verdict.TAMPERED, "a checkpoint's name must be its size", file=CHECKPOINTS_NAME)
        else:
            names.append(f"{CHECKPOINTS_NAME}/{path.name}")
    return names


def read_seals(directory: Path, origin: str, trust: TrustPolicy, now: int, tally: Tally) -> Seals | None:
    """Reads and judges all checkpoints of the export.

    Args:
        directory: the export.
        origin: the log that the export says it is of.
        trust: the auditor's policy.
        now: Unix seconds.
        tally: takes findings, warnings and the roots.

    Returns:
        The verified roots; None where the newest checkpoint is not there or not trusted.
    """
    newest = open_note(directory, CHECKPOINT_NAME, origin, trust, tally)
    stored: dict[int, Opened] = {}
    for name in _stored_names(directory, tally):
        opened = open_note(directory, name, origin, trust, tally)
        if opened is None:
            continue
        size = opened.verified.checkpoint.size
        if name != checkpoint_name(size):
            tally.fail(Verdict.TAMPERED, "a checkpoint's name must be its size", file=name)
        else:
            stored[size] = opened
    if newest is None:
        return None
    head = newest.verified.checkpoint
    _judge_newest(newest, stored, tally)
    for opened in {**stored, head.size: newest}.values():
        tally.roots.append(describe(opened, trust, now, tally))
    tally.roots.sort(key=lambda one: one.size)
    tally.checked.append(f"{len(tally.roots)} checkpoints: log signature and every known cosignature")
    described = next(one for one in tally.roots if one.size == head.size)
    if described.quorum:
        tally.checked.append("the newest checkpoint has the quorum that the policy demands")
    else:
        tally.fail(Verdict.UNVERIFIABLE, "the newest checkpoint lacks the quorum of witnesses", file=CHECKPOINT_NAME)
    lacking = sum(not one.quorum for one in tally.roots if one.size != head.size)
    if lacking:
        tally.warnings.append(f"{lacking} older checkpoints lack the quorum of witnesses")
    roots = {size: one.verified.checkpoint.root for size, one in stored.items() if size <= head.size}
    return Seals(newest=head, note=newest.note, roots={**roots, head.size: head.root}, records=head.size)


def _judge_newest(newest: Opened, stored: dict[int, Opened], tally: Tally) -> None:
    head = newest.verified.checkpoint
    larger = max(stored, default=0)
    if larger > head.size:
        tally.fail(
            Verdict.TAMPERED, f"a checkpoint of size {larger} exists and is not the newest", file=CHECKPOINT_NAME
        )
    twin = stored.get(head.size)
    if twin is None:
        tally.fail(Verdict.INCOMPLETE, "the checkpoint is missing", file=checkpoint_name(head.size))
        return
    if twin.verified.checkpoint.root != head.root:
        # Both are signed: together they prove that the log showed two histories.
        both = f"{base64_of(head.root)} and {base64_of(twin.verified.checkpoint.root)}"
        tally.fail(Verdict.TAMPERED, f"two signed roots for size {head.size}: {both}", file=twin.name)
    elif twin.note != newest.note:
        tally.fail(Verdict.TAMPERED, "the newest checkpoint and its copy differ", file=twin.name)

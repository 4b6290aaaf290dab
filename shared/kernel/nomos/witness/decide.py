"""What a witness answers to one request, and what it remembers afterwards. Pure.

Rules, in order; the first that is broken is the answer:

1. The request is well formed: an ``old`` line, at most 63 hashes, an empty line, a checkpoint. Else 400.
2. The checkpoint's origin is one that this witness was told of. Else 404.
3. A key that is trusted for that origin signed it, and no line of such a key is wrong. Else 403.
4. The old size is not above the checkpoint's. Else 400.
5. The old size is the size that this witness cosigned last for this origin (0 before the first). Else 409 with it.
6. The same size has the same root. Else 409: somebody shows two histories.
7. The proof leads from the remembered root to this one. Else 422.

The caller stores what is to be remembered, durably, before the cosignature leaves. Two requests of one origin must not
be decided at once.

Source: c2sp.org/tlog-witness, c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from nomos.errors import BadSignature, LimitExceeded, Malformed, MalformedRecord
from nomos.log.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, parse_decimal
from nomos.log.note import NOTE_BYTES_MAX, VerifierKey, decode_base64, parse_note
from nomos.log.tree import EMPTY_ROOT, HASH_BYTES, verify_consistency

PROOF_LINES_MAX: Final = 63
#: A request: the old line, the hashes, the note.
REQUEST_BYTES_MAX: Final = NOTE_BYTES_MAX + 8_192
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD: Final = "old "


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed request, not verified."""

    old: int
    path: tuple[bytes, ...]
    note: bytes
    text: str
    checkpoint: Checkpoint


class Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a witness remembers of one log: the newest checkpoint that it cosigned, and its note."""

    origin: str
    size: int
    root: bytes
    note: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An answer without a cosignature: HTTP status, body, and its type."""

    status: int
    body: str
    kind: str = "text/plain; charset=utf-8"


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint may be cosigned once ``known`` is durable. ``text`` is what a cosignature covers."""

    known: Known
    text: str


def format_request(old: int, path: Sequence[bytes], note: bytes) -> bytes:
    """The body of ``add-checkpoint``."""
    lines = [f"{_OLD}{old}", *(b64encode(one).decode() for one in path), "", ""]
    return "\n".join(lines).encode() + note


def parse_request(body: bytes) -> Asked:
    """Parses the body of ``add-checkpoint``.

    Raises:
        MalformedRecord: it breaks the format.
        LimitExceeded: too long, or too many hashes.
    """
    if len(body) > REQUEST_BYTES_MAX:
        raise LimitExceeded("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX, len(body))
    head, blank, note = body.partition(b"\n\n")
    try:
        old, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedRecord("the lines of a proof must be ASCII") from None
    if not blank or not old.startswith(_OLD):
        raise MalformedRecord("a request begins with the old size and has an empty line before the checkpoint")
    if len(hashes) > PROOF_LINES_MAX:
        raise LimitExceeded("PROOF_LINES_MAX", PROOF_LINES_MAX, len(hashes))
    path = tuple(decode_base64(line) for line in hashes)
    if any(len(one) != HASH_BYTES for one in path):
        raise MalformedRecord(f"a hash in a proof has {HASH_BYTES} bytes")
    parsed = parse_note(note)
    return Asked(
        old=parse_decimal(old.removeprefix(_OLD)),
        path=path,
        note=note,
        text=parsed.text,
        checkpoint=parse_checkpoint(parsed.text),
    )


def decide(asked: Asked, known: Known | None, logs: Mapping[str, Sequence[VerifierKey]]) -> Accepted | Refusal:
    """What to answer.

    Args:
        asked: the request.
        known: what is remembered of its origin.
        logs: the keys that are trusted, by origin.
    """
    checkpoint = asked.checkpoint
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return Refusal(status=404, body="this witness does not know the log\n")
    try:
        open_checkpoint(asked.note, keys, {})
    except (BadSignature, Malformed):
        return Refusal(status=403, body="no key that is trusted for the log signed the checkpoint\n")
    if asked.old > checkpoint.size:
        return Refusal(status=400, body="the old size is above the checkpoint's\n")
    size, root = (0, EMPTY_ROOT) if known is None else (known.size, known.root)
    if asked.old != size:
        return Refusal(status=409, body=f"{size}\n", kind=SIZE_TYPE)
    if checkpoint.size == size and checkpoint.root != root:
        return Refusal(status=409, body=f"{size}\n", kind=SIZE_TYPE)
    try:
        verify_consistency(size, checkpoint.size, root, checkpoint.root, asked.path)
    except (BadSignature, Malformed):
        return Refusal(status=422, body="the proof does not lead from the remembered root to this one\n")
    note = asked.note.decode("utf-8")
    return Accepted(
        known=Known(origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root, note=note), text=asked.text
    )

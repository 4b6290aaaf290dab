"""An upstream that sends the credential back: found here, before the answer leaves this process for anywhere.

The credential is known to this service alone, so this search is its own and not the sanitizer's: nothing that could
reveal the bearer goes onto the bus. Forms that are searched for and taken out: verbatim, URL-encoded, hexadecimal in
either case, base64 in three alignments and two alphabets. Then the same search runs over decoded views of what is left
(JSON escapes, percent, HTML entities, without characters outside printable ASCII, twice over); what shows up only
there cannot be cut out safely, and the answer is refused.

What it cannot find: a credential that was encrypted, compressed, reversed, or sent in pieces.
"""

from __future__ import annotations

import base64
import html
from typing import Final
from urllib.parse import quote, quote_plus, unquote_to_bytes

from nomos.errors import ResponseRefused
from nomos_runtime.secret import Secret

MARK: Final = b"[redacted:credential]"
#: Bytes of one byte's longest spelling that is undone: ``\u0041``.
_SPELLING_BYTES_MAX: Final = 6
#: Encodings inside encodings that are undone.
ROUNDS: Final = 2
#: What stands behind a colon of a credential is searched for on its own from this length on.
PASSWORD_CHARS_MIN: Final = 8
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_PRINTABLE: Final = frozenset(range(0x20, 0x7F))
_NOT_PRINTABLE: Final = bytes(b for b in range(256) if b not in _PRINTABLE)


class EchoGuard:
    """The forms of one credential and its parts; of an empty one there are none. Build once for each opened bearer."""

    __slots__ = ("_forms", "_hexes")

    def __init__(self, bearer: Secret) -> None:
        texts = _texts_of(bearer.reveal())
        forms: set[bytes] = set()
        for text in texts:
            forms |= _forms_of(text)
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        # what holds another one is found by it
        inner = [text for text in texts if not any(other in text for other in texts if other != text)]
        self._hexes = tuple(text.hex().encode() for text in inner)

    def __repr__(self) -> str:
        return "EchoGuard(redacted)"

    def clean(self, content: bytes) -> tuple[bytes, int]:
        """Takes the credential out.

        Returns:
            The content without it, and how many times it stood there.

        Raises:
            ResponseRefused: it stands there in a form that cannot be cut out.
        """
        if not self._forms:
            return content, 0
        cleaned, count = self._cut(content)
        view = cleaned
        for _ in range(ROUNDS):
            decoded = _decoded(view)
            if self._stands_in(decoded):
                raise ResponseRefused("the answer holds the credential in an encoded form, so it is withheld")
            if decoded == view:
                break
            view = decoded
        return cleaned, count

    def window(self, boundary: bytes | None) -> EchoWindow:
        """The same search for a body that comes in pieces; see :class:`EchoWindow`."""
        return EchoWindow(self, boundary)

    @property
    def longest(self) -> int:
        """Bytes of the longest spelling that is found across two pieces: each byte as ``\\u0041``."""
        return _SPELLING_BYTES_MAX * max(map(len, (*self._hexes, *self._forms)), default=0)

    def _cut(self, content: bytes) -> tuple[bytes, int]:
        count = 0
        for form in self._forms:
            found = content.count(form)
            if found:
                content = content.replace(form, MARK)
                count += found
        for hexadecimal in self._hexes:
            content, found = _without(content, hexadecimal)
            count += found
        return content, count

    def _stands_in(self, view: bytes) -> bool:
        lowered = view.lower()
        return any(form in view for form in self._forms) or any(one in lowered for one in self._hexes)


class EchoWindow:
    """A body on its way through: what is held back could be the beginning of the credential.

    Args:
        guard: of the credential.
        boundary: what ends an event or a line of this kind of body, behind which everything may leave; None where only
            the length counts. A credential with a boundary inside is not found.
    """

    __slots__ = ("_boundary", "_guard", "_held")

    def __init__(self, guard: EchoGuard, boundary: bytes | None) -> None:
        self._guard = guard
        self._boundary = boundary
        self._held = b""

    def feed(self, chunk: bytes) -> tuple[bytes, int]:
        """Takes the next bytes; gives what may leave, and how many times the credential stood in it.

        Raises:
            ResponseRefused: as :meth:`EchoGuard.clean`.
        """
        cleaned, count = self._guard.clean(self._held + chunk)
        cut = max(0, len(cleaned) - self._guard.longest)
        if self._boundary is not None:
            end = cleaned.rfind(self._boundary)
            cut = max(cut, end + len(self._boundary) if end >= 0 else 0)
        self._held = cleaned[cut:]
        return cleaned[:cut], count

    def finish(self) -> bytes:
        """What was held back; it has been searched."""
        held, self._held = self._held, b""
        return held


def _texts_of(plain: bytes) -> list[bytes]:
    """What is searched for: all of it, and what stands behind a colon, where that is long enough.

    Of ``user:password`` the second half is as good as the whole, and of ``key id:secret:token`` only the token is sent.
    """
    _, _, rest = plain.partition(b":")
    secret, colon, token = rest.partition(b":")
    parts = (rest, secret, token) if colon else (rest,)
    return [one for one in (plain,) if one] + [one for one in parts if len(one) >= PASSWORD_CHARS_MIN]


def _without(content: bytes, hexadecimal: bytes) -> tuple[bytes, int]:
    """Takes a text's digits out in either case, and counts them.

    In one pass: an upstream that repeats the credential must not cost the square of its answer.
    """
    lowered, pieces, end, count = content.lower(), [], 0, 0
    at = lowered.find(hexadecimal)
    while at >= 0:
        pieces += [content[end:at], MARK]
        end = at + len(hexadecimal)
        count += 1
        at = lowered.find(hexadecimal, end)
    return (b"".join([*pieces, content[end:]]), count) if count else (content, 0)


def _forms_of(plain: bytes) -> set[bytes]:
    forms = {plain, quote(plain, safe="").encode(), quote_plus(plain).encode()}
    for shift in range(3):
        # Characters that also depend on the neighbours of the credential are left out.
        encoded = base64.b64encode(bytes(shift) + plain + bytes(2))
        sure = encoded[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6]
        forms |= {sure, sure.translate(_TO_URL)}
    return forms


def _decoded(view: bytes) -> bytes:
    """One layer of encoding undone, and only printable ASCII kept: a bearer consists of nothing else."""
    if b"\\" in view:
        view = _without_escapes(view)
    if b"%" in view:
        view = unquote_to_bytes(view)
    if b"&" in view:
        view = html.unescape(view.decode("latin-1")).encode("utf-8", "replace")
    return view.translate(None, _NOT_PRINTABLE)


def _without_escapes(view: bytes) -> bytes:
    """JSON's escapes undone: ``\\uXXXX`` below 0x80, and a backslash before anything else dropped."""
    pieces = view.split(b"\\")
    out = [pieces[0]]
    for piece in pieces[1:]:
        if piece[:1] == b"u" and len(piece) >= 5:
            try:
                code = int(piece[1:5], 16)
            except ValueError:
                out.append(piece)
                continue
            out.append((bytes([code]) if code < 0x80 else b"") + piece[5:])
        else:
            out.append(piece)
    return b"".join(out)

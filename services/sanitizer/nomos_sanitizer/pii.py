"""Personal data that an operator may have removed for a tenant: card numbers, IBANs, addresses of mail, phone numbers.

Decides what is personal data, by form and, where there is one, by check digits. Off unless a tenant has classes set.
Leaves to :mod:`nomos_sanitizer.scrub` what is done about a place, so encodings and invisible characters hide nothing.

Sources: ISO/IEC 7812-1 (card numbers, annex B: Luhn), ISO 13616 and its registry (IBAN: lengths, mod 97 of ISO 7064),
RFC 5321 section 4.1.2 (mailboxes), ITU-T E.164 (phone numbers).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import hyperscan
import re2

from nomos.pii import PII_CLASSES, PiiClass
from nomos_sanitizer.engine import bytes_options

_CARD_RUN: Final = rb"[0-9](?:[ -]?[0-9]){12,}"
_IBAN_RUN: Final = rb"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}"
_EMAIL: Final = rb"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
_PHONE_DIGITS: Final = rb"[0-9](?:[ ().-]{0,2}[0-9]){6,14}"
_PHONE: Final = (
    rb"\+[ (]{0,2}[1-9](?:[ ().-]{0,2}[0-9]){7,14}"
    rb"|(?i:\b(?:tele?phone|phone|tel|mobile|cell|fax|call|whatsapp)\b)[^0-9+\r\n]{0,12}\(?" + _PHONE_DIGITS
)
_DETECTION: Final[dict[PiiClass, bytes]] = {
    "card": _CARD_RUN,
    "iban": _IBAN_RUN,
    "email": _EMAIL,
    "phone": _PHONE,
}
_CARDS: Final = re2.compile(_CARD_RUN, bytes_options())
_IBANS: Final = re2.compile(_IBAN_RUN, bytes_options())
_EMAILS: Final = re2.compile(_EMAIL, bytes_options())
_PHONES: Final = re2.compile(
    rb"(?:^|[^0-9A-Za-z+])(\+[ (]{0,2}[1-9](?:[ ().-]{0,2}[0-9]){7,14})"
    rb"|(?i:\b(?:tele?phone|phone|tel|mobile|cell|fax|call|whatsapp)\b)[^0-9+\r\n]{0,12}(\(?" + _PHONE_DIGITS + rb")",
    bytes_options(),
)
_CARD_DIGITS: Final = range(19, 12, -1)
_FIRST_GROUP: Final = 4
#: Beginnings of numbers that issuers give out (ISO/IEC 7812-1, the registers of the networks) and their lengths.
_ISSUERS: Final[tuple[tuple[int, int, int, frozenset[int]], ...]] = (
    # digits looked at, first, last, lengths
    (1, 4, 4, frozenset({13, 16, 19})),
    (2, 51, 55, frozenset({16})),
    (4, 2221, 2720, frozenset({16})),
    (2, 34, 34, frozenset({15})),
    (2, 37, 37, frozenset({15})),
    (4, 6011, 6011, frozenset({16, 17, 18, 19})),
    (3, 644, 659, frozenset({16, 17, 18, 19})),
    (4, 3528, 3589, frozenset({16, 17, 18, 19})),
    (3, 300, 305, frozenset({14, 16, 19})),
    (2, 36, 36, frozenset({14, 16, 19})),
    (2, 38, 39, frozenset({14, 16, 19})),
    (2, 62, 62, frozenset({16, 17, 18, 19})),
    (2, 50, 50, frozenset({13, 14, 15, 16, 17, 18, 19})),
    (2, 56, 58, frozenset({13, 14, 15, 16, 17, 18, 19})),
)
_IBAN_LENGTHS: Final = {
    b"AD": 24, b"AE": 23, b"AL": 28, b"AT": 20, b"AZ": 28, b"BA": 20, b"BE": 16, b"BG": 22, b"BH": 22, b"BI": 27,
    b"BR": 29, b"BY": 28, b"CH": 21, b"CR": 22, b"CY": 28, b"CZ": 24, b"DE": 22, b"DJ": 27, b"DK": 18, b"DO": 28,
    b"EE": 20, b"EG": 29, b"ES": 24, b"FI": 18, b"FK": 18, b"FO": 18, b"FR": 27, b"GB": 22, b"GE": 22, b"GI": 23,
    b"GL": 18, b"GR": 27, b"GT": 28, b"HN": 28, b"HR": 21, b"HU": 28, b"IE": 22, b"IL": 23, b"IQ": 23, b"IS": 26,
    b"IT": 27, b"JO": 30, b"KW": 30, b"KZ": 20, b"LB": 28, b"LC": 32, b"LI": 21, b"LT": 20, b"LU": 20, b"LV": 21,
    b"LY": 25, b"MC": 27, b"MD": 24, b"ME": 22, b"MK": 19, b"MN": 20, b"MR": 27, b"MT": 31, b"MU": 30, b"NI": 28,
    b"NL": 18, b"NO": 15, b"OM": 23, b"PK": 24, b"PL": 28, b"PS": 29, b"PT": 25, b"QA": 29, b"RO": 24, b"RS": 22,
    b"RU": 33, b"SA": 24, b"SC": 31, b"SD": 18, b"SE": 24, b"SI": 19, b"SK": 24, b"SM": 27, b"SO": 23, b"ST": 25,
    b"SV": 28, b"TL": 23, b"TN": 24, b"TR": 26, b"UA": 29, b"VA": 22, b"VG": 24, b"XK": 20, b"YE": 30,
}  # fmt: skip
#: Names of pictures for two densities (``icon@2x.png``) and remotes of ``git`` look like mailboxes.
_FILE_ENDINGS: Final = (b".png", b".jpg", b".jpeg", b".gif", b".svg", b".webp", b".css", b".js", b".ts")
_NO_PERSON: Final = (b"git@",)

Span = tuple[int, int, PiiClass]


def rule_of(name: PiiClass) -> str:
    """The rule in the report and the marker, as ``pii-card``."""
    return f"pii-{name}"


class PiiFinder:
    """The compiled classes. Build it once; it may be used by many threads."""

    def __init__(self) -> None:
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
        self._database.compile(
            expressions=[_DETECTION[name] for name in PII_CLASSES],
            ids=list(range(len(PII_CLASSES))),
            flags=[flags] * len(PII_CLASSES),
        )
        self._local = threading.local()

    def fired(self, data: bytes, classes: frozenset[PiiClass]) -> frozenset[PiiClass]:
        """The classes of ``classes`` whose form stands somewhere in ``data``; check digits are not looked at."""
        if not data or not classes:
            return frozenset()
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        hits: list[int] = []
        self._database.scan(data, match_event_handler=_note, context=hits, scratch=scratch)
        return frozenset(PII_CLASSES[hit] for hit in hits) & classes

    def spans(self, data: bytes, classes: frozenset[PiiClass]) -> Iterator[Span]:
        """The places of personal data."""
        fired = self.fired(data, classes)
        if "card" in fired:
            yield from ((start, end, "card") for start, end in _cards(data))
        if "iban" in fired:
            yield from ((start, end, "iban") for start, end in _ibans(data))
        if "email" in fired:
            yield from ((start, end, "email") for start, end in _emails(data))
        if "phone" in fired:
            for match in _PHONES.finditer(data):
                group = 1 if match.group(1) is not None else 2
                yield (*match.span(group), "phone")


def _note(number: int, _start: int, _end: int, _flags: int, hits: object) -> bool | None:
    assert isinstance(hits, list)
    hits.append(number)
    return None


def _cards(data: bytes) -> Iterator[tuple[int, int]]:
    for match in _CARDS.finditer(data):
        start, end = match.span()
        # Groups of digits between separators: a number begins and ends where a group does, and its first has four.
        places = [at for at in range(start, end) if 0x30 <= data[at] <= 0x39]
        index = 0
        while index < len(places):
            first = places[index]
            begins = places[index - 1] + 1 != first if index else not data[start - 1 : start].isalnum()
            size = _card_at(data, places, index) if begins and data[first : first + _FIRST_GROUP].isdigit() else 0
            if size:
                yield first, places[index + size - 1] + 1
            index += size or 1


def _card_at(data: bytes, places: list[int], index: int) -> int:
    for size in _CARD_DIGITS:
        last = index + size - 1
        if last >= len(places) or (last + 1 < len(places) and places[last + 1] == places[last] + 1):
            continue
        if is_card(bytes(data[at] for at in places[index : last + 1])):
            return size
    return 0


def is_card(digits: bytes) -> bool:
    """Whether digits are a card number: a known beginning with a length of its issuer, and a right check digit."""
    known = any(first <= int(digits[:count]) <= last and len(digits) in sizes for count, first, last, sizes in _ISSUERS)
    return known and _luhn(digits) and len(set(digits)) > 1


def _luhn(digits: bytes) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = digit - 0x30
        if place % 2:
            value = value * 2 - 9 * (value > 4)
        total += value
    return total % 10 == 0


def _ibans(data: bytes) -> Iterator[tuple[int, int]]:
    for match in _IBANS.finditer(data):
        start, end = match.span()
        if start and data[start - 1 : start].isalnum():
            continue
        size = _IBAN_LENGTHS.get(data[start : start + 2])
        places = [at for at in range(start, end) if data[at] not in b" -"]
        if size is None or len(places) < size:
            continue
        after = places[size - 1] + 1
        if not data[after : after + 1].isalnum() and is_iban(bytes(data[at] for at in places[:size])):
            yield start, after


def is_iban(text: bytes) -> bool:
    """Whether letters and digits are an IBAN of its country's length with right check digits."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    number = "".join(str(int(chr(byte), 36)) for byte in text[4:] + text[:4])
    return int(number) % 97 == 1


def _emails(data: bytes) -> Iterator[tuple[int, int]]:
    for match in _EMAILS.finditer(data):
        found = match.group(0)
        if not found.lower().endswith(_FILE_ENDINGS) and not found.startswith(_NO_PERSON):
            yield match.span()

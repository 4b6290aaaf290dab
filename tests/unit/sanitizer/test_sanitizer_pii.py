"""Personal data: off by default, by class, with check digits, wherever it stands."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed
from nomos.pii import PII_CLASSES, parse_classes
from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.pii import PiiFinder, is_card, is_iban
from nomos_sanitizer.scrub import Options

FINDER = PiiFinder()
ALL = frozenset(PII_CLASSES)


def card(beginning: str = "4", length: int = 16, seed: int = 7) -> str:
    chance = random.Random(seed)
    body = beginning + "".join(chance.choices("0123456789", k=length - len(beginning) - 1))
    return next(body + digit for digit in "0123456789" if luhn_is_right(body + digit))


def luhn_is_right(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(d), 10)) if at % 2 else int(d) for at, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban(country: str = "DE", length: int = 22, seed: int = 7) -> str:
    bban = "".join(random.Random(seed).choices("0123456789", k=length - 4))
    rest = int("".join(str(int(c, 36)) for c in f"{bban}{country}00")) % 97
    return f"{country}{98 - rest:02d}{bban}"


EXAMPLES = {
    "card": [card(), f"{card()[:4]} {card()[4:8]} {card()[8:12]} {card()[12:]}", card("37", 15), card("55", 16)],
    "iban": [iban(), " ".join(iban()[at : at + 4] for at in range(0, 22, 4)), iban("FR", 27), iban("NO", 15)],
    "email": ["jane.doe+list@mail.example.com", "j@example.org"],
    "phone": ["+49 30 1234567", "+1 (415) 555-0132", "Tel. 030 1234567", "phone: 415-555-0132"],
}
NEAR = {
    "card": [card()[:-1] + str((int(card()[-1]) + 1) % 10), "1" + card()[1:], "4" * 16, "9" * 20, f"x{card()}"],
    "iban": [iban()[:-1] + str((int(iban()[-1]) + 1) % 10), iban()[:-2], f"x{iban()}", "XX12345678901234567890"],
    "email": ["icon@2x.png", "git@github.com:acme/site", "user@host", "@jane", "a @ b.com"],
    "phone": ["+12", "2026-11-27T10:00:00+01:00", "id 4155550132", "1+1234567890123", "-1,5 +12,7"],
}


def clean(sanitizer: Sanitizer, body: object, *classes: str) -> Sanitized:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    options = Options(pii=parse_classes(classes))
    return sanitizer.sanitize(raw, content_type="", headers=(), credentials=(), options=options)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in EXAMPLES.items() for text in texts])
def test_personal_data_is_removed_where_its_class_is_set_and_only_there(
    name: str, text: str, sanitizer: Sanitizer
) -> None:
    forms = {
        "plain": text,
        "prose": f"see {text}, thanks",
        "split": "\u200b".join(text),
        "base64": base64.b64encode(f"here you are then: {text}, and thank you for it".encode()).decode(),
        "percent": "".join(f"%{byte:02x}" for byte in text.encode()),
        "nested": json.dumps({"a": text}),
    }
    result = clean(sanitizer, forms, name)
    kept = json.loads(result.body)
    digits = "".join(c for c in text if c.isalnum())[-6:]
    found = {line.where: line for line in result.report.removed if line.kind == "pii"}
    assert set(found) == {f"/{form}" for form in forms}
    assert all(line.rule == f"pii-{name}" and not line.fingerprint for line in found.values())
    assert digits not in kept["prose"].replace(" ", "").replace("-", "")
    assert kept["prose"].endswith(", thanks")
    assert not clean(sanitizer, {"a": text}).report.removed
    others = [other for other in PII_CLASSES if other not in {name, "phone"}]
    assert not clean(sanitizer, {"a": text}, *others).report.removed


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in NEAR.items() for text in texts])
def test_what_only_looks_like_it_stays(name: str, text: str, sanitizer: Sanitizer) -> None:
    result = clean(sanitizer, {"a": f"see {text} here"}, name)
    assert not result.report.removed
    assert json.loads(result.body) == {"a": f"see {text} here"}


def test_card_number_that_is_a_json_number_is_removed(sanitizer: Sanitizer) -> None:
    result = clean(sanitizer, f'{{"a":{card()},"b":1234567890123456}}'.encode(), "card")
    assert json.loads(result.body) == {"a": "[redacted:pii-card]", "b": 1234567890123456}


def test_two_numbers_side_by_side_are_both_found(sanitizer: Sanitizer) -> None:
    result = clean(sanitizer, {"a": f"12 {card(seed=1)} {card(seed=2)} 34"}, "card")
    assert json.loads(result.body)["a"] == "12 [redacted:pii-card] [redacted:pii-card] 34"


def test_personal_data_in_a_header_field_is_removed(sanitizer: Sanitizer) -> None:
    options = Options(pii=parse_classes(["email"]))
    fields = (("X-Who", "j@example.org"),)
    result = sanitizer.sanitize(b"{}", content_type="", headers=fields, credentials=(), options=options)
    assert result.headers == (("X-Who", "[redacted:pii-email]"),)
    assert [(line.where, line.kind) for line in result.report.removed] == [("header:x-who", "pii")]


def test_a_class_that_is_none_is_malformed() -> None:
    assert parse_classes([]) == frozenset()
    with pytest.raises(Malformed):
        parse_classes(["card", "name"])


@given(st.binary(max_size=120) | st.text(alphabet="0123456789 -+@.DEabc", max_size=60).map(str.encode))
def test_spans_of_any_bytes_are_inside_them_and_gates_never_miss(data: bytes) -> None:
    for start, end, name in FINDER.spans(data, ALL):
        assert 0 <= start < end <= len(data)
        assert name in FINDER.fired(data, ALL)


@given(st.text(alphabet="0123456789", min_size=13, max_size=19))
def test_every_card_number_has_a_right_check_digit(digits: str) -> None:
    assert not is_card(digits.encode()) or luhn_is_right(digits)


@pytest.mark.parametrize("place", range(22))
def test_one_wrong_digit_is_no_iban(place: int) -> None:
    right = iban()
    wrong = right[:place] + ("1" if right[place] != "1" else "2") + right[place + 1 :]
    assert is_iban(right.encode())
    assert not is_iban(wrong.encode())


def test_a_long_run_of_digits_costs_no_square() -> None:
    for run in b"4 ", b"4", b"4444 ":
        assert not list(FINDER.spans(run * (200_000 // len(run)), ALL))

"""Plain segments take a shorter way, and it leads to the same place."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import segments
from nomos.catalogue.segments import check_segment, check_text, decode_segment, encode_segment
from nomos.errors import DestinationRefused

NEVER = re.compile(r"(?!)")
TEXTS = st.one_of(st.text(max_size=12), st.text("aZ09_.~-%;/\\ \n\u00e9\uff0e\u2028", max_size=8))


def outcome(of: object, *arguments: str) -> object:
    try:
        return of(*arguments)  # type: ignore[operator]  # one of the functions above
    except DestinationRefused as e:
        return e.detail


@given(text=TEXTS)
def test_the_shorter_way_accepts_and_refuses_as_the_longer_one(text: str) -> None:
    checks = [(check_segment, text, "part"), (decode_segment, text, "part")]
    short = [outcome(*one) for one in checks]
    patch = pytest.MonkeyPatch()
    with patch.context() as longer:
        longer.setattr(segments, "_PLAIN", NEVER)
        assert short == [outcome(*one) for one in checks]


@given(text=st.text(max_size=12).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_a_segment_is_written_as_percent_encoding_writes_it(text: str) -> None:
    assert encode_segment(text) == quote(text, safe="-._~!$&()*+,;=:@")


@given(text=st.from_regex(re.compile(segments._PLAIN.pattern, re.ASCII), fullmatch=True))
def test_a_plain_segment_has_one_reading(text: str) -> None:
    assert unquote(unicodedata.normalize("NFKC", text)) == text
    assert text not in (".", "..")
    assert not set(text) & set("/\\?#;%")


@given(text=TEXTS)
def test_a_request_line_carries_no_control_whatever_the_rest_of_the_text(text: str) -> None:
    is_bad = any(c == "\\" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)
    assert (outcome(check_text, text, "part") is not None) == is_bad


TRICKS = ["", ".", "..", "..;x", "%2e%2e", "%252E.", "\uff0e\uff0e", "a/b", "a\\b", "a?b", "a\n"]


@pytest.mark.parametrize("text", TRICKS)
def test_what_some_server_reads_as_more_than_one_segment_is_refused(text: str) -> None:
    with pytest.raises(DestinationRefused):
        check_segment(text, "part")
    with pytest.raises(DestinationRefused):
        decode_segment(text, "part")

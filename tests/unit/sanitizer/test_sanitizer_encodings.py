"""Runs of escapes are decoded as one by one, and each character leads back to its own escape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomos_sanitizer.budget import Budget
from nomos_sanitizer.escapes import unescape

_ascii = st.integers(10, 126)
_spelling = st.sampled_from(["&#{0:d};", "&#x{0:x};", "&#X{0:X};", "%{0:02x}", "\\x{0:02x}", "\\u{0:04x}"])


@given(st.lists(st.tuples(_ascii, _spelling), max_size=40))
def test_a_run_of_escapes_says_what_each_says_and_leads_back_to_it(escapes: list[tuple[int, str]]) -> None:
    data, spans, at = b"", [], 0
    for code, spelling in escapes:
        written = spelling.format(code).encode()
        data += written
        spans.append((at, at + len(written)))
        at += len(written)
    view = unescape(data, Budget(10_000))
    assert view.data == bytes(code for code, _ in escapes)
    assert [view.origin(place, place + 1) for place in range(len(escapes))] == spans

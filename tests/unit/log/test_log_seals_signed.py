"""Seals that the log itself signed and that are wrong all the same: whoever holds the records finds out.

The attacker of these tests holds the log's key and the writer; what he cannot do is make the records say what the seal
says of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nomos.log.chain import NO_HASH
from nomos.log.heads import Roots, Seal, SealRef, event_of, producers_root, root_of, tenant_leaf, tenant_leaves
from nomos.log.report import Verdict

KEY = bytes(32)
#: Where the two seals stand, and the last record that each speaks of.
AT = ((8, 7), (16, 14))


def _seal(made: Any, day: str, first: int, last: int, before: SealRef | None) -> Seal:
    heads: dict[str, tuple[int, str]] = {}
    producers: dict[str, int] = {}
    for row, one in zip(made.rows[: last + 1], made.objects, strict=False):
        heads[one["tenant"]] = (heads.get(one["tenant"], (0, ""))[0] + 1, row.hash.hex())
        if one["pc"] is not None:
            producers[f"{one['pc']['svc']}/{one['pc']['id']}"] = one["pc"]["n"] + 1
    leaves = tenant_leaves(heads, KEY)
    return Seal(
        count=last - first + 1, day=day, erasures=0, files=(), first=first, keys=(), last=last,
        pc_root=producers_root(producers).hex(), prev_seal=before, src=(),
        tenants=Roots(n=len(leaves), root=root_of(tenant_leaf(one) for one in leaves).hex()), tool="test",
    )  # fmt: skip


def _sealed(book: Any, *changes: Callable[[dict[str, Any]], object] | None) -> Any:
    """A log with two seals; ``changes`` spoil the event of the first and of the second."""
    made = book(20)
    before, first = None, 0
    for (at, last), day, change in zip(AT, ("2026-11-22", "2026-11-23"), (*changes, None, None)[:2], strict=True):
        seal = _seal(made, day, first, last, before)
        event = event_of(seal)
        if change is not None:
            change(event)
        made.objects[at] |= {"tenant": "_sys", "type": "audit.seal", "pc": None, "src": None, "event": event}
        made.chain()
        before, first = SealRef(seq=at, h=made.rows[at].hash.hex()), last + 1
    made.notes = {20: made.note(20)}
    return made


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("group_rows", [65_536, 8, 5])
def test_seals_that_say_what_the_records_say_are_verified(
    book: Any, tmp_path: Path, level: int, group_rows: int
) -> None:
    made = _sealed(book)
    report = made.verify(made.export(tmp_path / "x", group_rows=group_rows), level)
    assert report.verdict is Verdict.VERIFIED, report.first
    assert any(one.startswith("2 seals and statements of heads") for one in report.checked)


def _put(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda event: event.__setitem__(name, value)


@pytest.mark.parametrize(
    ("changes", "seq"),
    [
        ((_put("pc_root", NO_HASH.hex()),), 8),
        ((lambda e: e["tenants"].__setitem__("n", 4),), 8),
        ((lambda e: e.update(first=1, count=7),), 8),
        ((lambda e: e.update(last=8, count=9),), 8),
        ((_put("day", "soon"),), 8),
        ((_put("more", 1),), 8),
        ((_put("prev_seal", {"seq": 3, "h": NO_HASH.hex()}),), 8),
        ((None, _put("prev_seal", None)), 16),
        ((None, lambda e: e["prev_seal"].__setitem__("h", NO_HASH.hex())), 16),
        ((None, _put("day", "2026-11-24")), 16),
        ((None, _put("day", "2026-11-21")), 16),
        ((None, lambda e: e.update(first=7, count=8)), 16),
        ((None, _put("pc_root", NO_HASH.hex())), 16),
    ],
)
def test_a_seal_that_the_log_signed_and_the_records_contradict_is_found(
    book: Any, tmp_path: Path, changes: Any, seq: int
) -> None:
    made = _sealed(book, *changes)
    report = made.verify(made.export(tmp_path / "x"))
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert report.first.seq == seq


def test_a_second_seal_of_a_day_may_only_repeat_the_first(book: Any, tmp_path: Path) -> None:
    for number, change in enumerate((None, _put("erasures", 1))):
        made = _sealed(book)
        again = {**made.objects[8]["event"], "tool": "another process"}
        if change is not None:
            change(again)
        made.objects[11] |= {"tenant": "_sys", "type": "audit.seal", "pc": None, "src": None, "event": again}
        made.objects[16] |= {"type": "audit.note", "event": {}}
        made.chain()
        made.notes = {20: made.note(20)}
        report = made.verify(made.export(tmp_path / f"{number}"))
        assert (report.verdict is Verdict.VERIFIED) == (change is None)
        if change is None:
            assert any("a second seal of 2026-11-22" in one for one in report.warnings)

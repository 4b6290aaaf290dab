"""What waits for its content, and when it is given up; on a clock that the test turns."""

from __future__ import annotations

import pytest

from nomos.errors import Conflict, Expired, LimitExceeded, NotFound, Unavailable
from nomos.messages import Invoke, UploadPiece
from nomos.uploading import Upload
from nomos_proxy import uploads
from nomos_proxy.uploads import Uploads

NOW_MS = 1_000_000
DEADLINE_MS = NOW_MS + 60_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(Uploads, "_now", staticmethod(lambda: now[0]))
    monkeypatch.setattr(uploads, "now_ms", lambda: NOW_MS + int((now[0] - 100) * 1_000))
    return now


def command(deadline_ms: int = DEADLINE_MS) -> Invoke:
    return Invoke(v=1, id="rq_" + "0" * 32, deadline_ms=deadline_ms, invocation=b"", proofs=[])


def piece(upload: str, seq: int, data: bytes) -> UploadPiece:
    return UploadPiece(v=1, id="rq_" + "0" * 32, deadline_ms=DEADLINE_MS, upload=upload, seq=seq, data=data)


def test_an_upload_that_rests_is_forgotten_and_one_that_goes_on_is_not(clock: list[float]) -> None:
    waiting = Uploads("rp")
    rests, goes_on = (waiting.open("acme", "bot", command(), Upload(b"abc").content).upload for _ in range(2))
    clock[0] += uploads.IDLE_SECONDS - 1
    waiting.take("acme", "bot", piece(goes_on, 1, b"a"))
    waiting.look()
    waiting.take("acme", "bot", piece(rests, 1, b"a"))
    clock[0] += uploads.IDLE_SECONDS - 1
    waiting.take("acme", "bot", piece(goes_on, 2, b"b"))
    clock[0] += 1
    waiting.look()
    with pytest.raises(NotFound):
        waiting.take("acme", "bot", piece(rests, 2, b"b"))
    whole = waiting.take("acme", "bot", piece(goes_on, 3, b"c"))
    assert whole is not None
    assert whole.data == b"abc"


def test_an_upload_ends_with_its_invocation(clock: list[float]) -> None:
    waiting = Uploads("rp")
    looked, asked = (waiting.open("acme", "bot", command(NOW_MS + 5_000), Upload(b"ab").content) for _ in range(2))
    clock[0] += 5
    with pytest.raises(Expired):
        waiting.take("acme", "bot", piece(asked.upload, 1, b"a"))
    waiting.look()
    for one in (looked, asked):
        with pytest.raises(NotFound):
            waiting.take("acme", "bot", piece(one.upload, 1, b"a"))


def test_what_was_handed_on_keeps_its_room_until_the_call_is_over(clock: list[float]) -> None:
    waiting = Uploads("rp")
    opened = waiting.open("acme", "bot", command(), Upload(b"a").content)
    whole = waiting.take("acme", "bot", piece(opened.upload, 1, b"a"))
    assert whole is not None
    clock[0] += 1_000
    waiting.look()
    with pytest.raises(Conflict):
        waiting.take("acme", "bot", piece(opened.upload, 1, b"a"))
    waiting.done(whole)
    with pytest.raises(NotFound):
        waiting.take("acme", "bot", piece(opened.upload, 1, b"a"))
    waiting.done(whole)


def test_bytes_are_bounded_for_a_tenant_and_for_all(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "UPLOADS_PER_TENANT_BYTES_MAX", 10)
    monkeypatch.setattr(uploads, "UPLOADS_BYTES_MAX", 15)
    waiting = Uploads("rp")
    waiting.open("acme", "a", command(), Upload(b"x" * 6).content)
    with pytest.raises(LimitExceeded, match="UPLOADS_PER_TENANT_BYTES_MAX"):
        waiting.open("acme", "b", command(), Upload(b"x" * 5).content)
    waiting.open("acme", "b", command(), Upload(b"x" * 4).content)
    with pytest.raises(Unavailable, match="UPLOADS_BYTES_MAX"):
        waiting.open("other", "c", command(), Upload(b"x" * 6).content)
    waiting.forget("acme")
    waiting.open("other", "c", command(), Upload(b"x" * 6).content)
    assert clock

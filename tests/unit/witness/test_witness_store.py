"""What a witness remembers outlives it; what is damaged is an error and never a beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.errors import MalformedRecord, Misconfigured
from nomos.witness.decide import Known
from nomos.witness.store import Remembered

from .conftest import ORIGIN, History


@pytest.fixture
def known() -> Known:
    log = History()
    return Known(origin=ORIGIN, size=5, root=log.root(5), note=log.note(5).decode())


def test_what_was_kept_is_there_for_the_next_process(tmp_path: Path, known: Known) -> None:
    first = Remembered(tmp_path / "state")
    assert first.load(ORIGIN) is None
    first.keep(known)
    first.keep(msgspec.structs.replace(known, size=6))
    first.close()
    assert Remembered(tmp_path / "state").load(ORIGIN) == msgspec.structs.replace(known, size=6)


def _file(folder: Path) -> Path:
    (found,) = folder.glob("*.json")
    return found


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"origin":"x"}', b"[]"])
def test_a_damaged_memory_is_an_error(tmp_path: Path, known: Known, content: bytes) -> None:
    remembered = Remembered(tmp_path)
    remembered.keep(known)
    _file(tmp_path).write_bytes(content)
    with pytest.raises(MalformedRecord):
        remembered.load(ORIGIN)


def test_another_logs_memory_is_an_error(tmp_path: Path, known: Known) -> None:
    remembered = Remembered(tmp_path)
    remembered.keep(known)
    path = _file(tmp_path)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, origin="audit.example.com/other")))
    with pytest.raises(MalformedRecord, match="another log"):
        remembered.load(ORIGIN)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, known: Known, monkeypatch: Any) -> None:
    remembered = Remembered(tmp_path)
    remembered.keep(known)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nomos.witness.store.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        remembered.keep(msgspec.structs.replace(known, size=9))
    assert remembered.load(ORIGIN) == known


def test_a_folder_is_one_witness_s(tmp_path: Path) -> None:
    first = Remembered(tmp_path)
    with pytest.raises(Misconfigured, match="another witness"):
        Remembered(tmp_path)
    first.close()
    Remembered(tmp_path).close()

"""What a witness remembers, on disk: one file for each log, replaced in one step and durable before it counts.

Decides only that. A file that is damaged or of another log is an error, never a beginning: a witness that forgets can
be shown a second history.

Trusted: the folder. Who can write it can make the witness forget; keep it where only the witness can.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import MalformedRecord, Misconfigured
from nomos.witness.decide import Known

#: Locked while a witness lives; its content says nothing.
LOCK_NAME: Final = "lock"


class Remembered:
    """The newest checkpoint of each log, below one folder."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is not there, and holds it for this process alone as long as it lives.

        Raises:
            OSError: it cannot be used.
            Misconfigured: another process holds it: two that remember the same could each cosign a history of its own.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._held = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            raise Misconfigured(f"another witness holds {folder}", hint="one process for each --state folder") from None

    def close(self) -> None:
        """Lets go of the folder."""
        os.close(self._held)

    def _path(self, origin: str) -> Path:
        # An origin is a URL without scheme: its slashes make no folders here.
        return self._folder / f"{sha256(origin.encode()).hexdigest()}.json"

    def load(self, origin: str) -> Known | None:
        """What is remembered of ``origin``, None before the first.

        Raises:
            MalformedRecord: the file is damaged, or another log's.
            OSError: it cannot be read.
        """
        try:
            content = self._path(origin).read_bytes()
        except FileNotFoundError:
            return None
        try:
            known = msgspec.json.decode(content, type=Known)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedRecord("what the witness remembers is damaged", cause=type(error).__name__) from None
        if known.origin != origin:
            raise MalformedRecord("what the witness remembers is of another log")
        return known

    def keep(self, known: Known) -> None:
        """Remembers; durable when it returns, the file and its name.

        Raises:
            OSError: it cannot be written; what was remembered before stays.
        """
        path = self._path(known.origin)
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(msgspec.json.encode(known))
            target.flush()
            os.fsync(target.fileno())
        # A crash before this: nothing has been promised. After it: the cosignature may be asked for again.
        draft.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

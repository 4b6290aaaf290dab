"""What each operation does to the files of this machine. Blocking; a thread of :mod:`nomos_proxy.files.calls` runs it.

Writing is by a new file that takes the old one's place, so a reader sees the old content or the new, and a second name
of the old file keeps the old content. Creating and moving replace nothing, by the filesystem's own word
(``RENAME_NOREPLACE``). Content is on the disk before the answer is given.

At each crash point: before the rename, a file that begins with ``.nomos-`` stays behind, which nobody can name; after
it, the new content is there.

Source: rename(2), fsync(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, cast

from nomos.errors import UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.files import answers, beneath
from nomos_proxy.files.answers import Entry, Negative, entry_of, no_of, told
from nomos_proxy.files.asked import UNFINISHED_PREFIX, Asked, is_name

#: Bytes that a file may have after something is added to it.
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_RENAME_NOREPLACE: Final = 1
_CHUNK_BYTES: Final = 262_144


def perform(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    """Does what is asked.

    Args:
        top: descriptor of the volume's directory.
        asked: from :func:`nomos_proxy.files.asked.read_asked`.
        body_bytes_max: largest body of the answer.

    Raises:
        PathRefused: a link, or what is neither file nor directory; nothing was read or changed.
        AnswerRefused: an answer over a limit.
        UpstreamFailed: the filesystem failed, and nothing was changed.
        UnknownOutcome: it failed after the change.
    """
    try:
        return _OPERATIONS[asked.operation](top, asked, body_bytes_max)
    except Negative as no:
        return answers.negative(no)


def _read(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with (
        beneath.opened_parent(top, asked.path) as (parent, name),
        beneath.opened_file(parent, name, os.O_RDONLY) as (file, found),
    ):
        answers.check_size(found.st_size, body_bytes_max)
        body = bytearray()
        try:
            # it may grow while it is read: one byte more than the limit is enough to know
            while len(body) <= body_bytes_max and (piece := os.read(file, _CHUNK_BYTES)):
                body += piece
        except OSError as error:
            raise no_of(error) from error
    return answers.contents(name, bytes(body), body_bytes_max)


def _stat(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        found = beneath.status_of(parent, name)
    entry = entry_of(name, found.st_mode, found.st_size, found.st_mtime)
    return told(200, {"type": entry.type, "size": entry.size, "changed_at": entry.changed_at})


def _list(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    entries: list[Entry] = []
    left_out = 0
    with beneath.opened_directory(top, asked.path) as directory:
        try:
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise no_of(error) from error
        try:
            with os.scandir(readable) as found:
                for one in found:
                    answers.check_entries(len(entries) + left_out + 1)
                    if not is_name(one.name):
                        left_out += not one.name.startswith(UNFINISHED_PREFIX)
                        continue
                    with suppress(FileNotFoundError):  # gone since
                        status = one.stat(follow_symlinks=False)
                        entries.append(entry_of(one.name, status.st_mode, status.st_size, status.st_mtime))
        except OSError as error:
            raise no_of(error) from error
        finally:
            os.close(readable)
    return answers.listing(entries, left_out, body_bytes_max)


def _write(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        old = beneath.status_or_none(parent, name)
        if old is not None:
            beneath.kept_regular(old)
        _put(parent, name, asked.content, mode=None if old is None else old.st_mode & 0o777, replaces=True)
    return told(200 if old else 201, {"bytes": len(asked.content), "replaced": old is not None})


def _create(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        beneath.status_or_none(parent, name)  # a link is refused as one; whatever else stands there, the rename says
        _put(parent, name, asked.content, mode=None, replaces=False)
    return told(201, {"bytes": len(asked.content), "replaced": False})


def _append(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with (
        beneath.opened_parent(top, asked.path) as (parent, name),
        beneath.opened_file(parent, name, os.O_WRONLY | os.O_APPEND) as (file, found),
    ):
        if found.st_size + len(asked.content) > FILE_BYTES_MAX:
            raise Negative(413, "too_large", f"the file would be over file_bytes_max, which is {FILE_BYTES_MAX}")
        try:
            written = os.write(file, asked.content)
        except OSError as error:
            raise no_of(error) from error
        if written != len(asked.content):
            raise UnknownOutcome("a part of it was added, and then there was no space left")
        _sync(file)
    return told(200, {"bytes": len(asked.content), "size": found.st_size + written})


def _mkdir(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        beneath.status_or_none(parent, name)
        try:
            os.mkdir(name, dir_fd=parent)
        except OSError as error:
            raise no_of(error) from error
        _sync_directory(parent)
    return told(201, {"made": True})


def _rmdir(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        beneath.status_of(parent, name)
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            raise no_of(error) from error
        _sync_directory(parent)
    return told(200, {"deleted": True})


def _delete(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with beneath.opened_parent(top, asked.path) as (parent, name):
        beneath.kept_regular(beneath.status_of(parent, name))
        try:
            # a link that was put there since is itself deleted, and not followed
            os.unlink(name, dir_fd=parent)
        except OSError as error:
            raise no_of(error) from error
        _sync_directory(parent)
    return told(200, {"deleted": True})


def _move(top: int, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    with (
        beneath.opened_parent(top, asked.path) as (parent, name),
        beneath.opened_parent(top, asked.to) as (new_parent, new_name),
    ):
        # a directory is not moved: with it would move what a policy says of paths inside it
        beneath.kept_regular(beneath.status_of(parent, name))
        beneath.status_or_none(new_parent, new_name)
        _rename_new(parent, name, new_parent, new_name)
        _sync_directory(new_parent)
        _sync_directory(parent)
    return told(200, {"moved": True})


_OPERATIONS: Final[Mapping[str, Callable[[int, Asked, int], UpstreamResponse]]] = MappingProxyType({
    "read": _read, "stat": _stat, "list": _list, "top": _list, "write": _write, "create": _create, "append": _append,
    "mkdir": _mkdir, "rmdir": _rmdir, "delete": _delete, "move": _move,
})  # fmt: skip


def _put(parent: int, name: str, content: bytes, *, mode: int | None, replaces: bool) -> None:
    """Writes a new file beside the name, and gives it the name."""
    unfinished = UNFINISHED_PREFIX + secrets.token_hex(12)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(unfinished, flags, 0o666, dir_fd=parent)
    except OSError as error:
        raise no_of(error) from error
    try:
        try:
            with os.fdopen(file, "wb", buffering=0) as opened:
                if mode is not None:
                    os.fchmod(file, mode)
                view = memoryview(content)
                while view:
                    view = view[opened.write(view) :]
                os.fsync(file)
            if replaces:
                os.rename(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            raise no_of(error) from error
        if not replaces:
            _rename_new(parent, unfinished, parent, name)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=parent)
        raise
    _sync_directory(parent)


def _rename_new(parent: int, name: str, new_parent: int, new_name: str) -> None:
    """Renames, and replaces nothing: between a look and a rename somebody else could have come."""
    failed = _renameat2()(parent, os.fsencode(name), new_parent, os.fsencode(new_name), _RENAME_NOREPLACE)
    if failed:
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            raise Negative(501, "not_supported", "this filesystem cannot rename without replacing")
        raise no_of(OSError(code, os.strerror(code)))


def _renameat2() -> Callable[[int, bytes, int, bytes, int], int]:
    call = ctypes.CDLL(None, use_errno=True).renameat2
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return cast(Callable[[int, bytes, int, bytes, int], int], call)  # as declared to the C library above


def _sync_directory(parent: int) -> None:
    """What was renamed stays renamed when the machine fails."""
    try:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise UnknownOutcome("done, and not known to be on the disk", cause=error.strerror) from error
    try:
        _sync(readable)
    finally:
        os.close(readable)


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        raise UnknownOutcome("done, and not known to be on the disk", cause=error.strerror) from error

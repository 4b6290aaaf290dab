"""Answers about files: bytes or JSON, with a status as in HTTP, so that they pass the sanitizer like any other.

A no of the filesystem (nothing there, already there, no right) is an answer. What the broker refuses is an error.

Pure.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from typing import Final

import orjson
from msgspec import Struct

from nomos.errors import UpstreamFailed
from nomos_proxy.answer import AnswerRefused, UpstreamResponse

#: Entries of a directory that is listed.
ENTRIES_MAX: Final = 4_000
_TYPES: Final = {"json": "application/json", "jsonl": "application/x-ndjson", "ndjson": "application/x-ndjson"}
_TEXT: Final = "text/plain; charset=utf-8"


class Negative(Exception):
    """The filesystem said no, and nothing was changed."""

    def __init__(self, status: int, word: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.word = word
        self.detail = detail


NOT_FOUND: Final = (404, "not_found", "there is no such file or directory")
EXISTS: Final = (409, "exists", "there is one of this name")
IS_DIRECTORY: Final = (409, "is_a_directory", "that is a directory")
NOT_DIRECTORY: Final = (409, "not_a_directory", "that is no directory")
NOT_EMPTY: Final = (409, "not_empty", "the directory is not empty")
FORBIDDEN: Final = (403, "forbidden", "the filesystem does not permit it")
TOO_LARGE: Final = (413, "too_large", "the file would be over the limit")
_BY_ERRNO: Final = {
    errno.ENOENT: NOT_FOUND,
    errno.EEXIST: EXISTS,
    errno.EISDIR: IS_DIRECTORY,
    errno.ENOTDIR: NOT_DIRECTORY,
    errno.ENOTEMPTY: NOT_EMPTY,
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EROFS: FORBIDDEN,
    errno.EXDEV: (409, "other_filesystem", "that lies on another filesystem"),
    errno.ENAMETOOLONG: (400, "name_too_long", "a name is longer than the filesystem takes"),
    errno.ENOSPC: (507, "no_space", "there is no space left"),
    errno.EDQUOT: (507, "no_space", "there is no space left"),
    errno.EFBIG: TOO_LARGE,
}


class Entry(Struct, frozen=True, kw_only=True):
    """What one name stands for.

    Attributes:
        name: as the directory holds it.
        type: ``file``, ``directory``, ``link`` or ``other``.
        size: bytes, of a file.
        changed_at: Unix seconds.
    """

    name: str
    type: str
    size: int
    changed_at: int


def entry_of(name: str, mode: int, size: int, changed_at: float) -> Entry:
    """An entry from what ``lstat`` says."""
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
    kind = next((word for is_kind, word in kinds if is_kind(mode)), "other")
    return Entry(name=name, type=kind, size=size if kind == "file" else 0, changed_at=int(changed_at))


def no_of(error: OSError) -> Negative | UpstreamFailed:
    """What an error of the operating system means, where nothing was changed: a no, or a failure."""
    told = _BY_ERRNO.get(error.errno or 0)
    return Negative(*told) if told else UpstreamFailed("the filesystem failed", cause=error.strerror)


def contents(name: str, body: bytes, body_bytes_max: int) -> UpstreamResponse:
    """The bytes of a file.

    Raises:
        AnswerRefused: over the limit.
    """
    content_type = _TYPES.get(name.rpartition(".")[2].lower(), _TEXT)
    return _bounded(UpstreamResponse(status=200, headers=(("content-type", content_type),), body=body), body_bytes_max)


def listing(entries: Sequence[Entry], left_out: int, body_bytes_max: int) -> UpstreamResponse:
    """What a directory holds, by name.

    Args:
        entries: in any order.
        left_out: how many names cannot be asked for.
        body_bytes_max: bound of the answer.

    Raises:
        AnswerRefused: more entries, or bytes, than an answer may have.
    """
    check_entries(len(entries) + left_out)
    shown = sorted(entries, key=lambda one: one.name)
    return _bounded(told(200, {"entries": shown, "left_out": left_out}), body_bytes_max)


def check_entries(count: int) -> None:
    """Bounds a listing while it is read.

    Raises:
        AnswerRefused: more than ``ENTRIES_MAX``.
    """
    if count > ENTRIES_MAX:
        raise AnswerRefused(f"the directory has more entries than entries_max, which is {ENTRIES_MAX}", 200)


def told(status: int, members: dict[str, object]) -> UpstreamResponse:
    """A JSON answer."""
    body = orjson.dumps(members, default=_plain, option=orjson.OPT_SORT_KEYS)
    return UpstreamResponse(status=status, headers=(("content-type", "application/json"),), body=body)


def negative(no: Negative) -> UpstreamResponse:
    """A no as an answer."""
    return told(no.status, {"error": no.word, "message": no.detail})


def check_size(size: int, body_bytes_max: int) -> None:
    """Refuses a file that an answer cannot hold, before it is read.

    Raises:
        AnswerRefused: over the limit.
    """
    if size > body_bytes_max:
        raise AnswerRefused(f"the file is over body_bytes_max, which is {body_bytes_max}", 200)


def _bounded(answer: UpstreamResponse, body_bytes_max: int) -> UpstreamResponse:
    check_size(len(answer.body), body_bytes_max)
    return answer


def _plain(value: object) -> object:
    if isinstance(value, Entry):
        return {"name": value.name, "type": value.type, "size": value.size, "changed_at": value.changed_at}
    raise TypeError(f"{type(value).__name__} is no part of an answer")

"""Opens what lies below a directory, name by name, and never through a link.

Each name is opened relative to the directory before it, with ``O_NOFOLLOW``, so what a name stands for is decided once,
at the moment at which it is opened: a link that somebody puts in a directory's place, before or during the walk, is
refused and not followed. No name leads upwards (:mod:`nomos_proxy.files.asked`). What was opened is judged by
``fstat``, not by its name: a regular file with one name, or a directory.

A file with a second name (a hard link) is refused: the other name may lie outside, and with it whose file it is.

Trusted: the path of the volume itself, which the installation names.

Blocking. Source: open(2), path_resolution(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from nomos.errors import PathRefused, UpstreamFailed
from nomos_proxy.files.answers import IS_DIRECTORY, NOT_DIRECTORY, Negative, no_of

_WALK: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A FIFO without a writer does not hold the open up, and a terminal does not become ours.
_OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: ``O_PATH`` asks for no right but the one to go on.
_ON_THE_WAY: Final = getattr(os, "O_PATH", os.O_RDONLY)


@contextmanager
def opened_top(base: str, folder: str) -> Iterator[int]:
    """A volume: its directory, and a tenant's folder in it where it has one.

    Raises:
        UpstreamFailed: it is not there, or the tenant's folder is none.
        PathRefused: the tenant's folder is a link.
    """
    try:
        top = os.open(base, os.O_DIRECTORY | os.O_CLOEXEC | _ON_THE_WAY)
    except OSError as error:
        raise UpstreamFailed("the volume is not there", cause=error.strerror) from error
    with ExitStack() as opened:
        opened.callback(os.close, top)
        try:
            found = opened.enter_context(opened_directory(top, (folder,) if folder else ()))
        except Negative as no:
            # no answer about what the agent asked for: there is nothing in which to look
            raise UpstreamFailed("the tenant has no folder in this volume", cause=no.detail) from no
        yield found


@contextmanager
def opened_directory(top: int, path: Sequence[str]) -> Iterator[int]:
    """The directory at ``path`` below ``top``, good for walking on.

    Raises:
        Negative: there is none, or no right to go there.
        PathRefused: a name on the way is a link.
        UpstreamFailed: the filesystem failed.
    """
    at = os.dup(top)
    try:
        for name in path:
            try:
                following = os.open(name, _WALK | _ON_THE_WAY, dir_fd=at)
            except OSError as error:
                raise _why(at, name, error) from error
            os.close(at)
            at = following
        yield at
    finally:
        os.close(at)


@contextmanager
def opened_parent(top: int, path: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The directory that holds the last name of ``path``, and that name; errors as :func:`opened_directory`."""
    with opened_directory(top, path[:-1]) as parent:
        yield parent, path[-1]


@contextmanager
def opened_file(parent: int, name: str, flags: int) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file with one name, and what ``fstat`` says of it.

    Raises:
        Negative: there is none, it is a directory, or there is no right to it.
        PathRefused: a link, a device, a FIFO, a socket, or a file with a second name.
        UpstreamFailed: the filesystem failed.
    """
    kept_regular(status_of(parent, name))  # what is no file is not even opened: a device may act on that
    try:
        file = os.open(name, flags | _OPEN, dir_fd=parent)
    except OSError as error:
        raise _why(parent, name, error) from error
    try:
        found = os.fstat(file)
        kept_regular(found)
        if found.st_nlink > 1:
            raise PathRefused("the file has a second name, which may lie elsewhere")
        yield file, found
    finally:
        os.close(file)


def status_of(parent: int, name: str) -> os.stat_result:
    """What a name stands for, by itself; errors as :func:`opened_file`."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise no_of(error) from error
    if stat.S_ISLNK(found.st_mode):
        raise _link()
    return found


def status_or_none(parent: int, name: str) -> os.stat_result | None:
    """As :func:`status_of`; None where the name is free."""
    try:
        return status_of(parent, name)
    except Negative as no:
        if no.status != 404:
            raise
        return None


def kept_regular(found: os.stat_result) -> None:
    """Refuses what is no regular file.

    Raises:
        Negative: a directory.
        PathRefused: a link, a device, a FIFO or a socket.
    """
    if stat.S_ISDIR(found.st_mode):
        raise Negative(*IS_DIRECTORY)
    if stat.S_ISLNK(found.st_mode):
        raise _link()
    if not stat.S_ISREG(found.st_mode):
        raise PathRefused("that is neither a file nor a directory")


def _why(parent: int, name: str, error: OSError) -> Exception:
    """Why a name could not be opened. A link says ``ENOTDIR`` or ``ELOOP``, as a file in a directory's place does."""
    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
        return no_of(error)
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except OSError as gone:
        return no_of(gone)
    # a directory by now: it was none when it was opened, so somebody changes what stands here
    is_link = error.errno == errno.ELOOP or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)
    return _link() if is_link else Negative(*NOT_DIRECTORY)


def _link() -> PathRefused:
    return PathRefused("a name on the path is a link")

"""What each operation does to files of a host, by SFTP.

SFTP names files by their whole path and has no way to open one below another, so a link cannot be kept out while a call
runs as it is here (:mod:`nomos_proxy.files.beneath`). Instead the host is asked, in order:

1. The path lies below a root of the connection, by whole names; else nothing is sent.
2. The host resolves the root and the directory that holds the last name: the second must be the first and the names
   between, exactly. A link on the way would show.
3. The last name is looked at without following a link; for a file it must be a regular one.
4. What was opened must be what was looked at (size, times, owner, mode), and steps 2 and 3 must say the same once more,
   before one byte of it is read or written.

Nothing waits for the host to take leave: what is open closes with the connection, so a host that has fallen silent
holds no call up beyond its time.

What remains: somebody who writes on the host can put a link there and take it away again between these questions. The
account of the connection should be able to reach nothing that agents may not.

Source: draft-ietf-secsh-filexfer-02; openssh PROTOCOL, section 4 (posix-rename, fsync).
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, cast

import asyncssh
from asyncssh import SFTPAttrs, SFTPClient, SFTPClientFile
from msgspec import Struct

from nomos.errors import PathRefused, UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.files import answers
from nomos_proxy.files.answers import (
    EXISTS,
    FORBIDDEN,
    IS_DIRECTORY,
    NOT_DIRECTORY,
    NOT_FOUND,
    Entry,
    Negative,
    entry_of,
    told,
)
from nomos_proxy.files.asked import UNFINISHED_PREFIX, Asked, is_name
from nomos_proxy.files.local import FILE_BYTES_MAX

Names = tuple[str, ...]
#: Bytes of a file that are asked for at once; a host may give fewer.
_PIECE_BYTES: Final = 131_072
#: SFTP 3 says no with one word for everything but absence and rights.
_FAILED: Final = (409, "refused", "the host refuses it")
_UNSUPPORTED: Final = (501, "not_supported", "the host's SFTP server cannot do this")


class Spot(Struct, frozen=True, kw_only=True):
    """Where a path leads on the host.

    Attributes:
        directory: the resolved directory that holds the last name.
        name: the last name.
    """

    directory: bytes
    name: bytes

    @property
    def path(self) -> bytes:
        """The whole path."""
        return self.directory.rstrip(b"/") + b"/" + self.name


async def perform(
    connection: asyncssh.SSHClientConnection, asked: Asked, roots: Sequence[Names], body_bytes_max: int
) -> UpstreamResponse:
    """Does what is asked.

    Args:
        connection: to the host, both sides proved.
        asked: from :func:`nomos_proxy.files.asked.read_asked`.
        roots: where the connection's paths may lead.
        body_bytes_max: largest body of the answer.

    Raises:
        PathRefused: outside of the roots, over a link, no file or directory, or changed meanwhile; nothing was read or
            changed.
        AnswerRefused: an answer over a limit.
        UnknownOutcome: the host refused to go on, after a part may have been added.
        asyncssh.Error, OSError: the connection ended; it may have taken effect.
    """
    for path in (asked.path, asked.to):
        if path:
            _root_of(path, roots)
    # names are bytes here: what is no UTF-8 is left out of a list, and breaks nothing
    client = await connection.start_sftp_client(path_encoding=None, env=None, send_env=None)
    try:
        return await _OPERATIONS[asked.operation](_Host(client, roots), asked, body_bytes_max)
    except Negative as no:
        return answers.negative(no)
    except asyncssh.SFTPError as error:
        return answers.negative(_no_of(error))


class _Host:
    """The host during one call."""

    __slots__ = ("_roots", "client")

    def __init__(self, client: SFTPClient, roots: Sequence[Names]) -> None:
        self.client = client
        self._roots = roots

    async def spot(self, path: Names) -> Spot:
        """Where the last name of ``path`` is, if no link leads there (step 2)."""
        root = _root_of(path, self._roots)
        if len(path) == len(root):
            raise PathRefused("that is the root itself, and no name in it")
        return Spot(directory=await self.directory(path[:-1]), name=path[-1].encode())

    async def directory(self, path: Names) -> bytes:
        """The resolved path of a directory, if no link leads there below its root."""
        root = _root_of(path, self._roots)
        top = await self.client.realpath(_path_of(root))
        found = await self.client.realpath(_path_of(path))
        below = [name.encode() for name in path[len(root) :]]
        if found != b"/".join([top.rstrip(b"/"), *below]):
            raise PathRefused("a name on the path is a link")
        return found

    async def status(self, spot: Spot) -> SFTPAttrs:
        """What the last name is, by itself (step 3)."""
        found = await self.client.lstat(spot.path)
        if _is(found, stat.S_ISLNK):
            raise PathRefused("a name on the path is a link")
        return found

    async def status_or_none(self, spot: Spot) -> SFTPAttrs | None:
        """As :meth:`status`; None where the name is free."""
        try:
            return await self.status(spot)
        except asyncssh.SFTPNoSuchFile:
            return None

    async def check_same(self, path: Names, spot: Spot, found: SFTPAttrs) -> None:
        """Asks once more, after the file was opened (step 4)."""
        if await self.spot(path) != spot or _facts(await self.status(spot)) != _facts(found):
            raise PathRefused("what the path leads to changed during the call")

    async def opened(self, path: Names, flags: int) -> tuple[SFTPClientFile, SFTPAttrs]:
        """A regular file that no link led to, as far as the host can tell us. It closes with the connection."""
        spot = await self.spot(path)
        looked = await self.status(spot)
        _kept_regular(looked)
        file = await self.client.open(spot.path, flags, encoding=None, block_size=None)
        found = await file.stat()
        if _facts(found) != _facts(looked):
            raise PathRefused("what the path leads to changed during the call")
        await self.check_same(path, spot, found)
        return file, found

    async def put(self, path: Names, content: bytes, *, mode: int | None, replaces: bool) -> None:
        """Writes a new file beside the name, and gives it the name."""
        spot = await self.spot(path)
        unfinished = Spot(directory=spot.directory, name=f"{UNFINISHED_PREFIX}{secrets.token_hex(12)}".encode())
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            file = await self.client.open(unfinished.path, flags, encoding=None)
            if mode is not None:
                await file.setstat(SFTPAttrs(permissions=mode))
            await file.write(content)
            await _sync(file)
            await file.close()
            if await self.spot(path) != spot:
                raise PathRefused("what the path leads to changed during the call")
            if replaces:
                await self.client.posix_rename(unfinished.path, spot.path)
            else:
                await self.client.rename(unfinished.path, spot.path)
        except (asyncssh.SFTPError, PathRefused):
            with suppress(asyncssh.SFTPError):
                await self.client.remove(unfinished.path)
            raise


async def _read(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    file, found = await host.opened(asked.path, asyncssh.FXF_READ)
    answers.check_size(found.size or 0, body_bytes_max)
    body = bytearray()
    # piece by piece: a host that sends more than it was asked for is asked for nothing more
    while len(body) <= body_bytes_max:
        piece = cast(bytes, await file.read(_PIECE_BYTES, len(body)))  # opened without an encoding
        if not piece:
            break
        body += piece
    return answers.contents(asked.path[-1], bytes(body), body_bytes_max)


async def _stat(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    entry = _entry("", await host.status(await host.spot(asked.path)))
    return told(200, {"type": entry.type, "size": entry.size, "changed_at": entry.changed_at})


async def _list(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    directory = await host.directory(asked.path)
    if not _is(await host.client.lstat(directory), stat.S_ISDIR):
        raise Negative(*NOT_DIRECTORY)
    entries: list[Entry] = []
    left_out = 0
    async for one in host.client.scandir(directory):
        raw = one.filename.encode() if isinstance(one.filename, str) else one.filename
        name = raw.decode("utf-8", "surrogateescape")
        if name in (".", "..") or name.startswith(UNFINISHED_PREFIX):
            continue
        answers.check_entries(len(entries) + left_out + 1)
        if is_name(name):
            entries.append(_entry(name, one.attrs))
        else:
            left_out += 1
    if await host.directory(asked.path) != directory:
        raise PathRefused("what the path leads to changed during the call")
    return answers.listing(entries, left_out, body_bytes_max)


async def _write(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    old = await host.status_or_none(await host.spot(asked.path))
    if old is not None:
        _kept_regular(old)
    mode = None if old is None or old.permissions is None else stat.S_IMODE(old.permissions) & 0o777
    await host.put(asked.path, asked.content, mode=mode, replaces=True)
    return told(200 if old else 201, {"bytes": len(asked.content), "replaced": old is not None})


async def _create(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    if await host.status_or_none(await host.spot(asked.path)) is not None:
        raise Negative(*EXISTS)
    await host.put(asked.path, asked.content, mode=None, replaces=False)
    return told(201, {"bytes": len(asked.content), "replaced": False})


async def _append(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    file, found = await host.opened(asked.path, asyncssh.FXF_WRITE | asyncssh.FXF_APPEND)
    size = found.size or 0
    if size + len(asked.content) > FILE_BYTES_MAX:
        raise Negative(413, "too_large", f"the file would be over file_bytes_max, which is {FILE_BYTES_MAX}")
    try:
        await file.write(asked.content)
        await _sync(file)
        await file.close()
    except asyncssh.SFTPError as error:
        raise UnknownOutcome("the host refused it, after a part may have been added", cause=error.reason) from error
    return told(200, {"bytes": len(asked.content), "size": size + len(asked.content)})


async def _mkdir(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    spot = await host.spot(asked.path)
    if await host.status_or_none(spot) is not None:
        raise Negative(*EXISTS)
    await host.client.mkdir(spot.path)
    return told(201, {"made": True})


async def _rmdir(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    spot = await host.spot(asked.path)
    if not _is(await host.status(spot), stat.S_ISDIR):
        raise Negative(*NOT_DIRECTORY)
    await host.client.rmdir(spot.path)
    return told(200, {"deleted": True})


async def _delete(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    spot = await host.spot(asked.path)
    _kept_regular(await host.status(spot))
    await host.client.remove(spot.path)
    return told(200, {"deleted": True})


async def _move(host: _Host, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    spot, new = await host.spot(asked.path), await host.spot(asked.to)
    # a directory is not moved: with it would move what a policy says of paths inside it
    _kept_regular(await host.status(spot))
    if await host.status_or_none(new) is not None:
        raise Negative(*EXISTS)
    await host.client.rename(spot.path, new.path)
    return told(200, {"moved": True})


_OPERATIONS: Final[Mapping[str, Callable[[_Host, Asked, int], Awaitable[UpstreamResponse]]]] = MappingProxyType({
    "read": _read, "stat": _stat, "list": _list, "write": _write, "create": _create, "append": _append,
    "mkdir": _mkdir, "rmdir": _rmdir, "delete": _delete, "move": _move,
})  # fmt: skip


def _root_of(path: Names, roots: Sequence[Names]) -> Names:
    """The longest root that ``path`` is or lies in, by whole names.

    Raises:
        PathRefused: none.
    """
    found = [root for root in roots if path[: len(root)] == root]
    if not found:
        raise PathRefused("the path lies in none of the connection's roots")
    return max(found, key=len)


def _path_of(names: Names) -> bytes:
    return b"/" + "/".join(names).encode()


async def _sync(file: SFTPClientFile) -> None:
    """Has the host put it on its disk, where its server can be asked to."""
    with suppress(asyncssh.SFTPOpUnsupported):
        await file.fsync()


def _is(found: SFTPAttrs, kind: Callable[[int], bool]) -> bool:
    return found.permissions is not None and kind(found.permissions)


def _kept_regular(found: SFTPAttrs) -> None:
    if _is(found, stat.S_ISDIR):
        raise Negative(*IS_DIRECTORY)
    if not _is(found, stat.S_ISREG):
        raise PathRefused("that is neither a file nor a directory")


def _facts(found: SFTPAttrs) -> tuple[int | None, ...]:
    """What SFTP 3 says of a file; it knows no inode."""
    return (found.permissions, found.size, found.uid, found.gid, found.mtime)


def _entry(name: str, found: SFTPAttrs) -> Entry:
    return entry_of(name, found.permissions or 0, found.size or 0, found.mtime or 0)


def _no_of(error: asyncssh.SFTPError) -> Negative:
    """What the host's no means. The end of a connection is none, and goes on as an error."""
    match error:
        case asyncssh.SFTPNoSuchFile() | asyncssh.SFTPNoSuchPath():
            return Negative(*NOT_FOUND)
        case asyncssh.SFTPPermissionDenied() | asyncssh.SFTPWriteProtect():
            return Negative(*FORBIDDEN)
        case asyncssh.SFTPFileAlreadyExists():
            return Negative(*EXISTS)
        case asyncssh.SFTPOpUnsupported():
            return Negative(*_UNSUPPORTED)
        case asyncssh.SFTPConnectionLost() | asyncssh.SFTPNoConnection() | asyncssh.SFTPBadMessage():
            raise error
    return Negative(*_FAILED)

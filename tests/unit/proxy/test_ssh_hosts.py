"""Hosts that speak SSH, on a real server: who they must be, where paths may lead, what commands are."""

from __future__ import annotations

import ast
import asyncio
import base64
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest, build_request, load_catalogue
from nomos.errors import (
    DestinationRefused,
    HostKeyChanged,
    LimitExceeded,
    Malformed,
    NomosError,
    NotCovered,
    PathRefused,
    UnknownOutcome,
    UpstreamFailed,
)
from nomos_proxy.answer import AnswerRefused, UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.exchange import Limits
from nomos_proxy.files import answers
from nomos_proxy.files.asked import read_asked
from nomos_proxy.places import Places
from nomos_proxy.pool import PoolFull
from nomos_proxy.ssh import commands, dial
from nomos_proxy.ssh import files as remote_files
from nomos_proxy.ssh.calls import SshHosts
from nomos_proxy.ssh.keys import host_key, private_key
from nomos_proxy.ssh.target import SshTarget, parse_target
from nomos_runtime.secret import Secret

from .sshserver import OpenSsh, Process, Server, needs_openssh, shell

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
LIMITS = Limits(body_bytes=100_000)
Do = Callable[..., Awaitable[UpstreamResponse]]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A root on the host, with something beside it that nobody may see."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("outside")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


class Client:
    """One connection to the server, as an operator added it."""

    def __init__(self, server: Server | OpenSsh, top: Path) -> None:
        self.server, self.top, self.tenant = server, top, "acme"
        self.credential = Secret(server.private_key)
        self.target = self.of()
        self.development = {server.origin}
        self.hosts = SshHosts(development_origins=self.development)

    def of(self, **members: object) -> SshTarget:
        given = {"user": self.server.user, "host_keys": [self.server.public_key], "roots": [str(self.top)]}
        return parse_target(given | members)

    async def do(self, action: str, path: str = "", /, *, limits: Limits = LIMITS, **args: object) -> UpstreamResponse:
        found = CATALOGUE.action(f"ssh:{action}")
        names = f"{self.top}/{path}".rstrip("/").lstrip("/") if found.resource_type.within else ""
        resource = CATALOGUE.parse_resource(f"ssh:{found.resource_type.kind}/h.test{'/' if names else ''}{names}")
        if "to" in args:
            args["to"] = f"{self.top}/{args['to']}".lstrip("/")
        return await self.send(build_request(found, resource, args), limits)

    async def send(self, request: OutgoingRequest, limits: Limits = LIMITS) -> UpstreamResponse:
        return await self.hosts.call(self.tenant, self.server.origin, self.target, request, self.credential, limits)


@pytest.fixture
def client(server: Server, top: Path) -> Client:
    return Client(server, top)


@pytest.fixture(params=["asyncssh", pytest.param("openssh", marks=needs_openssh)])
def either(request: pytest.FixtureRequest, top: Path) -> Client:
    """A client of the server in this process, and one of OpenSSH's."""
    return Client(request.getfixturevalue("server" if request.param == "asyncssh" else "openssh"), top)


@pytest.fixture
def openssh(tmp_path: Path) -> Iterator[OpenSsh]:
    made = OpenSsh(tmp_path / "sshd")
    made.start()
    yield made
    made.stop()


def told(answer: UpstreamResponse) -> dict[str, object]:
    return msgspec.json.decode(answer.body, type=dict[str, object])


# --- who the host is, and who we are -----------------------------------------------------------------------------
async def test_a_host_with_another_key_hears_nothing_and_not_who_asks(client: Client, server: Server) -> None:
    (client.top / "f").write_text("f")
    assert (await client.do("files.read", "f")).body == b"f"
    server.users.clear()
    await server.restart(asyncssh.generate_private_key("ssh-ed25519"))
    for action, path in (("files.read", "f"), ("files.delete", "f"), ("commands.run", "")):
        args = {"program": "id"} if action == "commands.run" else {}
        with pytest.raises(HostKeyChanged):
            await client.do(action, path, **args)
    # of another kind: the two have no algorithm in common, and that is no chance
    await server.restart(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    with pytest.raises(HostKeyChanged):
        await client.do("files.read", "f")
    assert server.users == []
    assert (client.top / "f").exists()


async def test_any_of_the_pinned_keys_will_do_so_that_a_host_can_change_its_own(client: Client, server: Server) -> None:
    following = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    both = [server.public_key + " root@h", following.export_public_key().decode()]
    client.target = client.of(host_keys=both)
    assert (await client.do("directories.list")).status == 200
    await server.restart(following)
    assert (await client.do("directories.list")).status == 200


async def test_no_known_host_agent_or_setting_of_this_machine_is_read(
    client: Client, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would all lead astray: a known host of the wrong key, an agent that is a trap, a proxy command."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    trap = home / "trapped"
    (home / ".ssh" / "config").write_text(f"Host *\n  ProxyCommand touch {trap}\n  HostKeyAlgorithms rsa-sha2-512\n")
    impostor = asyncssh.generate_private_key("ssh-ed25519")
    known = f"[127.0.0.1]:{server.port} {impostor.export_public_key().decode()}"
    (home / ".ssh" / "known_hosts").write_text(known)
    (home / ".ssh" / "id_ed25519").write_bytes(impostor.export_private_key())
    monkeypatch.setenv("HOME", str(home))
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(home / "agent"))
    agent.listen()
    agent.setblocking(False)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    assert (await client.do("directories.list")).status == 200
    await server.restart(impostor)
    with pytest.raises(HostKeyChanged):
        await client.do("directories.list")
    assert not trap.exists()
    with pytest.raises(BlockingIOError):
        agent.accept()
    agent.close()
    assert set(server.users) == {"deploy"}


async def test_a_key_that_the_host_does_not_take_is_refused_before_anything_is_asked(
    client: Client, server: Server
) -> None:
    client.credential = Secret(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with pytest.raises(UpstreamFailed, match="does not take the connection's key"):
        await client.do("commands.run", program="id")
    client.credential = Secret(server.private_key)
    client.target = client.of(user="other")
    with pytest.raises(UpstreamFailed, match="does not take"):
        await client.do("commands.run", program="id")
    assert server.commands == []


async def test_a_host_that_lets_anybody_in_is_not_the_one_that_knows_our_key(client: Client, server: Server) -> None:
    server.is_open_to_all = True
    with pytest.raises(UpstreamFailed):
        await client.do("commands.run", program="id")
    assert server.commands == []


async def test_a_private_address_is_refused_unless_a_developer_named_it(client: Client, server: Server) -> None:
    client.development.clear()
    with pytest.raises(DestinationRefused, match="not public"):
        await client.do("directories.list")

    async def metadata(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "169.254.169.254"]

    client.hosts = SshHosts(development_origins=client.development, resolver=metadata)
    with pytest.raises(DestinationRefused, match="not public"):
        await client.do("directories.list")
    assert server.users == []


async def test_a_host_that_is_not_there_or_does_not_speak_ssh_was_asked_nothing(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.stop()
    with pytest.raises(UpstreamFailed, match="could not be reached"):
        await client.do("directories.list")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        writer.close()

    other = await asyncio.start_server(talk, "127.0.0.1", server.port)
    with pytest.raises(UpstreamFailed, match="broke off"):
        await client.do("directories.list")
    other.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(dial, "CONNECT_SECONDS", 0.3)
    other = await asyncio.start_server(silent, "127.0.0.1", server.port)
    with pytest.raises(UpstreamFailed):
        await client.do("directories.list")
    other.close()
    await server.start()


def with_cipher(key: bytes, name: bytes) -> bytes:
    first, *lines, last = key.strip().split(b"\n")
    changed = base64.b64decode(b"".join(lines)).replace(b"\0\0\0\x04none", b"\0\0\0\x04" + name, 1)
    return b"\n".join([first, base64.b64encode(changed), last, b""])


def test_a_private_key_is_ed25519_in_its_own_format_and_nothing_of_it_shows() -> None:
    good = asyncssh.generate_private_key("ssh-ed25519")
    assert private_key(Secret(good.export_private_key())).public_data == good.public_data
    content = good.export_private_key()
    wrong = [
        b"", b"secret-secret", content[:-40], content.replace(b"OPENSSH", b"RSA"),
        # another cipher than none: one with a passphrase
        with_cipher(content, b"nine"),
        good.export_private_key("pkcs8-pem"),
        asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key(),
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(Malformed) as refused:
            private_key(Secret(one))
        assert refused.value.__cause__ is None
        assert refused.value.detail.startswith("the credential is a private key")


@pytest.mark.parametrize(
    "members",
    [
        {"user": ""}, {"user": "root\n"}, {"user": "-oProxyCommand=x"}, {"user": "A"}, {"user": 1},
        {"port": -1}, {"port": 65536}, {"port": "22"}, {"host_keys": []}, {"host_keys": ["ssh-ed25519"]},
        {"host_keys": ["* ssh-ed25519 " + "A" * 68]}, {"host_keys": ["ssh-dss " + "A" * 68]},
        {"host_keys": ["@cert-authority * ssh-ed25519 " + "A" * 68]}, {"host_keys": "x"},
        {"roots": ["data"]}, {"roots": ["/"]}, {"roots": ["/data/"]}, {"roots": ["/data/../etc"]},
        {"roots": ["//data"]},
        {"roots": ["/data/\0"]}, {"roots": ["/" + "/".join("a" * 33)]},
    ],
)  # fmt: skip
def test_a_host_that_is_said_wrongly_is_refused(members: dict[str, object]) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    given: dict[str, object] = {"user": "deploy", "host_keys": [key], "roots": ["/data/a"]}
    assert parse_target(given).roots == (("data", "a"),)
    assert parse_target(parse_target(given).members()) == parse_target(given)
    with pytest.raises(Malformed):
        parse_target(given | members)


def test_a_host_has_so_many_keys_and_roots_and_no_weak_key() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(LimitExceeded, match="host_keys_max"):
        parse_target({"user": "a", "host_keys": [key] * 9})
    with pytest.raises(LimitExceeded, match="roots_max"):
        parse_target({"user": "a", "host_keys": [key], "roots": ["/a"] * 17})
    weak = asyncssh.generate_private_key("ssh-rsa", key_size=1024).export_public_key().decode()
    with pytest.raises(Malformed, match="at least 2048 bits"):
        host_key(parse_target({"user": "a", "host_keys": [weak]}).host_keys[0])
    with pytest.raises(Malformed, match="cannot be read"):
        host_key("ssh-ed25519 " + "A" * 68)


# --- files ---------------------------------------------------------------------------------------------------------
async def test_files_of_a_host_are_created_read_written_added_to_moved_and_deleted(either: Client) -> None:
    do, top = either.do, either.top
    assert (await do("directories.create", "a")).status == 201
    assert (await do("files.create", "a/x.txt", text="fünf\n")).status == 201
    assert (await do("files.read", "a/x.txt")).body == "fünf\n".encode()
    os.chmod(top / "a" / "x.txt", 0o640)
    assert told(await do("files.write", "a/x.txt", text="six")) == {"bytes": 3, "replaced": True}
    assert (top / "a" / "x.txt").stat().st_mode & 0o777 == 0o640
    assert told(await do("files.append", "a/x.txt", text="+7")) == {"bytes": 2, "size": 5}
    assert told(await do("files.stat", "a/x.txt"))["size"] == 5
    assert (await do("files.write", "a/new.json", base64="e30=")).status == 201
    (top / "a" / ".nomos-left").touch()
    Path(os.fsdecode(os.fsencode(top) + b"/a/\xff")).touch()
    listed = told(await do("directories.list", "a"))
    assert [(one["name"], one["type"], one["size"]) for one in listed["entries"]] == [  # type: ignore[attr-defined]
        ("new.json", "file", 2), ("x.txt", "file", 5),
    ]  # fmt: skip
    assert listed["left_out"] == 1
    assert told(await do("directories.list"))["entries"][0]["name"] == "a"  # type: ignore[index]
    assert (await do("files.move", "a/x.txt", to="y.txt")).status == 200
    assert (top / "y.txt").read_bytes() == b"six+7"
    for path in ("y.txt", "a/new.json"):
        assert (await do("files.delete", path)).status == 200
    (top / "a" / ".nomos-left").unlink()
    Path(os.fsdecode(os.fsencode(top) + b"/a/\xff")).unlink()
    assert (await do("directories.delete", "a")).status == 200
    assert list(top.iterdir()) == []


@pytest.mark.parametrize(
    ("action", "path", "args", "status", "word"),
    [
        ("files.read", "none", {}, 404, "not_found"),
        ("files.read", "d", {}, 409, "is_a_directory"),
        ("files.stat", "none", {}, 404, "not_found"),
        ("directories.list", "f", {}, 409, "not_a_directory"),
        ("directories.list", "none", {}, 404, "not_found"),
        ("files.create", "f", {"text": "x"}, 409, "exists"),
        ("files.create", "none/x", {"text": "x"}, 404, "not_found"),
        ("files.write", "d", {"text": "x"}, 409, "is_a_directory"),
        ("files.append", "none", {"text": "x"}, 404, "not_found"),
        ("directories.create", "d", {}, 409, "exists"),
        ("directories.delete", "d", {}, 409, "refused"),
        ("directories.delete", "f", {}, 409, "not_a_directory"),
        ("files.delete", "d", {}, 409, "is_a_directory"),
        ("files.move", "f", {"to": "d/g"}, 409, "exists"),
        ("files.move", "d", {"to": "e"}, 409, "is_a_directory"),
    ],
)
async def test_a_no_of_the_host_is_an_answer_and_changes_nothing(
    either: Client, action: str, path: str, args: dict[str, object], status: int, word: str
) -> None:
    top = either.top
    (top / "d").mkdir()
    (top / "d" / "g").write_text("g")
    (top / "f").write_text("f")
    answer = await either.do(action, path, **args)
    assert (answer.status, told(answer)["error"]) == (status, word)
    left = {str(one.relative_to(top)): one.read_text() if one.is_file() else None for one in top.rglob("*")}
    assert left == {"d": None, "d/g": "g", "f": "f"}


ALL = [
    ("files.read", {}), ("files.stat", {}), ("files.create", {"text": "x"}), ("files.write", {"text": "x"}),
    ("files.append", {"text": "x"}), ("files.delete", {}), ("files.move", {"to": "moved"}),
    ("directories.list", {}), ("directories.create", {}), ("directories.delete", {}),
]  # fmt: skip


@pytest.mark.parametrize(("action", "args"), ALL, ids=[name for name, _ in ALL])
async def test_no_link_on_a_host_is_followed(either: Client, action: str, args: dict[str, object]) -> None:
    top = either.top
    (top / "in").mkdir()
    (top / "in" / "secret.txt").write_text("inside")
    for name, target in {"out": "../outside", "out-file": "../outside/secret.txt", "in-link": "in",
                         "dangling": "nothing"}.items():  # fmt: skip
        (top / name).symlink_to(target)
    for path in ("out/secret.txt", "out", "out-file", "in-link/secret.txt", "in-link", "dangling"):
        with pytest.raises(PathRefused):
            await either.do(action, path, **dict(args))
    assert (top.parent / "outside" / "secret.txt").read_text() == "outside"
    assert sorted(one.name for one in (top.parent / "outside").iterdir()) == ["secret.txt"]


async def test_a_path_beside_the_roots_is_refused_and_nothing_is_sent(client: Client, server: Server) -> None:
    beside = client.top.with_name("root-old")
    beside.mkdir()
    (beside / "f").write_text("f")
    client.target = client.of(roots=[str(client.top), str(client.top / "deep")])
    started: list[bool] = []

    class Watched(asyncssh.SFTPServer):
        def __init__(self, channel: asyncssh.SSHServerChannel) -> None:
            started.append(True)
            super().__init__(channel)

    server.sftp = Watched
    for path in (f"{beside}/f", "/etc/passwd", str(client.top.parent), str(client.top.parent / "outside/secret.txt")):
        for method, operation, body in (("GET", "read", None), ("DELETE", "delete", None), ("GET", "list", None)):
            with pytest.raises(PathRefused, match="none of the connection's roots"):
                await client.send(OutgoingRequest(method=method, path=f"/{operation}{path}", body=body))  # type: ignore[arg-type]
    inside = str(client.top)[1:]
    with pytest.raises(PathRefused, match="none of the connection's roots"):
        body = msgspec.json.encode({"to": f"{str(beside)[1:]}/g"})
        await client.send(OutgoingRequest(method="POST", path=f"/move/{inside}/f", body=body))
    for path in (f"/read/{inside}/../outside/secret.txt", f"/read/{inside}/%2e%2e/x", f"/read/{inside}/a%00b",
                 f"/read/{inside}//x", f"/read/{inside}/a%2Fb"):  # fmt: skip
        with pytest.raises(NomosError):
            await client.send(OutgoingRequest(method="GET", path=path))
    client.target = client.of(roots=[])
    with pytest.raises(PathRefused, match="roots"):
        await client.do("directories.list")
    assert not started
    with pytest.raises(PathRefused, match="the root itself"):
        client.target = client.of()
        await client.send(OutgoingRequest(method="DELETE", path=f"/rmdir/{inside}"))


async def test_a_root_that_is_itself_a_link_of_the_host_is_the_operator_s_choice(client: Client) -> None:
    (client.top / "f").write_text("f")
    link = client.top.with_name("link")
    link.symlink_to(client.top)
    client.target = client.of(roots=[str(link)])
    answer = await client.send(OutgoingRequest(method="GET", path=f"/read{link}/f"))
    assert answer.body == b"f"


async def test_what_changes_between_the_questions_is_refused_before_a_byte_of_it(
    client: Client, server: Server
) -> None:
    """The host's owner puts a link in the file's place right after it was looked at; then in the directory's."""
    top = client.top
    (top / "d").mkdir()
    (top / "d" / "f").write_text("inside!")

    def swapping(after: str, swap: Callable[[], None]) -> type[asyncssh.SFTPServer]:
        done: list[bool] = []

        class Swapping(asyncssh.SFTPServer):
            def _once(self, what: str) -> None:
                if what == after and not done:
                    done.append(True)
                    swap()

            def lstat(self, path: bytes) -> object:  # type: ignore[override]
                found = super().lstat(path)
                self._once("lstat")
                return found

            def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:  # type: ignore[override]
                found = super().open(path, pflags, attrs)
                self._once("open")
                return found

        return Swapping

    def file() -> None:
        (top / "d" / "f").rename(top / "d" / "old")
        (top / "d" / "f").symlink_to("../../outside/secret.txt")

    def another() -> None:
        (top / "d" / "f").rename(top / "d" / "old")
        (top / "d" / "f").write_text("another of its own")

    def directory() -> None:
        (top / "d").rename(top / "kept")
        (top / "d").symlink_to("../outside")

    (top.parent / "outside" / "f").write_text("OUTSIDE")
    in_place = (("files.read", {}), ("files.append", {"text": "x"}))
    for after, swap, calls in (
        ("lstat", file, in_place), ("open", file, in_place), ("lstat", directory, in_place),
        ("open", directory, in_place), ("lstat", another, in_place), ("open", another, in_place),
        ("open", directory, (("files.write", {"text": "x"}), ("files.create", {"text": "x"}))),
    ):  # fmt: skip
        for action, args in calls:
            server.sftp = swapping(after, swap)
            with pytest.raises(PathRefused):
                await client.do(action, "d/new" if action == "files.create" else "d/f", **args)
            if (top / "kept").exists():
                (top / "d").unlink()
                (top / "kept").rename(top / "d")
            else:
                (top / "d" / "f").unlink()
                (top / "d" / "old").rename(top / "d" / "f")
    assert (top.parent / "outside" / "f").read_text() == "OUTSIDE"
    assert (top.parent / "outside" / "secret.txt").read_text() == "outside"
    assert (top / "d" / "f").read_text() == "inside!"


async def test_devices_and_pipes_of_a_host_are_refused(either: Client) -> None:
    os.mkfifo(either.top / "pipe")
    for action in ("files.read", "files.write", "files.append", "files.delete", "files.move"):
        with pytest.raises(PathRefused, match="neither a file nor a directory"):
            await either.do(action, "pipe", **dict(dict(ALL)[action]))


async def test_files_and_lists_of_a_host_have_their_limits(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    (client.top / "fits").write_bytes(b"x" * 90_000)
    (client.top / "over").write_bytes(b"x" * 100_001)
    assert len((await client.do("files.read", "fits")).body) == 90_000
    with pytest.raises(AnswerRefused, match="body_bytes_max, which is 100000"):
        await client.do("files.read", "over")
    monkeypatch.setattr(answers, "ENTRIES_MAX", 1)
    with pytest.raises(AnswerRefused, match="entries_max, which is 1"):
        await client.do("directories.list")
    monkeypatch.setattr(remote_files, "FILE_BYTES_MAX", 90_001)
    assert (await client.do("files.append", "fits", text="ab")).status == 413


async def test_a_file_that_grows_without_end_is_read_up_to_the_limit(client: Client, server: Server) -> None:
    (client.top / "f").write_bytes(b"small")

    class Endless(asyncssh.SFTPServer):
        def read(self, file_obj: object, offset: int, size: int) -> bytes:
            return b"x" * size

    server.sftp = Endless
    with pytest.raises(AnswerRefused, match="body_bytes_max"):
        await client.do("files.read", "f")


async def test_a_connection_that_ends_after_the_question_is_an_unknown_outcome(client: Client, server: Server) -> None:
    (client.top / "f").write_text("f")
    for name in ("lstat", "open", "posix_rename", "remove"):

        def cut(self: asyncssh.SFTPServer, *args: object) -> None:
            server.cut()

        server.sftp = type("Cut", (asyncssh.SFTPServer,), {name: cut})
        action, args = ("files.delete", {}) if name == "remove" else ("files.write", {"text": "x"})
        with pytest.raises(UnknownOutcome):
            await client.do(action, "f", **args)
    assert client.hosts._places.is_empty


@pytest.mark.parametrize("refused", ["write", "fsync", "close"])
async def test_what_a_host_refuses_after_a_part_was_added_is_an_unknown_outcome(
    client: Client, server: Server, refused: str
) -> None:
    (client.top / "f").write_bytes(b"before;")

    def full(self: asyncssh.SFTPServer, file: Any, *what: Any) -> int:
        if what:
            asyncssh.SFTPServer.write(self, file, what[0], what[1][:100])
        raise asyncssh.SFTPFailure("no space")

    server.sftp = type("Full", (asyncssh.SFTPServer,), {refused: full})
    with pytest.raises(UnknownOutcome, match="a part may have been added"):
        await client.do("files.append", "f", text="x" * 50_000)
    assert (client.top / "f").read_bytes().startswith(b"before;x")


async def test_a_host_that_does_not_answer_is_an_unknown_outcome_in_time(client: Client, server: Server) -> None:
    class Silent(asyncssh.SFTPServer):
        async def lstat(self, path: bytes) -> object:  # type: ignore[override]
            return await asyncio.Event().wait()

    server.sftp = Silent
    started = asyncio.get_running_loop().time()
    with pytest.raises(UnknownOutcome, match="within 3 seconds"):
        await client.do("files.read", "f", limits=Limits(total_seconds=3))
    assert asyncio.get_running_loop().time() - started < 20


# --- commands --------------------------------------------------------------------------------------------------------
NASTY = [
    "a b", "", "'", '"', "\\", "\\'", "$(id)", "`id`", "$HOME", "; id", "&& id", "| id", "> x", "*", "~", "!x", "#",
    "-n", "=ls", "\\'; id; '", "a\\", "''", "time", "%1", "\\\n", "a\nb", "\t", "ü", "'; id; '", "%s", "\\n", "{a,b}",
    "[a]", "^x", "?", "a" * 4000,
]  # fmt: skip


async def test_each_word_of_a_command_arrives_as_it_is(either: Client) -> None:
    script = "import sys; sys.stdout.write('\\0'.join(sys.argv[1:]))"
    answer = told(await either.do("commands.run", program=sys.executable, arguments=["-c", script, *NASTY]))
    assert (answer["exit_status"], answer["stderr"]) == (0, "")
    assert str(answer["stdout"]).split("\0") == NASTY


@pytest.mark.parametrize("name", ["sh", "bash", "dash", "ksh", "zsh", "fish"])
@settings(max_examples=25)
@given(words=st.lists(st.text("'\\\"$`;!\n=~*a {}()[]%#&|<>^?-", max_size=8), min_size=1, max_size=30))
def test_no_shell_reads_a_word_of_a_command_as_anything_else(name: str, words: list[str]) -> None:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}")
    line = commands.command_line((sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words))
    done = subprocess.run([found, "-c", line], capture_output=True, text=True, timeout=30, check=True)
    assert ast.literal_eval(done.stdout) == words


async def test_a_command_reads_its_input_and_says_how_it_ended(either: Client) -> None:
    assert told(await either.do("commands.run", program="cat", stdin="grüße\n")) == {
        "exit_status": 0, "exit_signal": None, "stdout": "grüße\n", "stderr": "", "is_exact": True,
    }  # fmt: skip
    failed = told(await either.do("commands.run", program="sh", arguments=["-c", "echo no >&2; exit 7"]))
    assert (failed["exit_status"], failed["stderr"]) == (7, "no\n")
    odd = told(await either.do("commands.run", program="printf", arguments=["\\377"]))
    assert (odd["stdout"], odd["is_exact"]) == ("\ufffd", False)
    missing = told(await either.do("commands.run", program="no-such-program"))
    assert missing["exit_status"] == 127


async def test_a_command_that_a_signal_ends_has_no_status(client: Client) -> None:
    killed = told(await client.do("commands.run", program="sh", arguments=["-c", "kill -9 $PPID"]))
    assert (killed["exit_status"], killed["exit_signal"]) == (None, "KILL")


async def test_a_host_of_openssh_with_another_key_than_the_pinned_one_is_refused(either: Client) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    either.target = either.of(host_keys=[other])
    with pytest.raises(HostKeyChanged):
        await either.do("commands.run", program="id")


async def test_output_without_end_is_cut_off_and_the_outcome_unknown(client: Client, server: Server) -> None:
    async def endless(process: Process) -> None:
        try:
            while True:
                process.stderr.write(b"x" * 65_536)
                await process.stderr.drain()
        except (BrokenPipeError, asyncssh.Error, ConnectionError):
            pass

    server.answer(endless)
    with pytest.raises(UnknownOutcome, match="output_bytes_max"):
        await client.do("commands.run", program="yes")
    server.answer(shell)
    with pytest.raises(AnswerRefused, match="body_bytes_max"):
        await client.do("commands.run", program="head", arguments=["-c", "150000", "/dev/zero"])


async def test_a_command_whose_connection_ends_may_have_run(client: Client, server: Server) -> None:
    async def cut(process: Process) -> None:
        process.stdout.write(b"half")
        server.cut()

    async def mute(process: Process) -> None:
        process.stdout.write(b"done")
        process.close()

    for command in (cut, mute):
        server.answer(command)
        with pytest.raises(UnknownOutcome):
            await client.do("commands.run", program="deploy")

    async def hang(process: Process) -> None:
        await asyncio.Event().wait()

    server.answer(hang)
    with pytest.raises(UnknownOutcome, match="within 3 seconds"):
        await client.do("commands.run", program="deploy", limits=Limits(total_seconds=3))
    assert len(server.commands) == 3


def test_a_command_has_its_limits_and_is_no_option() -> None:
    def asked(**members: object) -> object:
        return read_asked("ssh", OutgoingRequest(method="POST", path="/run", body=msgspec.json.encode(members)))

    assert asked(program="id", args=["a"])
    for program in ("", "-c"):
        with pytest.raises(Malformed, match="program"):
            asked(program=program)
    with pytest.raises(LimitExceeded, match="command_length_max"):
        asked(program="id", args=["x" * 4000] * 5)
    with pytest.raises(NotCovered):
        read_asked("ssh", OutgoingRequest(method="POST", path="/run/a", body=b'{"program":"id"}'))
    assert commands.command_line(("a", "b c", "it's", "\\\\", "")) == "'a' 'b c' 'it'\"'\"'s' \"\\\\\\\\\" ''"


async def test_a_tenant_has_so_many_connections_and_holds_up_no_other(client: Client, server: Server) -> None:
    go = asyncio.Event()

    async def hang(process: Process) -> None:
        await go.wait()
        process.exit(0)

    client.hosts._places = Places("connections to hosts", places=3, per_tenant=2)
    server.answer(hang)
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(client.do("commands.run", program="sleep")) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(server.commands) < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(PoolFull, match="too many connections to hosts"):
            await client.do("directories.list", limits=Limits(total_seconds=0.3))
        client.tenant = "beta"
        assert (await client.do("directories.list")).status == 200
        go.set()
    assert [told(task.result())["exit_status"] for task in held] == [0, 0]
    assert client.hosts._places.is_empty


async def test_nothing_is_opened_towards_us(client: Client, server: Server) -> None:
    """No forwarding, no terminal, no environment: what the server sees of a call is the command."""
    seen: list[object] = []

    async def look(process: Process) -> None:
        seen.extend((process.term_type, dict(process.env), process.command))
        connection = server.connections[-1]
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", 1)  # type: ignore[arg-type]
        process.exit(0)

    server.answer(look)
    assert told(await client.do("commands.run", program="id"))["exit_status"] == 0
    assert seen == [None, {}, "'id'"]


def test_addresses_are_checked_with_the_port_of_the_connection() -> None:
    assert str(Origin(scheme="ssh", host="h.test", port=2222)) == "ssh://h.test:2222"
    assert str(Origin(scheme="ssh", host="h.test", port=22)) == "ssh://h.test"

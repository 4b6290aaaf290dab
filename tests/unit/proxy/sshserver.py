"""Real SSH servers on loopback, with files of this machine: one in this process, which a test may turn, and OpenSSH."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from nomos_proxy.destination import Origin
from nomos_runtime.local import _free_port, write_private

Process = asyncssh.SSHServerProcess[bytes]


class Users(asyncssh.SSHServer):
    """Lets one user in, with one key."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._server.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        self._server.users.append(username)
        return not self._server.is_open_to_all

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "deploy" and key.public_data == self._server.user_key.public_data


class Server:
    """What a test says to it, and what it heard."""

    user = "deploy"

    def __init__(self) -> None:
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.is_open_to_all = False
        self.users: list[str] = []
        self.commands: list[str] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.sftp: type[asyncssh.SFTPServer] = asyncssh.SFTPServer
        self.port = 0
        self._listener: Any = None
        self._command: Callable[[Process], Awaitable[None]] = shell

    async def start(self) -> None:
        self._listener = await asyncssh.listen(
            "127.0.0.1", self.port, server_factory=lambda: Users(self), server_host_keys=[self.host_key],
            process_factory=self._process, sftp_factory=self._files, encoding=None,
            gss_host=None,
        )  # fmt: skip
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.cut()
        self._listener.close()
        await self._listener.wait_closed()

    async def restart(self, host_key: asyncssh.SSHKey) -> None:
        """Comes back on its port with another host key, as a machine that was taken over would."""
        await self.stop()
        self.host_key = host_key
        await self.start()

    def cut(self) -> None:
        """Ends every connection in the middle of whatever runs."""
        for one in self.connections:
            one.abort()
        self.connections.clear()

    def answer(self, command: Callable[[Process], Awaitable[None]]) -> None:
        """What it does with commands instead of giving them to a shell."""
        self._command = command

    def _files(self, channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return self.sftp(channel)  # type: ignore[arg-type] - whatever its strings are

    async def _process(self, process: Process) -> None:
        self.commands.append(process.command or "")
        await self._command(process)

    @property
    def origin(self) -> Origin:
        return Origin(scheme="ssh", host="127.0.0.1", port=self.port)

    @property
    def public_key(self) -> str:
        return self.host_key.export_public_key().decode().strip()

    @property
    def private_key(self) -> bytes:
        return self.user_key.export_private_key()


#: Where `make openssh` puts it.
SSHD = Path("/usr/sbin/sshd")
needs_openssh = pytest.mark.skipif(not SSHD.exists(), reason="there is no sshd: make openssh")
START_SECONDS = 15.0


class OpenSsh:
    """OpenSSH's server, which lets in who runs the test."""

    user = getpass.getuser()

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._user_key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._port = _free_port(0)
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        write_private(self._folder / "host", self._host_key.export_private_key().decode("ascii"))
        (self._folder / "authorized").write_bytes(self._user_key.export_public_key())
        lines = (
            "ListenAddress 127.0.0.1", f"Port {self._port}", f"HostKey {self._folder}/host", "StrictModes no",
            f"AuthorizedKeysFile {self._folder}/authorized", "UsePAM no", "PermitRootLogin yes", "PidFile none",
            "Subsystem sftp internal-sftp",
        )  # fmt: skip
        (self._folder / "config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # what sshd demands of a start as root
        command = [SSHD, "-D", "-e", "-f", self._folder / "config"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log)
        ends = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < ends, "sshd does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    @property
    def origin(self) -> Origin:
        return Origin(scheme="ssh", host="127.0.0.1", port=self._port)

    @property
    def public_key(self) -> str:
        return self._host_key.export_public_key().decode().strip()

    @property
    def private_key(self) -> bytes:
        return self._user_key.export_private_key()


async def shell(process: Process) -> None:
    """Runs the command in a POSIX shell, as a host does."""
    child = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command or "", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    sent = await process.stdin.read()
    out, err = await child.communicate(sent)
    process.stdout.write(out)
    process.stderr.write(err)
    code = child.returncode or 0
    if code < 0:
        process.exit_with_signal("KILL")
    else:
        process.exit(code)

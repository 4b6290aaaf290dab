"""Opens a connection to a pinned host, and proves who both are, before anything is asked.

The name is resolved once and every address checked, as for any upstream (:mod:`nomos_proxy.destination`), and the
connection goes to a checked address. No setting, key, agent or list of known hosts of this machine is read; nothing is
forwarded; the server is asked for nothing but what the call needs. A host with another key than the pinned ones is
refused before it hears who asks.

Source: RFC 4252, RFC 4253.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from typing import Final

import asyncssh
from msgspec import Struct

from nomos.errors import HostKeyChanged, UpstreamFailed
from nomos_proxy.destination import Origin, check_addresses
from nomos_proxy.dial import ADDRESSES_TRIED_MAX, Resolver
from nomos_proxy.ssh.keys import host_key, private_key
from nomos_proxy.ssh.target import SshTarget
from nomos_runtime.secret import Secret

#: Name, TCP, key exchange and authentication together, seconds.
CONNECT_SECONDS: Final = 8.0
#: What the library takes from a server that sends it faster than we read, bytes of one channel.
WINDOW_BYTES: Final = 262_144
_CLIENT_VERSION: Final = "nomos"


class Way(Struct, frozen=True, kw_only=True):
    """How a host is found, and until when.

    Attributes:
        resolver: names to addresses.
        development_origins: origins that may be loopback or private.
        deadline: loop time of the call's end, seconds.
    """

    resolver: Resolver
    development_origins: Set[Origin]
    deadline: float


@asynccontextmanager
async def dialled(
    origin: Origin, target: SshTarget, credential: Secret, way: Way
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection for one call; closed at once afterwards, whatever runs on it.

    Raises:
        DestinationRefused: an address of the name is not allowed.
        HostKeyChanged: the host has none of the pinned keys.
        UpstreamFailed: it cannot be reached in time, does not speak SSH, or does not take the key.
    """
    try:
        async with asyncio.timeout_at(min(way.deadline, asyncio.get_running_loop().time() + CONNECT_SECONDS)):
            sock = await _connected(origin, way)
            try:
                connection = await _authenticated(sock, origin, target, credential)
            except BaseException:
                sock.close()
                raise
    except TimeoutError as error:
        raise UpstreamFailed("the host could not be reached in time") from error
    try:
        yield connection
    finally:
        connection.abort()


async def _connected(origin: Origin, way: Way) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await way.resolver(origin.host, origin.port)
        addresses = check_addresses(origin, found, way.development_origins)[:ADDRESSES_TRIED_MAX]
        failure: OSError | None = None
        for address in addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, (address, origin.port))
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure or OSError("no address")
    except (OSError, UnicodeError) as error:
        raise UpstreamFailed("the host could not be reached", cause=str(error)) from error


async def _authenticated(
    sock: socket.socket, origin: Origin, target: SshTarget, credential: Secret
) -> asyncssh.SSHClientConnection:
    pinned = [host_key(line) for line in target.host_keys]
    try:
        return await asyncssh.connect(
            origin.host,
            origin.port,
            sock=sock,
            config=None,
            known_hosts=(pinned, [], []),
            # where the library can do X.509, it would read whom this machine trusts
            x509_trusted_certs=None,
            x509_trusted_cert_paths=[],
            username=target.user,
            client_keys=[private_key(credential)],
            client_version=_CLIENT_VERSION,
            preferred_auth="publickey",
            # a server that lets anybody in has not proved that it is the one that knows our key
            disable_trivial_auth=True,
            agent_path=None,
            agent_forwarding=False,
            x11_forwarding=False,
            host_based_auth=False,
            password_auth=False,
            kbdint_auth=False,
            gss_auth=False,
            gss_kex=False,
            gss_host=None,
            pkcs11_provider=None,
            compression_algs=None,
            send_env=None,
            env=None,
            request_pty=False,
            login_timeout=CONNECT_SECONDS,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyChanged("the host does not have the key that the connection pins") from error
    except asyncssh.KeyExchangeFailed as error:
        if "host key" in error.reason:
            raise HostKeyChanged("the host has no key of the kind that the connection pins") from error
        raise UpstreamFailed("the host and we have no algorithm in common", cause=error.reason[:200]) from error
    except asyncssh.PermissionDenied as error:
        raise UpstreamFailed("the host does not take the connection's key", cause=error.reason[:200]) from error
    except ValueError as error:
        # the library found fault with a setting before it said anything
        raise UpstreamFailed("the connection to the host could not be prepared", cause=str(error)[:200]) from error
    except (asyncssh.Error, OSError) as error:
        raise UpstreamFailed("the host broke off before anything was asked", cause=str(error)[:200]) from error

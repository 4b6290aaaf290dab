"""What a connection says about its host: the user, the port, the host keys that it must have, and the roots of paths.

A root is an absolute path in its one spelling. Host keys are pinned when the connection is added; there is no trust on
first use, and no file of this machine is read for it.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from nomos.catalogue.model import PATH_SEGMENTS_MAX
from nomos.catalogue.segments import check_segment
from nomos.errors import DestinationRefused, LimitExceeded, Malformed

#: Keys that are pinned for one host: one of each kind that it has, and the next ones.
HOST_KEYS_MAX: Final = 8
#: Roots of one connection.
ROOTS_MAX: Final = 16
_USER: Final = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_KEY: Final = re.compile(
    r"(?P<key>(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{40,2000}={0,2})(?: [!-~ ]*)?"
)


class SshTarget(Struct, frozen=True, kw_only=True):
    """A host as a connection knows it.

    Attributes:
        user: as whom.
        port: 0 for the connector's.
        host_keys: ``type base64``, as in a public key file without the comment.
        roots: where paths may lead, as names from the top; none for a connection of commands only.
    """

    user: str
    port: int
    host_keys: tuple[str, ...]
    roots: tuple[tuple[str, ...], ...]

    def members(self) -> dict[str, object]:
        """What an event holds of it; :func:`parse_target` reads it."""
        return {
            "user": self.user,
            "port": self.port,
            "host_keys": list(self.host_keys),
            "roots": ["/" + "/".join(root) for root in self.roots],
        }


def parse_target(members: Mapping[str, object]) -> SshTarget:
    """Reads what an operator or an event says.

    Args:
        members: ``user``, ``port``, ``host_keys`` (lines of public key files) and ``roots``.

    Raises:
        Malformed: a part is not what it must be.
        LimitExceeded: too many keys or roots.
    """
    user, port = members.get("user"), members.get("port", 0)
    if not isinstance(user, str) or _USER.fullmatch(user) is None:
        raise Malformed("the user is 1 to 32 lower-case letters, digits, dots, hyphens and underscores")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise Malformed("the port is 1 to 65535, or 0 for the usual one")
    keys = [_key(line) for line in _texts(members.get("host_keys"), "host_keys_max", HOST_KEYS_MAX)]
    if not keys:
        raise Malformed(
            "the host has at least one pinned key", hint="its file ssh_host_ed25519_key.pub: --host-key FILE"
        )
    roots = [_root(path) for path in _texts(members.get("roots"), "roots_max", ROOTS_MAX)]
    return SshTarget(user=user, port=port, host_keys=tuple(keys), roots=tuple(roots))


def _texts(value: object, limit: str, most: int) -> list[str]:
    texts = [str(one) for one in value] if isinstance(value, list) else []
    if len(texts) > most:
        raise LimitExceeded(limit, most, len(texts))
    return texts


def _key(line: str) -> str:
    found = _KEY.fullmatch(line.strip())
    if found is None:
        raise Malformed("a host key is one line of a public key file: ssh-ed25519, ecdsa-sha2-nistp... or ssh-rsa")
    return found["key"]


def _root(path: str) -> tuple[str, ...]:
    names = tuple(path.removeprefix("/").split("/"))
    if not path.startswith("/") or len(names) > PATH_SEGMENTS_MAX:
        raise Malformed(f"a root is an absolute path of at most {PATH_SEGMENTS_MAX} names")
    try:
        for name in names:
            check_segment(name, "a name in a root")
    except DestinationRefused as error:
        raise Malformed(error.detail) from error
    return names

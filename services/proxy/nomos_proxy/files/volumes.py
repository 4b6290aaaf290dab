"""Which directory of this machine a tenant's volume is.

The installation names volumes in a setting; an operator of a tenant only picks one of them:

    work=/data/agents, acme/reports=/data/reports

``work`` is every tenant's, and each has its own folder there, ``/data/agents/<tenant>``, which the installation makes.
``acme/reports`` is that very directory, for the tenant ``acme`` alone. Where nothing is named there are no files.

Rules, at start: a volume is a directory with an absolute path, not the root of the machine; no volume lies in another,
or holds what the proxy itself reads (connectors, credentials of the bus, keys of its pages), so that no tenant's files
are another's and no agent reads or changes what the proxy is; and a volume is not found when its name is written in
the other case: a filesystem that ignores case gives a file many names, and a policy knows one.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from nomos.errors import LimitExceeded, Malformed, Misconfigured, NotFound
from nomos.ids import parse_slug

#: Volumes of an installation.
VOLUMES_MAX: Final = 1_000


class Place(Struct, frozen=True, kw_only=True):
    """Where a tenant's volume is.

    Attributes:
        base: absolute path, as the installation names it.
        folder: the tenant's folder in it; empty where all of it is the tenant's.
    """

    base: str
    folder: str


class Volumes:
    """The volumes of an installation, by tenant and name; an empty tenant is every tenant."""

    __slots__ = ("_bases",)

    def __init__(self, bases: dict[tuple[str, str], str]) -> None:
        self._bases = bases

    def find(self, tenant: str, volume: str) -> Place:
        """Where ``volume`` is for ``tenant``.

        Raises:
            NotFound: the installation gives this tenant no such volume.
        """
        own = self._bases.get((tenant, volume))
        if own is not None:
            return Place(base=own, folder="")
        shared = self._bases.get(("", volume))
        if shared is None:
            raise NotFound(
                "this installation gives the tenant no such volume", hint="it is named in NOMOS_PROXY_FILES_VOLUMES"
            )
        return Place(base=shared, folder=tenant)

    def check(self, tenant: str, volume: str) -> None:
        """Looks whether ``volume`` is there for ``tenant`` now.

        Raises:
            NotFound: it is not given, or the tenant's folder in it has not been made.
        """
        place = self.find(tenant, volume)
        if not os.path.isdir(os.path.join(place.base, place.folder)):
            raise NotFound(
                "the tenant has no folder in this volume", hint="who runs the installation makes a folder of its name"
            )


def parse_volumes(text: str, guarded: Sequence[str]) -> Volumes:
    """Reads the setting, and checks the directories.

    Args:
        text: as in the module's example; empty for none.
        guarded: paths of files and folders that no volume may hold or lie in.

    Raises:
        Misconfigured: it breaks a rule.
    """
    bases: dict[tuple[str, str], str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, path = item.partition("=")
        tenant, slash, volume = name.partition("/") if "/" in name else ("", "", name)
        try:
            at = (parse_slug(tenant, "tenant") if slash else "", parse_slug(volume, "volume"))
        except Malformed as error:
            raise Misconfigured(f"files_volumes: {error.detail}", hint="NAME=/path or TENANT/NAME=/path") from error
        if not equals or at in bases:
            raise Misconfigured("files_volumes names each volume once, as NAME=/path or TENANT/NAME=/path")
        bases[at] = _checked(path)
    if len(bases) > VOLUMES_MAX:
        raise Misconfigured(str(LimitExceeded("volumes_max", VOLUMES_MAX, len(bases))))
    if bases and sys.platform != "linux":
        raise Misconfigured("files_volumes needs Linux, where a path can be walked without following a link")
    _check_apart([*bases.values()], guarded)
    return Volumes(bases)


def _checked(path: str) -> str:
    if not os.path.isabs(path) or not os.path.isdir(path) or Path(path).resolve() == Path("/"):
        raise Misconfigured("files_volumes: a volume is a directory with an absolute path, and not the root")
    # the nearest directory whose name has a letter
    real = Path(path).resolve()
    lettered = next((one for one in (real, *real.parents) if one.name.swapcase() != one.name), None)
    if lettered is not None:
        other = lettered.with_name(lettered.name.swapcase())
        if other.exists() and other.samefile(lettered):
            raise Misconfigured("files_volumes: the filesystem takes upper and lower case for one name")
    return path


def _check_apart(volumes: Sequence[str], guarded: Sequence[str]) -> None:
    real = [Path(path).resolve() for path in volumes]
    pairs = [
        *itertools.combinations(real, 2),
        *itertools.product(real, [Path(path).resolve() for path in guarded if path]),
    ]
    if any(one.is_relative_to(other) or other.is_relative_to(one) for one, other in pairs):
        raise Misconfigured("files_volumes: no volume lies in another, or together with what the proxy reads")

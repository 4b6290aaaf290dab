"""What one process keeps in memory of connections: opened credentials and tokens, by tenant and name.

A removed connection and a closed tenant leave nothing behind, for good: what was under way when they went (a renewal,
an opening) keeps nothing any more when it ends. Names are given once, so neither comes back.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """One thing for each connection."""

    __slots__ = ("_closed", "_kept", "_removed")

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], T] = {}
        self._removed: set[tuple[str, str]] = set()
        self._closed: set[str] = set()

    def find(self, tenant: str, name: str) -> T | None:
        """What is kept of a connection."""
        return self._kept.get((tenant, name))

    def keep(self, tenant: str, name: str, what: T) -> None:
        """Keeps it in place of what was kept before; nothing of a connection or tenant that is gone."""
        if tenant not in self._closed and (tenant, name) not in self._removed:
            self._kept[tenant, name] = what

    def drop(self, tenant: str, name: str) -> None:
        """Keeps nothing of a removed connection from now on."""
        self._removed.add((tenant, name))
        self._kept.pop((tenant, name), None)

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant from now on."""
        self._closed.add(tenant)
        self._removed = {at for at in self._removed if at[0] != tenant}
        self._kept = {at: what for at, what in self._kept.items() if at[0] != tenant}

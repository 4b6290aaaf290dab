"""The rotation of a service's environment key: what is sealed under another key is sealed under the current one.

Each process that starts with other keys beside the current one (``<NAME>_OTHERS``) goes through all sealed records of
its service, whatever they are: private keys of tenants, people's keys, the index of their names, wrapped data keys. So
the other key can be dropped when every process has started with the new one as current. The order of a rotation:

1. Every process is started again with the next key among the others, so that it opens what is sealed under it.
2. Every process is started again with that key as current, and the one before among the others.
3. When the last has said ``store_resealed`` with nothing left, the one before is dropped, and may be destroyed.

A record is replaced only while it stands as it was read: one that an erasure has deleted meanwhile does not come back.
A crash leaves some records under the one key and some under the other; the next start goes on.

Source: NIST SP 800-57 part 1, section 5.3 (a key that wraps no more still unwraps for a while).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from nomos_runtime.eventstore import EventStore
from nomos_runtime.sealing import Sealer
from nomos_runtime.vault import CredentialUnreadable

#: Tenant, name and bytes of a sealed record -> its bytes under the current key, or None where nothing is to be done.
#: Raises :class:`CredentialUnreadable` for one that does not open.
SealAgain = Callable[[str, str, bytes], bytes | None]


class Resealed(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were sealed again, and how many could not be (no key on the ring opens them)."""

    moved: int
    left: int


async def reseal(store: EventStore, tenants: Iterable[str], seal_again: SealAgain) -> Resealed:
    """Seals every record of ``tenants`` again that is not under the current key.

    One that does not open is counted and left as it is: it takes nobody else's with it.

    Raises:
        Unavailable: Postgres does not answer; start again.
    """
    moved = left = 0
    for tenant in tenants:
        for name in await store.sealed_names(tenant, ""):
            record = await store.sealed(tenant, name)
            if record is None:
                continue
            try:
                again = seal_again(tenant, name, record)
            except CredentialUnreadable:
                left += 1
                continue
            if again is not None:
                moved += await store.replace_sealed(tenant, name, record, again)
    return Resealed(moved=moved, left=left)


def by_purpose(sealer: Sealer, purposes: Mapping[str, str]) -> SealAgain:
    """How records of a :class:`Sealer` are sealed again.

    Args:
        sealer: with the keys.
        purposes: beginning of a record's name -> what such records are sealed for.
    """

    def seal_again(tenant: str, name: str, record: bytes) -> bytes | None:
        if sealer.is_current(record):
            return None
        purpose = next((p for start, p in purposes.items() if name.startswith(start)), None)
        if purpose is None:
            raise CredentialUnreadable("nobody says what a sealed record of this name is for")
        content = sealer.open(record, purpose=purpose, tenant=tenant, name=name)
        return sealer.seal(content, purpose=purpose, tenant=tenant, name=name)

    return seal_again

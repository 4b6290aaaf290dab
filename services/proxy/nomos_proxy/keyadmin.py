"""How far the rotation of the environment key has come: which data keys are still under another one."""

from __future__ import annotations

import msgspec

from nomos.ids import SYSTEM_TENANT
from nomos_proxy.keys import DataKeys
from nomos_runtime.directory import Directory
from nomos_runtime.responder import NoParams, Operator, Verb


class KeyAdmin:
    """The verb, by name, in :meth:`verbs`."""

    def __init__(self, keys: DataKeys, directory: Directory) -> None:
        self._keys = keys
        self._directory = directory

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {"key-progress": (NoParams, self.progress)}

    async def progress(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """How many tenants' data keys are under the current key, and how many wait under another."""
        current, other = await self._keys.under([SYSTEM_TENANT, *self._directory.tenants])
        return {"current": current, "other": other}

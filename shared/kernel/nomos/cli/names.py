"""The names behind the subject ids of records, opened by the services that hold the keys, for an operator's screen.

Names cross the bus when they are asked for and stand nowhere after. An operator of one tenant sees that tenant's people
only: the names of operators belong to the installation.
"""

from __future__ import annotations

from typing import Any, Final

from nomos.cli.subject import knowing
from nomos.ids import SYSTEM_TENANT
from nomos.log.sealedfield import is_subject
from nomos.operator import Operator

#: What stands in the place of a name that has been erased, and of one that the services asked do not know.
ERASED: Final = "erased"
NOT_KNOWN: Final = "not known"


class Names:
    """Names by subject id, asked for when an id is met that is not known yet."""

    def __init__(self, operator: Operator, tenant: str) -> None:
        """Takes who asks, and whose people: of ``tenant``, and the operators where they may be asked for."""
        self._operator = operator
        tenants = [tenant, SYSTEM_TENANT] if operator.is_of_installation else [tenant]
        self._doors = [(one, service) for one in dict.fromkeys(tenants) for service in knowing(one)]
        self._names: dict[str, str] = {}

    async def find(self, actor: str) -> str:
        """The name of ``actor``; empty for what is no person's id.

        Raises:
            NomosError: a service does not answer.
        """
        if not is_subject(actor):
            return ""
        if actor not in self._names:
            for tenant, service in self._doors:
                found: dict[str, Any] = await self._operator.ask(service, "subject-list", tenant)
                self._names |= {one["id"]: ERASED if one["name"] is None else one["name"] for one in found["subjects"]}
            self._names.setdefault(actor, NOT_KNOWN)
        return self._names[actor]

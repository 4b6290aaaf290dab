"""Which cloud gives a connection its credential, as an operator says it. Values only, checked when they are read.

Endpoints are the clouds' own and stand here; what an operator says cannot move them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from nomos.catalogue.oauth import Endpoint
from nomos.errors import Malformed

Kind = Literal["aws", "gcp", "azure"]
AWS_AUDIENCE: Final = "sts.amazonaws.com"
AZURE_AUDIENCE: Final = "api://AzureADTokenExchange"
_REGION: Final = r"[a-z]{2}(?:-[a-z]+)+-[0-9]"
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: Kind -> its parameters, each with the pattern of its value.
PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "aws": {"role": r"arn:aws:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", "region": _REGION},
    "gcp": {
        "audience": r"//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}"
        r"/providers/[a-z0-9-]{4,32}"
    },
    "azure": {"directory": _UUID, "client": _UUID, "scope": r"https://[a-z0-9.-]{4,200}/\.default"},
}


class Federation(Struct, frozen=True, kw_only=True):
    """How a connection gets its credential from a cloud: the cloud, and its :data:`PARAMETERS`."""

    kind: Kind
    values: dict[str, str]

    @property
    def audience(self) -> str:
        """Whom our token is for."""
        return {"aws": AWS_AUDIENCE, "azure": AZURE_AUDIENCE}.get(self.kind) or self.values["audience"]

    @property
    def endpoint(self) -> Endpoint:
        """Where it is exchanged."""
        match self.kind:
            case "aws":
                return Endpoint(host=f"sts.{self.values['region']}.amazonaws.com", port=443, path="/")
            case "gcp":
                return Endpoint(host="sts.googleapis.com", port=443, path="/v1/token")
            case _:
                directory = self.values["directory"]
                return Endpoint(host="login.microsoftonline.com", port=443, path=f"/{directory}/oauth2/v2.0/token")


def parse_federation(members: Mapping[str, object]) -> Federation:
    """Reads what an operator says, ``{"kind": "aws", "role": ..., "region": ...}``.

    Raises:
        Malformed: an unknown cloud, or a parameter that is missing, unknown or not as it must be.
    """
    kind = members.get("kind")
    if kind not in ("aws", "gcp", "azure"):
        raise Malformed("a federation is one of aws, gcp and azure")
    wanted = PARAMETERS[kind]
    given = {name: value for name, value in members.items() if name != "kind"}
    if set(given) != set(wanted):
        raise Malformed(f"a federation with {kind} needs {', '.join(wanted)}, and nothing else")
    values: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(value, str) or re.fullmatch(wanted[name], value, re.ASCII) is None:
            raise Malformed(f"{name} of a federation with {kind} must match {wanted[name]}")
        values[name] = value
    return Federation(kind=kind, values=values)

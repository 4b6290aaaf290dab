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
#: Regions of the partitions ``aws`` and ``aws-us-gov``; China's has other hosts, which no connector here has.
_REGION: Final = r"(?!cn-)[a-z]{2}(?:-[a-z]+)+-[0-9]"
#: A name and a project's id, 6 to 30 characters each; a project of a domain has that behind its id.
_SERVICE_ACCOUNT: Final = (
    r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]{4,28}[a-z0-9](?:\.[a-z0-9-]{1,63}){0,5}\.iam\.gserviceaccount\.com"
)
_GCP_SCOPE: Final = r"https://www\.googleapis\.com/auth/[a-z0-9._-]{1,64}"
#: Scopes of one service account's token.
GCP_SCOPES_MAX: Final = 16
#: What Google gives where nobody asks for less.
GCP_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
#: All that the token of the first step is good for, where a service account is impersonated in a second one.
GCP_IAM_SCOPE: Final = "https://www.googleapis.com/auth/iam"
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: Kind -> its parameters, each with the pattern of its value.
PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "aws": {"role": r"arn:aws(?:-us-gov)?:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", "region": _REGION},
    "gcp": {
        "audience": r"//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}"
        r"/providers/[a-z0-9-]{4,32}"
    },
    "azure": {"directory": _UUID, "client": _UUID, "scope": r"(?:https|api)://[a-z0-9.-]{4,200}/\.default"},
}
#: Those that need not be there. Scopes are separated by one space, and are of a service account's token.
OPTIONAL: Final[Mapping[str, Mapping[str, str]]] = {
    "gcp": {
        "service_account": _SERVICE_ACCOUNT,
        "scope": rf"{_GCP_SCOPE}(?: {_GCP_SCOPE}){{0,{GCP_SCOPES_MAX - 1}}}",
    }
}


class Federation(Struct, frozen=True, kw_only=True):
    """How a connection gets its credential from a cloud: which, its :data:`PARAMETERS` and :data:`OPTIONAL` ones."""

    kind: Kind
    values: dict[str, str]

    @property
    def audience(self) -> str:
        """Whom our token is for."""
        return {"aws": AWS_AUDIENCE, "azure": AZURE_AUDIENCE}.get(self.kind) or self.values["audience"]

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """Whose credential it is: equal where the cloud is asked for the same one, and hashable."""
        return (("kind", self.kind), *sorted(self.values.items()))

    @property
    def service_account(self) -> str:
        """The e-mail address of Google's service account that is impersonated; empty for none."""
        return self.values.get("service_account", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """What a token of Google's service account is good for, as far as the account's own rights go."""
        return tuple(self.values.get("scope", GCP_SCOPE).split(" "))

    @property
    def impersonation(self) -> Endpoint | None:
        """Where the first token becomes the service account's; None where that is not asked for."""
        if not self.service_account:
            return None
        path = f"/v1/projects/-/serviceAccounts/{self.service_account}:generateAccessToken"
        return Endpoint(host="iamcredentials.googleapis.com", port=443, path=path)

    def principal(self, subject: str) -> str:
        """How Google's own policies name ``subject``; empty for the other clouds."""
        if self.kind != "gcp":
            return ""
        pool = self.values["audience"].partition("/providers/")[0]
        return f"principal:{pool}/subject/{subject}"

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
    wanted, optional = PARAMETERS[kind], OPTIONAL.get(kind, {})
    given = {name: value for name, value in members.items() if name != "kind"}
    if not set(wanted) <= set(given) <= {*wanted, *optional}:
        may = f", may have {', '.join(optional)}" if optional else ""
        raise Malformed(f"a federation with {kind} needs {', '.join(wanted)}{may}, and nothing else")
    values: dict[str, str] = {}
    for name, value in given.items():
        pattern = wanted.get(name) or optional[name]
        if not isinstance(value, str) or re.fullmatch(pattern, value, re.ASCII) is None:
            raise Malformed(f"{name} of a federation with {kind} must match {pattern}")
        values[name] = value
    _check_together(kind, values)
    return Federation(kind=kind, values=values)


def _check_together(kind: Kind, values: Mapping[str, str]) -> None:
    if kind == "aws" and values["role"].startswith("arn:aws-us-gov:") != values["region"].startswith("us-gov-"):
        raise Malformed("role and region of a federation with aws must be of one partition")
    if kind == "gcp" and "scope" in values:
        if "service_account" not in values:
            raise Malformed("scope of a federation with gcp is a service account's, and none is named")
        if len(set(values["scope"].split(" "))) != values["scope"].count(" ") + 1:
            raise Malformed("scope of a federation with gcp names one twice")

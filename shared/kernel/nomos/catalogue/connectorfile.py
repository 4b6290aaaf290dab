"""The shape of a connector file: which members there may be, of which types, with which defaults. Others are refused.

What members mean together is :mod:`nomos.catalogue.load`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from nomos.catalogue.actionheaders import MEDIA_TYPE, NAME, VALUE
from nomos.catalogue.kinds import ResourceFile
from nomos.catalogue.model import BodyFormat, Encoding, ParameterType, Rate, Risk, Scheme
from nomos.catalogue.oauth import OAuthFile


def _shaped(pattern: str) -> msgspec.Meta:
    """For the JSON Schema alone; the loader says in words what is wrong."""
    return msgspec.Meta(extra_json_schema={"pattern": f"^(?:{pattern})$"})


class ParameterFile(Struct, frozen=True, forbid_unknown_fields=True):
    """An argument of an action: where it stands in the request, and which values it takes."""

    where: Literal["path", "query", "body"]
    wire: str = ""
    type: ParameterType = "string"
    repeats: bool = False
    required: bool = False
    max_length: int = 256
    max_items: int = 100
    minimum: int = 0
    maximum: int = 2**53 - 1
    enum: tuple[str, ...] = ()
    pattern: str = ""
    encoding: Encoding = "raw"
    instead_of: str = ""


class SourceFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a field of the resource stands, if not in the path."""

    query: str = ""
    body: str = ""
    constant: str = ""
    host: bool = False


class FixedFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Members of a request that are always the same."""

    query: dict[str, str] = {}
    body: dict[str, str | int | bool] = {}
    headers: dict[Annotated[str, _shaped(NAME)], Annotated[str, _shaped(VALUE)]] = {}


class PaginationFile(Struct, frozen=True, forbid_unknown_fields=True):
    """How the next page is asked for."""

    parameter: str
    kind: Literal["page", "cursor"]
    next: str = ""
    more: str = ""


class AuthFile(Struct, frozen=True, forbid_unknown_fields=True):
    """How a credential is presented: in a header, or as a signature for a service of AWS."""

    header: str = ""
    prefix: str = ""
    aws: str = ""


class HostFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Which hosts a connection may name, where each has its own."""

    pattern: str


class ActionFile(Struct, frozen=True, forbid_unknown_fields=True):
    """An action."""

    title: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    risk: Risk
    resource: str
    derive: dict[str, SourceFile] = {}
    uses: tuple[str, ...] = ()
    parameters: dict[str, ParameterFile] = {}
    body: BodyFormat = "json"
    json_part: str = ""
    content_type: Annotated[str, _shaped(f"|{MEDIA_TYPE}")] = ""
    fixed: FixedFile = FixedFile()
    graphql: str = ""
    idempotency_header: str | None = None
    rate: Rate | None = None
    pagination: PaginationFile | None = None
    streaming: bool = False
    scopes: tuple[str, ...] = ()
    notes: str = ""


class ConnectorFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A connector."""

    connector: str
    title: str
    scheme: Scheme
    host: str | HostFile
    auth: Literal["bearer", "basic", "signature", "chosen", "key", "none"] | AuthFile
    resource_types: dict[str, ResourceFile]
    actions: dict[str, ActionFile]
    port: int = 0
    headers: dict[str, str] = {}
    http: Literal["1.1", "2"] = "1.1"
    rate: Rate | None = None
    oauth: OAuthFile | None = None
    parameters: dict[str, ParameterFile] = {}


def connector_schema() -> dict[str, object]:
    """The shape of a connector file as a JSON Schema (2020-12), for editors; rules beyond the shape are not in it."""
    made = msgspec.json.schema(ConnectorFile)
    text = msgspec.json.encode(made).decode()
    # The names of our own types are nobody else's business.
    text = re.sub(r'"((?:#/\$defs/)?)_?(\w+?)File"', lambda found: f'"{found[1]}{found[2]}"', text)
    head: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A connector of Nomos",
    }
    return head | msgspec.json.decode(text, type=dict[str, object])

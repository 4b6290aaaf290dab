"""What a connector declares: resource types, actions, parameters. Values only, checked when they are built.

Decides nothing about a request: :mod:`nomos.catalogue.request` builds one, :mod:`nomos.catalogue.derive` reads
the resource back from it, :mod:`nomos.catalogue.load` reads the files.

One resource has one spelling. Where a provider compares names without regard to case, the connector's field
patterns admit lower case only; otherwise a policy that forbids ``acme/site`` could be passed with ``ACME/site``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from nomos.catalogue.oauth import OAuth
from nomos.catalogue.segments import check_segment
from nomos.errors import DestinationRefused, LimitExceeded, UnknownAction, UnknownResource

#: Characters of a resource text, ``github:repo/acme/site``.
RESOURCE_TEXT_MAX: Final = 512
#: Segments of a path that names a resource: each is an entity that a policy can name.
PATH_SEGMENTS_MAX: Final = 32
#: Largest integer that a parameter may carry: the digest and JSON agree on it (RFC 8259 section 6).
INTEGER_MAX: Final = 2**53 - 1


#: Shapes of an argument.
ParameterType = Literal["string", "integer", "boolean", "string_list", "string_map", "json", "content"]
#: How a content stands in a body: as the body itself, in base64 (RFC 4648 section 4) as a member of it, or as the file
#: of a multipart body.
Encoding = Literal["raw", "base64", "part"]
#: How a connector's requests travel.
Scheme = Literal["https", "ssh", "file"]
#: How a request's body is written.
BodyFormat = Literal["json", "form", "text", "mail", "mail_draft", "content", "multipart"]
#: Path of the whole body: what stands there is the body itself, and nothing else is.
WHOLE: Final = ""
#: Path of the name of a multipart body's file.
FILENAME: Final = "filename"
#: Wire name of a map in a query whose names are the query's own.
ANY_NAME: Final = "*"


class Risk(StrEnum):
    """What can go wrong when an action runs. Everything but ``read`` and ``write`` needs a human by default."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"
    PAYMENT = "payment"
    PERMISSION = "permission"

    @property
    def is_high_stakes(self) -> bool:
        """Whether a human releases the action unless policy says otherwise."""
        return self in (Risk.DESTRUCTIVE, Risk.PAYMENT, Risk.PERMISSION)


class Parameter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One argument of an action.

    Attributes:
        name: name in ``args``, in policies and in approvals.
        where: the part of the request that carries it.
        wire: name in the path template, query or body; in a body ``a.b`` is the member ``b`` of ``a``, ``a.{f}`` the
            member of ``a`` that is named like the resource's field ``f``, and :data:`WHOLE` the body itself.
            :data:`ANY_NAME` for a map whose entries are pairs of the query.
        type: shape of the value. ``string_map`` and ``json`` have no Cedar type: a policy cannot read them. A
            ``content`` is named, and its bytes come apart (:mod:`nomos.contents`).
        repeats: whether a list in a query is sent as one pair for each item, and not joined by commas.
        required: whether a request without it is refused.
        max_length: characters of a string, or of each string of a list or map; bytes of a ``json`` value or a content.
        max_items: entries of a list or map.
        minimum: least integer.
        maximum: greatest integer.
        enum: the only strings allowed, or media types of a content; empty for any.
        pattern: regular expression that a string must match as a whole; empty for any.
        encoding: how a content stands in the body.
        instead_of: for a content, the argument whose place it may take; empty where it has a place of its own.
    """

    name: str
    where: Literal["path", "query", "body"]
    wire: str
    type: ParameterType = "string"
    repeats: bool = False
    required: bool = False
    max_length: int = 256
    max_items: int = 100
    minimum: int = 0
    maximum: int = INTEGER_MAX
    enum: tuple[str, ...] = ()
    pattern: str = ""
    encoding: Encoding = "raw"
    instead_of: str = ""


class ResourceType(Struct, frozen=True, kw_only=True):
    """A kind of object that actions act on.

    Attributes:
        connector: name of the connector, ``github``.
        kind: name of the type in resource texts, ``repo``.
        cedar: Cedar entity type, ``GitHub::Repo``.
        fields: names of the parts of the id, in order; path templates use the same names.
        field_patterns: regular expression of each part, in the order of ``fields``; of each segment of a path.
        within: for a type whose last field is a path of one or more segments: the Cedar entity types of what a shorter
            path names, and of what the other fields name without a path. None for any other type.
    """

    connector: str
    kind: str
    cedar: str
    fields: tuple[str, ...]
    field_patterns: tuple[str, ...]
    within: tuple[str, str] | None = None

    def read(self, id_text: str) -> Resource:
        """The resource of this type whose parts, joined by slashes, are ``id_text``; errors as :meth:`resource`."""
        return self.resource(tuple(id_text.split("/", len(self.fields) - 1 if self.within else -1)))

    def resource(self, values: tuple[str, ...]) -> Resource:
        """The resource of this type with these parts.

        Raises:
            UnknownResource: wrong number of parts, or a part that is not spelled as the type demands.
            LimitExceeded: a path of more than ``PATH_SEGMENTS_MAX`` segments.
        """
        if len(values) != len(self.fields):
            raise UnknownResource(
                f"{self.connector}:{self.kind} needs {len(self.fields)} parts ({'/'.join(self.fields)}), "
                f"got {len(values)}"
            )
        for name, pattern, value in zip(self.fields, self.field_patterns, values, strict=True):
            for segment in self._segments(name, value):
                self._check(name, pattern, segment)
        return Resource(text=f"{self.connector}:{self.kind}/{'/'.join(values)}", type=self, values=values)

    def _segments(self, name: str, value: str) -> list[str]:
        if self.within is None or name != self.fields[-1]:
            return [value]
        segments = value.split("/")
        if len(segments) > PATH_SEGMENTS_MAX:
            raise LimitExceeded("path_segments_max", PATH_SEGMENTS_MAX, len(segments))
        return segments

    def _check(self, name: str, pattern: str, segment: str) -> None:
        try:
            check_segment(segment, name)
        except DestinationRefused as error:
            raise UnknownResource(error.detail) from error
        if not matches(pattern, segment):
            raise UnknownResource(f"{name} of {self.connector}:{self.kind} is not spelled as its pattern demands")


class Resource(Struct, frozen=True, kw_only=True):
    """One object, in its only spelling: ``text`` is equal for equal resources and different for different ones."""

    text: str
    type: ResourceType
    values: tuple[str, ...]

    @property
    def id(self) -> str:
        """The id of the Cedar entity, ``acme/site``."""
        return "/".join(self.values)

    @property
    def holders(self) -> tuple[Holder, ...]:
        """What it lies in, the nearest first: each shorter path, then what its other fields name. By whole segments."""
        if self.type.within is None:
            return ()
        *others, path = zip(self.type.fields, self.values, strict=True)
        shorter, top = self.type.within
        found = []
        segments = path[1].split("/")
        for count in range(len(segments) - 1, 0, -1):
            found.append(Holder(cedar=shorter, fields=(*others, (path[0], "/".join(segments[:count])))))
        return (*found, Holder(cedar=top, fields=tuple(others)))


class Holder(Struct, frozen=True, kw_only=True):
    """What a resource with a path lies in, as a Cedar entity.

    Attributes:
        cedar: entity type.
        fields: names and values of its parts.
    """

    cedar: str
    fields: tuple[tuple[str, str], ...]

    @property
    def id(self) -> str:
        """The id of the Cedar entity."""
        return "/".join(value for _, value in self.fields)


class FieldSource(Struct, frozen=True, kw_only=True):
    """Where one field of the resource stands in the request.

    Attributes:
        where: the part of the request; ``host`` for the host that it goes to, where each connection has its own;
            ``constant`` for a field that is the same in every request of the action.
        name: name in the path template or query, dotted path in the body, or the constant itself; empty for the host.
            A path that ends with ``{f}`` says that the field is the name of the one member there, and not its value.
    """

    where: Literal["path", "query", "body", "host", "constant"]
    name: str


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often: so many calls in so many seconds, and no more than so many at once."""

    calls: int
    seconds: int


class Pagination(Struct, frozen=True, kw_only=True):
    """How the next page is asked for.

    Attributes:
        parameter: the argument that asks for it.
        kind: ``page`` counts up while the answer's Link header names a next page (RFC 8288); ``cursor`` is given by
            the answer, as a text or an object.
        next: for ``cursor``, a JSON pointer (RFC 6901) to it in the answer.
        more: a JSON pointer to a member that is false on the last page; empty where an absent cursor says so.
    """

    parameter: str
    kind: Literal["page", "cursor"]
    next: str = ""
    more: str = ""


class Action(Struct, frozen=True, kw_only=True):
    """One call that the proxy may make.

    Attributes:
        id: ``github:issues.list``.
        connector: name of the connector.
        title: what a human reads in an approval.
        method: HTTP method, upper case.
        path: template; ``{name}`` stands for one segment, ``{name}:verb`` for one that ends so, ``{+name}`` (last
            only) for one or more.
        parameters: what ``args`` may hold.
        risk: what can go wrong.
        resource_type: type of the object acted on.
        sources: where each of its fields stands in the request, in the order of the type's fields.
        body_format: how the body is written.
        json_part: name of the field in which a multipart body holds its members as JSON; empty where each is a field.
        fixed_query: names and values that every request carries.
        fixed_body: dotted paths and values that every body carries.
        fixed_headers: names and values that every request carries, beside the connector's.
        content_type: of the body, where it is not the one of its format.
        idempotency_header: request header in which the provider takes an idempotency key, if it takes one.
        rate: how often one connection may run it, where less often than the connector.
        pagination: how the next page is asked for, where the answer comes in pages.
        is_streaming: whether its answer may be read while it comes (events, lines, long texts).
        scopes: what the provider must have granted to the credential; for people, not enforced here.
        notes: what who calls it should know about the answer.
    """

    id: str
    connector: str
    title: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    parameters: tuple[Parameter, ...]
    risk: Risk
    resource_type: ResourceType
    sources: tuple[FieldSource, ...]
    body_format: BodyFormat = "json"
    json_part: str = ""
    fixed_query: tuple[tuple[str, str], ...] = ()
    fixed_body: tuple[tuple[str, str | int | bool], ...] = ()
    fixed_headers: tuple[tuple[str, str], ...] = ()
    content_type: str = ""
    idempotency_header: str | None = None
    rate: Rate | None = None
    pagination: Pagination | None = None
    is_streaming: bool = False
    scopes: tuple[str, ...] = ()
    notes: str = ""

    @property
    def command(self) -> str:
        """The UCAN command, ``/github/issues/list``."""
        return "/" + self.id.replace(":", "/").replace(".", "/")

    @property
    def has_body(self) -> bool:
        """Whether its requests carry a body."""
        parts = [parameter.where for parameter in self.parameters] + [source.where for source in self.sources]
        return bool(self.fixed_body) or "body" in parts

    @property
    def content(self) -> Parameter | None:
        """The argument that names a content, where it takes one."""
        return next((parameter for parameter in self.parameters if parameter.type == "content"), None)


class Auth(Struct, frozen=True, kw_only=True):
    """How the credential is presented.

    Attributes:
        kind: ``header`` writes ``prefix`` and the credential; ``basic`` writes ``user:password`` as RFC 7617 says.
            The others send no secret, but sign the request with one: ``signature`` as RFC 9421 says, with hmac-sha256
            and a credential ``key id:secret``; ``aws4`` as AWS does (Signature Version 4), with ``key id:secret`` and,
            behind a second colon, a session token where there is one. Beside HTTP: ``key`` is a private key of SSH,
            ``none`` needs no credential.
        header: lower-case name of the header that holds the credential or the signature.
        prefix: what stands before the credential, ``Bearer`` and a space for a bearer (RFC 6750).
        service: for ``aws4``, the name of the service that is signed for.
    """

    kind: Literal["header", "basic", "signature", "aws4", "key", "none"] = "header"
    header: str = "authorization"
    prefix: str = "Bearer "
    service: str = ""


class Connector(Struct, frozen=True, kw_only=True):
    """One provider: where it is, how it authenticates, what may be called there.

    Attributes:
        name: ``github``.
        title: for humans.
        scheme: ``https``; or ``ssh`` or ``file``, whose operations :mod:`nomos.catalogue.operations` knows. A
            development origin is a setting of the proxy, never of a connector.
        host: lower-case DNS name; empty where each connection has its own.
        host_pattern: regular expression of a connection's host, or of its volume for ``file``; empty where the
            connector has one for all.
        port: TCP port; 0 for ``file``.
        auth: how the credential is presented.
        is_auth_chosen: whether each connection says how instead.
        headers: constant request headers, lower-case names.
        http: the version of HTTP that is tried first.
        rate: how often one connection may call, as the provider documents it.
        oauth: how an account is connected; None where only a credential that somebody brings is taken.
        resource_types: by kind.
        actions: by id.
    """

    name: str
    title: str
    scheme: Scheme
    host: str
    port: int
    auth: Auth
    headers: tuple[tuple[str, str], ...]
    rate: Rate | None
    http: Literal["1.1", "2"] = "1.1"
    host_pattern: str = ""
    is_auth_chosen: bool = False
    oauth: OAuth | None = None
    resource_types: Mapping[str, ResourceType]
    actions: Mapping[str, Action]


class Catalogue(Struct, frozen=True, kw_only=True):
    """All connectors of an installation."""

    connectors: Mapping[str, Connector]
    actions: Mapping[str, Action]

    def action(self, action_id: str) -> Action:
        """The action with this id.

        Raises:
            UnknownAction: no connector declares it.
        """
        found = self.actions.get(action_id)
        if found is None:
            raise UnknownAction("no connector declares this action", hint="see the connector's file for its actions")
        return found

    def action_of_command(self, command: str) -> Action:
        """The action that a UCAN command names.

        Raises:
            UnknownAction: no connector declares it.
        """
        parts = command.split("/")
        if len(parts) != 4 or parts[0]:
            raise UnknownAction("a command must be /<connector>/<noun>/<verb>")
        return self.action(f"{parts[1]}:{parts[2]}.{parts[3]}")

    def parse_resource(self, text: str) -> Resource:
        """Reads ``<connector>:<kind>/<id...>``.

        Raises:
            UnknownResource: not a resource of any connector, or not in its one spelling.
            LimitExceeded: longer than ``RESOURCE_TEXT_MAX``.
        """
        if len(text) > RESOURCE_TEXT_MAX:
            raise LimitExceeded("resource_text_max", RESOURCE_TEXT_MAX, len(text))
        name, colon, rest = text.partition(":")
        kind, slash, id_text = rest.partition("/")
        connector = self.connectors.get(name)
        if not colon or not slash or connector is None or kind not in connector.resource_types:
            raise UnknownResource("a resource must be <connector>:<kind>/<id> of a kind that a connector declares")
        return connector.resource_types[kind].read(id_text)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of ``text`` matches a pattern of the catalogue. Patterns are the operator's, not a caller's."""
    return _compiled(pattern).fullmatch(text) is not None

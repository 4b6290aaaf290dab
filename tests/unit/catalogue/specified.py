"""The cases under ``tests/fixtures/specified``: what a provider's documentation says of one action, read into values.

Reads the files and nothing else; ``test_catalogue_specified`` compares them with the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson
import yaml

#: Names of members and indexes of lists, outermost first.
Way = tuple[str | int, ...]

#: Media types of a document of JSON.
JSON_TYPES = frozenset({"application/json", "application/x-amz-json-1.0"})
FOLDER = Path(__file__).parents[2] / "fixtures" / "specified"


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as the documentation writes it.

    Attributes:
        method: HTTP method.
        path: percent-encoded.
        query: names to values, or to a list where the name stands once for each item.
        body: of JSON. In a mail, ``raw`` is a map of header fields, and ``text``.
        form: pairs of a form.
        text: a body that is one text.
        multipart: fields of a form with a file: a text, a value that stands as JSON, or ``filename``, ``type`` and
            ``text`` of the file.
        graphql: ``query`` or ``mutation``, the fields that the document asks for, and ``variables``.
        content_type: where it is not that of the body's kind.
        headers: that tell the operation from others; those of every request are left out.
    """

    method: str
    path: str
    query: dict[str, str | list[str]] = {}
    body: object = None
    form: dict[str, str] | None = None
    text: str | None = None
    multipart: dict[str, object] | None = None
    graphql: dict[str, object] | None = None
    content_type: str = ""
    headers: dict[str, str] = {}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The query as pairs, sorted."""
        return sorted(
            (name, value)
            for name, values in self.query.items()
            for value in (values if isinstance(values, list) else [values])
        )


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer in the documented shape.

    Attributes:
        status: HTTP status.
        headers: fields that matter, names in lower case.
        answer: JSON, or a text where ``answer_type`` is none of :data:`JSON_TYPES`; unset where the documentation says
            that it is empty.
        answer_type: of the body.
        withheld: members that hold a secret by design, each as ``/outer/inner``. They are null in the file, and are
            filled when a test runs.
        source: address of the page that says so.
    """

    source: str
    status: int = 200
    headers: dict[str, str] = {}
    answer: object = msgspec.UNSET
    answer_type: str = "application/json"
    withheld: tuple[str, ...] = ()

    @property
    def body(self) -> bytes:
        """What comes over the wire."""
        return encoded(self.answer, self.answer_type)

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields as they are given to the sanitizer."""
        return (("content-type", self.answer_type), *self.headers.items())


class Case(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action: the request that the documentation describes, and an answer to it.

    Attributes:
        action: name in the connector.
        resource: without the connector.
        args: arguments of the call.
        content: the content that the arguments name, in UTF-8; None where they name none.
        request: what they mean at the provider.
        next: arguments of the next page, beside those of this one.
        next_in: where the documentation has them stand: ``query`` or ``body``, and the name or dotted path.
        last: the answer of the last page.
    """

    action: str
    resource: str
    request: Request
    args: dict[str, object] = {}
    content: str | None = None
    next: dict[str, object] = {}
    next_in: str = ""
    last: object = msgspec.UNSET


class Specified(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: a connector's cases and its provider's errors; ``documentation`` lists the hosts of the pages."""

    connector: str
    documentation: tuple[str, ...]
    cases: tuple[Case, ...]
    errors: tuple[Answer, ...]


def load_specified() -> tuple[Specified, ...]:
    """Every file, by name of the connector."""
    files = []
    for path in sorted(FOLDER.glob("*.yaml")):
        one = msgspec.convert(yaml.safe_load(path.read_text()), Specified)
        assert one.connector == path.stem
        files.append(one)
    return tuple(files)


def encoded(answer: object, answer_type: str) -> bytes:
    """An answer as it comes over the wire."""
    if answer is msgspec.UNSET:
        return b""
    if answer_type in JSON_TYPES:
        return orjson.dumps(answer)
    assert isinstance(answer, str)
    return answer.encode()


def strings(node: object, *way: str | int) -> Iterator[Way]:
    """The way to every string of a document."""
    if isinstance(node, str):
        yield way
    elif isinstance(node, dict):
        for name, inner in node.items():
            yield from strings(inner, *way, name)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from strings(inner, *way, index)


def at(node: object, way: Way) -> object:
    """What stands at the end of a way."""
    for step in way:
        assert isinstance(node, dict | list)
        node = node[step]  # type: ignore[index]  # a way names members of maps and indexes of lists
    return node


def replaced(node: object, way: Way, value: object) -> object:
    """The document with another value at the end of a way."""
    if not way:
        return value
    step, *rest = way
    if isinstance(node, list):
        return [replaced(inner, tuple(rest), value) if index == step else inner for index, inner in enumerate(node)]
    assert isinstance(node, dict)
    assert step in node
    return {**node, step: replaced(node[step], tuple(rest), value)}

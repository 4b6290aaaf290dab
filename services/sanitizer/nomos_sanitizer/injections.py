"""Marks of text that is addressed to a model, hidden from people, or would carry data away. Noted, never changed.

Decides what is noted and where. The patterns stand in ``formats/markers.toml``. An answer stays as it is: a page on
prompt injection must be readable, and what is noted is a reason to be careful and no proof. Looked for in the body that
leaves, so no note can tell of what was removed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import islice
from typing import Final

import msgspec

from nomos.errors import Malformed
from nomos_sanitizer.edits import Found
from nomos_sanitizer.engine import Search, Spans
from nomos_sanitizer.limits import NOTES_PER_TEXT_MAX
from nomos_sanitizer.structure import Json, Members, Number
from nomos_sanitizer.tree import pointer

_FILE: Final = "markers.toml"
_BACKSLASH: Final = b"\\"


class Marker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One marker. The fields are described at the head of ``formats/markers.toml``."""

    id: str
    title: str
    pattern: str
    source: str
    example: tuple[str, ...]
    near: tuple[str, ...]


class _MarkerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    marker: tuple[Marker, ...]


def load_markers() -> tuple[Marker, ...]:
    """Loads the markers that ship with the service.

    Raises:
        Malformed: the file in the installation is not a set of markers.
    """
    text = resources.files(__package__).joinpath("formats").joinpath(_FILE).read_bytes()
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _MarkerFile).marker
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Malformed("marker file is not one", cause=str(error)) from error


class Injections:
    """The compiled markers. Build it once; it may be used by many threads."""

    def __init__(self, markers: Sequence[Marker]) -> None:
        self._ids = tuple(marker.id for marker in markers)
        patterns = [marker.pattern.encode() for marker in markers]
        self._spans = tuple(map(Spans, patterns))
        self._search = Search(list(enumerate(patterns)))
        self._all = range(len(markers))

    def may_fire(self, body: bytes) -> bool:
        """Whether something could be noted in a body as it stands, or in one whose escapes are still to be decoded."""
        return _BACKSLASH in body or self._fires(body)

    def fires(self, body: bytes, *texts: str) -> bool:
        """Whether something is noted in a body as it stands, or in one of some texts."""
        return self._fires(body) or self._fires("\n".join(texts).encode("utf-8", "surrogatepass"))

    def in_text(self, text: str) -> list[Found]:
        """The markers in a text, each with how often it stands there."""
        data = text.encode("utf-8", "surrogatepass")
        return [Found("injection", self._ids[number], self._count(number, data)) for number in self._fired(data)]

    def in_json(self, root: Json) -> Iterator[tuple[str, Found]]:
        """The markers in the keys and strings of a JSON value, with the pointer of each place."""
        # One scan of them all: most bodies hold nothing.
        if not self._fires("\n".join(text for _, text in _strings(root)).encode("utf-8", "surrogatepass")):
            return
        for path, text in _strings(root):
            for found in self.in_text(text):
                yield pointer(list(path)), found

    def _fires(self, data: bytes) -> bool:
        return bool(data and self._search.hits_at_once(data, self._all))

    def _fired(self, data: bytes) -> list[int]:
        return sorted(self._search.hits(data))

    def _count(self, number: int, data: bytes) -> int:
        # The engines differ in what \s and \b mean for a few bytes; what fired is there at least once.
        return max(1, sum(1 for _ in islice(self._spans[number].all(data), NOTES_PER_TEXT_MAX)))


_Path = tuple[str, ...]


def _strings(root: Json) -> Iterator[tuple[_Path, str]]:
    """Every key and string of a value with its path, without recursion. The depth was bounded before."""
    waiting: list[tuple[_Path, Json]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Members):
            for key, member in value:
                yield (*path, key), key
                waiting.append(((*path, key), member))
        elif isinstance(value, str):
            if not isinstance(value, Number):
                yield path, value
        elif value is not None and not isinstance(value, bool):
            waiting.extend(((*path, str(index)), element) for index, element in enumerate(value))

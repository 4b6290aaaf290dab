"""The walk over a JSON value: every key, string and number is scanned, and what is written is what was scanned.

Decides, for each place, whether structure alone makes it a secret (the member's name, a private member of a JSON Web
Key, the value of a name and value pair) and where containers are too deep to be looked at. The walk keeps its own
stack, so depth costs memory in proportion and never the interpreter's stack. Duplicate members all stay, each scanned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from nomos_sanitizer.edits import Found, marker_for
from nomos_sanitizer.limits import JSON_DEPTH_MAX, POINTER_LENGTH_MAX
from nomos_sanitizer.pii import rule_of
from nomos_sanitizer.structure import (
    JWK_PRIVATE,
    JWK_TYPE,
    PAIR_NAMES,
    PAIR_VALUE,
    TYPED_VALUES,
    Json,
    Members,
    Number,
    is_harmless,
    names_secret,
    quote,
)

NAMED_RULE: Final = "named-secret"
DEPTH_RULE: Final = "json-depth"
CARD_RULE: Final = rule_of("card")
_LITERALS: Final = {True: "true", False: "false"}


class Strings(Protocol):
    """What the walk needs to know about strings."""

    def prime(self, texts: set[str]) -> None:
        """Told of all strings to come, so that the clean ones can be told apart many at a time."""
        ...

    def text(self, text: str) -> tuple[str, tuple[Found, ...]]:
        """The text without its secrets and invisible characters, and what was removed."""
        ...

    def names_credential(self, number: str) -> bool:
        """Whether the digits of a number are a credential."""
        ...

    def names_card(self, number: str) -> bool:
        """Whether the digits of a number are a card number that is to be removed."""
        ...

    def node(self) -> None:
        """Charges one value; raises ``ResponseRefused`` when there are too many."""
        ...

    def is_marker(self, text: str) -> bool:
        """Whether the whole text is one of our own markers."""
        ...

    def fingerprint(self, secret: str) -> str:
        """The fingerprint of a secret, or nothing."""
        ...


class _Frame:
    __slots__ = ("close", "items", "started")

    def __init__(self, items: Iterator[tuple[str, Json, bool]], close: str) -> None:
        self.items = items
        self.close = close
        self.started = False


class Walk:
    """One walk. Use :func:`render`."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self._out: list[str] = []
        self._path: list[str] = []
        self._stack: list[_Frame] = []
        self._named: dict[str, bool] = {}
        self.found: list[tuple[str, Found]] = []

    def run(self, root: Json) -> str:
        """Writes ``root`` and returns the JSON text."""
        self._write(root, secret=False)
        while self._stack:
            frame = self._stack[-1]
            item = next(frame.items, None)
            if item is None:
                self._out.append(frame.close)
                self._stack.pop()
                if self._stack:
                    self._path.pop()
                continue
            self._strings.node()
            prefix, value, secret = item
            self._out.append("," + prefix if frame.started else prefix)
            frame.started = True
            depth = len(self._stack)
            self._write(value, secret=secret)
            if len(self._stack) == depth:
                self._path.pop()
        return "".join(self._out)

    def _write(self, value: Json, *, secret: bool) -> None:
        """Writes a scalar, or opens a container. The path already names the place."""
        if isinstance(value, Number):
            self._write_number(value, secret=secret)
        elif isinstance(value, str):
            self._write_string(value, secret=secret)
        elif value is None:
            self._out.append("null")
        elif isinstance(value, bool):
            self._out.append(_LITERALS[value])
        elif len(self._stack) >= JSON_DEPTH_MAX:
            self._note(Found("secret", DEPTH_RULE))
            self._out.append(quote(marker_for(DEPTH_RULE)))
        elif isinstance(value, Members):
            self._out.append("{")
            self._stack.append(_Frame(self._members(value, secret=secret), "}"))
        else:
            self._out.append("[")
            self._stack.append(_Frame(self._elements(value, secret=secret), "]"))

    def _write_number(self, value: Number, *, secret: bool) -> None:
        if self._strings.names_credential(value):
            self._note(Found("credential", "credential", 1, self._strings.fingerprint(value)))
            self._out.append(quote(marker_for("credential")))
        elif secret:
            self._note(Found("structural-key", NAMED_RULE, 1, self._strings.fingerprint(value)))
            self._out.append(quote(marker_for(NAMED_RULE)))
        elif self._strings.names_card(value):
            self._note(Found("pii", CARD_RULE))
            self._out.append(quote(marker_for(CARD_RULE)))
        else:
            self._out.append(value)

    def _write_string(self, value: str, *, secret: bool) -> None:
        text, found = self._strings.text(value)
        if secret and not is_harmless(text) and not self._strings.is_marker(text):
            named = Found("structural-key", NAMED_RULE, 1, self._strings.fingerprint(value))
            found = (named, *(one for one in found if one.kind == "invisible"))
            text = marker_for(NAMED_RULE)
        for one in found:
            self._note(one)
        self._out.append(quote(text))

    def _elements(self, values: list[Json], *, secret: bool) -> Iterator[tuple[str, Json, bool]]:
        for index, value in enumerate(values):
            self._path.append(str(index))
            yield "", value, secret

    def _members(self, members: Members, *, secret: bool) -> Iterator[tuple[str, Json, bool]]:
        is_jwk = any(key == JWK_TYPE for key, _ in members)
        is_pair = any(key.lower() in PAIR_NAMES and _is_secret_name(value) for key, value in members)
        is_typed = secret and len(members) == 1
        taken = {key for key, _ in members}
        for key, value in members:
            text, found = self._strings.text(key)
            if found:
                # Two members whose names became the same marker must both survive for the reader.
                text = _unused(text, taken)
            self._path.append(text)
            for one in found:
                self._note(one)
            named = (
                self._names_secret(text)
                or (is_jwk and key in JWK_PRIVATE)
                or ((is_pair or secret) and text.lower() == PAIR_VALUE)
                or (is_typed and key in TYPED_VALUES)
            )
            yield quote(text) + ":", value, named

    def _names_secret(self, key: str) -> bool:
        known = self._named.get(key)
        if known is None:
            known = self._named[key] = names_secret(key)
        return known

    def _note(self, found: Found) -> None:
        self.found.append((pointer(self._path), found))


def render(root: Json, strings: Strings) -> tuple[str, list[tuple[str, Found]]]:
    """Writes a JSON value without its secrets.

    Args:
        root: as read by :func:`nomos_sanitizer.structure.parse`.
        strings: what scans the strings.

    Returns:
        The JSON text, compact, and what was removed with the JSON pointer (RFC 6901) of each place.

    Raises:
        ResponseRefused: the strings exceed a limit.
    """
    strings.prime(_strings(root))
    walk = Walk(strings)
    return walk.run(root), walk.found


def pointer(path: list[str]) -> str:
    """A JSON pointer of names that were scanned, cut to a bounded length, with no character that is not Unicode."""
    text = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    if len(text) > POINTER_LENGTH_MAX:
        text = text[: POINTER_LENGTH_MAX - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def _strings(root: Json) -> set[str]:
    found: set[str] = set()
    waiting: list[Json] = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if not isinstance(value, Number):
                found.add(value)
        elif isinstance(value, Members):
            for key, member in value:
                found.add(key)
                waiting.append(member)
        elif value is not None and not isinstance(value, bool):
            waiting.extend(value)
    return found


def _is_secret_name(value: Json) -> bool:
    return isinstance(value, str) and not isinstance(value, Number) and names_secret(value)


def _unused(text: str, taken: set[str]) -> str:
    name, number = text, 1
    while name in taken:
        number += 1
        name = f"{text}#{number}"
    taken.add(name)
    return name

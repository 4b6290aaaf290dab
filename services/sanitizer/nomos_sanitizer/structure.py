"""JSON as structure: keys that name a secret, and reading and writing that lose nothing.

Decides which keys name a secret and which values under them are plainly none. Reads JSON (RFC 8259) so that numbers
keep their text and duplicate keys stay, and writes strings so that every reader sees what was scanned. Leaves the
walk to :mod:`nomos_sanitizer.tree`.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Final

import numpy as np
import re2

from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.lexed import outline
from nomos_sanitizer.limits import JSON_DEPTH_MAX

_SEP: Final = rb"[-_. ]{0,2}"
_TOKEN_KINDS: Final = (
    rb"access|refresh|id|o?auth|session|security|bearer|api|private|personal|bot|webhook|registration|runner|"
    rb"service|deploy|clone|reset|login|user|account|installation|jwt|github|gitlab|slack|npm|vault|management"
)
_KEY_KINDS: Final = rb"api|private|secret|access|signing|encryption|account|storage|master|shared|ssh|jwt|hmac|service"
#: Endings that make a key the name of a secret, whatever stands before them.
_ENDING: Final = (
    rb"(?:password|passwd|passphrase|secret|(?:" + _TOKEN_KINDS + rb")" + _SEP + rb"token"
    rb"|(?:" + _KEY_KINDS + rb")" + _SEP + rb"key(?:" + _SEP + rb"pem)?"
    rb"|client" + _SEP + rb"assertion|connection" + _SEP + rb"string|(?:totp|mfa|otp|hd)" + _SEP + rb"seed"
    rb"|(?:recovery|backup)" + _SEP + rb"codes?|set" + _SEP + rb"cookie2?)"
)
#: Whole names.
_WHOLE: Final = (
    rb"(?:token|cookies?|(?:proxy"
    + _SEP
    + rb")?authorization|credentials?|x"
    + _SEP
    + rb"auth|seed"
    + _SEP
    + rb"phrase)"
)
#: Says of a JSON text whether a key, or the name in a name and value pair, can name a secret. Never narrower.
KEY_GATE: Final = rb"(?i:" + _ENDING + rb"|" + _WHOLE + rb")" + _SEP + rb"[ \t\r\n\f\v]*\"|\"kty" + rb"\""
_BLANK: Final = b" \t\r\n\f\v"
#: Private members of a JSON Web Key (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1).
JWK_TYPE: Final = "kty"
JWK_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
#: Members that name and hold a value, as in HAR files and environment listings.
PAIR_NAMES: Final = frozenset({"name", "key", "header"})
PAIR_VALUE: Final = "value"
#: Types of values in DynamoDB's JSON that hold a text, a number or a list: ``{"password": {"S": "..."}}``.
TYPED_VALUES: Final = frozenset({"S", "N", "B", "SS", "NS", "BS", "L"})
#: Values that say something about a secret and are none: permissions, states, types of a schema.
_HARMLESS: Final = frozenset(
    {"", "read", "write", "admin", "none", "null", "true", "false", "string", "boolean", "integer", "number", "object"}
    | {"array", "enabled", "disabled", "required", "optional", "inherit", "hidden", "redacted", "bearer", "basic"}
)


_NAMES_SECRET: Final = re2.compile(rb"(?i:" + _WHOLE + _SEP + rb"|(?s:.*)" + _ENDING + _SEP + rb")", bytes_options())


#: What stands behind such a name where nothing can be taken out: part of what :func:`is_harmless` says.
_KEY_HIT: Final = re2.compile(KEY_GATE, bytes_options())
_HARMLESS_MEMBER: Final = re2.compile(
    rb"[ \t\r\n]*:[ \t\r\n]*(?:null|true|false|\"(?i:" + b"|".join(sorted(w.encode() for w in _HARMLESS)) + rb")\")"
    rb"[ \t\r\n]*[,}]",
    bytes_options(),
)
_JWK_MARK: Final = b'"' + JWK_TYPE.encode() + b'"'


class Number(str):
    """A JSON number as its text, so that neither size nor digits change on the way through."""

    __slots__ = ()


class Members(list[tuple[str, "Json"]]):
    """The members of a JSON object in order, duplicates included."""

    __slots__ = ()


Json = str | Number | bool | Members | list["Json"] | None


class NotJson(Exception):
    """The text is not JSON; it is treated as plain text. Never leaves this package."""


def _no_constant(text: str) -> Json:
    raise NotJson(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=_no_constant, strict=False
)


def names_secret(key: str) -> bool:
    """Whether a key, header or variable of this name holds a secret."""
    name = key.encode("utf-8", "surrogatepass").strip(_BLANK)
    return _NAMES_SECRET.fullmatch(name) is not None


def is_harmless(value: str) -> bool:
    """Whether a value under a secret's name is plainly no secret: empty, masked, a state or a type."""
    return value.lower() in _HARMLESS or not value.strip("*•xX .")


def holds_no_named_secret(data: bytes) -> bool:
    """Whether each name of a secret in a JSON text is that of a member whose value is plainly none.

    Names in which escapes stand are not seen.
    """
    for match in _KEY_HIT.finditer(data):
        # The name in a name and value pair is no member's name, so it is not taken for harmless here.
        if match.group(0) == _JWK_MARK or _HARMLESS_MEMBER.match(data, match.end()) is None:
            return False
    return True


def parse(text: str) -> Json:
    """Reads a JSON text.

    Containers below ``JSON_DEPTH_MAX`` come back (a marker replaces them in the walk) unless there are so many levels
    that the reader's stack ends; then they are cut out before reading.

    Raises:
        NotJson: it is not JSON. ``NaN`` and infinities are not JSON either.
    """
    try:
        return _read(text)
    except RecursionError:
        try:
            return _read(_cut_deep(text))
        except RecursionError as error:
            raise NotJson("stack") from error


def _read(text: str) -> Json:
    try:
        value: Json = _DECODER.decode(text)
    except (ValueError, IndexError) as error:
        raise NotJson(str(type(error))) from error
    return value


def _cut_deep(text: str) -> str:
    """The text with an empty array in place of what lies far below the depth that is kept."""
    data = text.encode("utf-8", "surrogatepass")
    found = outline(data)
    depths = np.cumsum(found.steps, dtype=np.int64)
    floor = JSON_DEPTH_MAX + 2
    if len(depths) and depths[-1] >= floor:
        raise NotJson("unclosed")
    opens = found.brackets[(found.steps > 0) & (depths == floor)]
    closes = found.brackets[(found.steps < 0) & (depths == floor - 1)]
    if len(opens) != len(closes):
        raise NotJson("unclosed")
    parts: list[bytes] = []
    at = 0
    for start, end in zip(opens.tolist(), closes.tolist(), strict=True):
        parts += (data[at:start], b"[]")
        at = end + 1
    parts.append(data[at:])
    return b"".join(parts).decode("utf-8", "surrogatepass")


def quote(text: str) -> str:
    """A JSON string. Text that is no Unicode scalar sequence (lone surrogates) is written with escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return encode_basestring_ascii(text)
    return encode_basestring(text)


def ascii_only(text: str) -> str:
    """A JSON text with every character beyond ASCII written as an escape; such characters stand in strings only."""
    return "".join(character if character < "\x80" else encode_basestring_ascii(character)[1:-1] for character in text)

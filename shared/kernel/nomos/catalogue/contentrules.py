"""What a connector's file may say of contents.

An action takes one content at most. It is the whole body (``encoding: raw``), in base64 a text of a JSON body, or the
file of a multipart body (``part``). It has a place of its own, or may take that of another argument (``instead_of``),
and then either is given.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec import structs

from nomos.catalogue.model import FILENAME, WHOLE, Action, BodyFormat, Parameter
from nomos.contents import CONTENT_BYTES_MAX
from nomos.errors import MalformedCatalogue

#: Names of fields of a multipart body.
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\[[0-9]\])?")


def placed(what: str, parameters: Sequence[Parameter], body_format: BodyFormat) -> tuple[Parameter, ...]:
    """The parameters, a content that is there instead of another in the other's place.

    Args:
        what: the action, for errors.
        parameters: as they are declared.
        body_format: of the action.

    Raises:
        MalformedCatalogue: a content that cannot stand where it should, or more than one.
    """
    contents = [one for one in parameters if one.type == "content"]
    if any(one.instead_of or one.encoding != "raw" for one in parameters if one.type != "content"):
        raise MalformedCatalogue(f"{what}: only a content has an encoding, or is there instead of another argument")
    if not contents:
        if body_format in ("content", "multipart"):
            raise MalformedCatalogue(f"{what}: a body that is a content, or multipart, has an argument of that type")
        return tuple(parameters)
    if len(contents) > 1:
        raise MalformedCatalogue(f"{what}: an action takes one content")
    content = contents[0]
    if content.where != "body" or content.pattern or content.max_length > CONTENT_BYTES_MAX:
        raise MalformedCatalogue(
            f"{what}: a content stands in the body, has no pattern, and at most {CONTENT_BYTES_MAX} bytes (max_length)"
        )
    made = content if not content.instead_of else _instead(what, content, parameters)
    if made.encoding == "raw":
        is_placed = made.wire == WHOLE and (made.required or content.instead_of)
        may = is_placed and body_format in (("text", "json") if content.instead_of else ("content",))
    elif made.encoding == "base64":
        may = made.wire != WHOLE and body_format == "json"
    else:
        is_field = _FIELD.fullmatch(made.wire) is not None and made.required
        may = is_field and not content.instead_of and body_format == "multipart"
    if not may:
        raise MalformedCatalogue(
            f'{what}: a raw content is the whole body (wire: ".", body: content, required), one in base64 a member of '
            "a JSON body, a part a required field of a multipart body; or it is there instead of an argument that is so"
        )
    return tuple(made if one is content else one for one in parameters)


def _instead(what: str, content: Parameter, parameters: Sequence[Parameter]) -> Parameter:
    other = next((one for one in parameters if one.name == content.instead_of), None)
    if other is None or other.where != "body" or other.type not in ("string", "json") or content.required:
        raise MalformedCatalogue(
            f"{what}: {content.name} is there instead of a string or JSON in the body, and cannot be required beside it"
        )
    return structs.replace(content, wire=other.wire)


def check_multipart(what: str, action: Action) -> None:
    """Checks what stands beside the file of a multipart body.

    Raises:
        MalformedCatalogue: the file has no name, a field is no text, or JSON stands where no multipart body is.
    """
    if action.body_format != "multipart":
        if action.json_part:
            raise MalformedCatalogue(f"{what}: only a multipart body has a part of JSON")
        return
    members = [one for one in action.parameters if one.where == "body" and one.type != "content"]
    if not any((one.wire, one.type, one.required) == (FILENAME, "string", True) for one in members):
        raise MalformedCatalogue(
            f"{what}: the file of a multipart body has a name, a required string with wire: {FILENAME}"
        )
    if action.json_part:
        if _FIELD.fullmatch(action.json_part) is None or (action.content and action.json_part == action.content.wire):
            raise MalformedCatalogue(f"{what}: the part of JSON has a name of its own")
    elif any(one.type != "string" for one in members) or any(not isinstance(one, str) for _, one in action.fixed_body):
        raise MalformedCatalogue(f"{what}: the fields of a multipart body are strings, or stand in a part of JSON")
    elif action.content and action.content.wire in [*(one.wire for one in members), *dict(action.fixed_body)]:
        raise MalformedCatalogue(f"{what}: the file of a multipart body has a field of its own")


def members(action: Action) -> tuple[Parameter, ...]:
    """The parameters that are members: not what is there instead of another, nor a file that stands beside them."""
    return tuple(one for one in action.parameters if not one.instead_of and one.encoding != "part")

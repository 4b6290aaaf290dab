"""What a connector's file may say of contents.

An action takes one content at most. It is the whole body (``encoding: raw``), or in base64 a text of a JSON body; it
has a place of its own, or may take that of another argument (``instead_of``), and then either is given.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from nomos.catalogue.model import WHOLE, Action, BodyFormat, Parameter
from nomos.contents import CONTENT_BYTES_MAX
from nomos.errors import MalformedCatalogue


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
        if body_format == "content":
            raise MalformedCatalogue(f"{what}: a body that is a content is an argument of the type content")
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
    else:
        may = made.wire != WHOLE and body_format == "json"
    if not may:
        raise MalformedCatalogue(
            f'{what}: a raw content is the whole body (wire: ".", body: content, required), and one in base64 a member '
            "of a JSON body; or it is there instead of an argument that is so"
        )
    return tuple(made if one is content else one for one in parameters)


def _instead(what: str, content: Parameter, parameters: Sequence[Parameter]) -> Parameter:
    other = next((one for one in parameters if one.name == content.instead_of), None)
    if other is None or other.where != "body" or other.type not in ("string", "json") or content.required:
        raise MalformedCatalogue(
            f"{what}: {content.name} is there instead of a string or JSON in the body, and cannot be required beside it"
        )
    return structs.replace(content, wire=other.wire)


def without_alternative(action: Action) -> tuple[Parameter, ...]:
    """The parameters that have a place of their own."""
    return tuple(one for one in action.parameters if not one.instead_of)

"""Reads YAML as the 1.2 JSON-like subset that connector files use. Everything surprising is refused.

Refused: repeated keys, anchors and aliases, tags, merge keys, several documents, depth over a limit. Scalars are
null, true/false, decimal integers and strings; ``yes``, ``on``, ``1.5``, ``0x10`` and dates stay strings.

Source: YAML 1.2.2 sections 3.2.1.3 (unique keys) and 10.3 (core schema).
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from nomos.errors import LimitExceeded, MalformedCatalogue

#: Bytes of one connector file.
FILE_BYTES_MAX: Final = 262_144
#: Nested collections.
DEPTH_MAX: Final = 16


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's implicit types, aliases and tags."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise MalformedCatalogue("anchors and aliases are not accepted")
        if getattr(event, "tag", None) is not None:
            raise MalformedCatalogue("tags are not accepted")
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise LimitExceeded("depth_max", DEPTH_MAX)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # `deep` is always on: the base class's generators build children late, where an error loses its place
        seen: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise MalformedCatalogue(f"line {key_node.start_mark.line + 1}: a key must be a string")
            if key_node.value in seen:
                raise MalformedCatalogue(f"line {key_node.start_mark.line + 1}: key {key_node.value!r} is repeated")
            seen[key_node.value] = self.construct_object(value_node, deep=True)
        return seen


def _construct_map(loader: _Loader, node: Any) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:null|~|)\Z"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z"), list("-0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)


def parse_yaml(content: bytes) -> object:
    """Reads one document.

    Raises:
        MalformedCatalogue: not UTF-8, not YAML, or a construct that is not accepted.
        LimitExceeded: over ``FILE_BYTES_MAX`` or ``DEPTH_MAX``.
    """
    if len(content) > FILE_BYTES_MAX:
        raise LimitExceeded("file_bytes_max", FILE_BYTES_MAX, len(content))
    try:
        loader = _Loader(content.decode("utf-8"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise MalformedCatalogue("a connector file must be UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise MalformedCatalogue(f"{place}not YAML", cause=str(error)) from error
    except (ValueError, RecursionError) as error:
        raise MalformedCatalogue("not YAML", cause=str(error)) from error

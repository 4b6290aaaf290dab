"""Policy packs: sets to start from, as data, with the answers that they must give.

A pack is a folder of three files: ``pack.yaml`` (what it is for, and its parameters), ``policies.cedar``, and
``tests.yaml`` (a table of ``nomos_policy.expected``, written for the parameters' examples). In the policies, a string
that is ``"$name"`` and nothing else stands for a parameter; nothing but a whole string is ever put in, and a value is
the name of an app or agent, or a resource that the catalogue accepts, so no value can say anything else than a name.

Rules of a pack: each parameter is used, each ``$name`` declared; with its examples it compiles, without a lint error,
and gives every answer of its table; the table expects an allow and a deny, and each policy decides one of its tests.

Pure. Leaves reading the files and putting policies in force to the command.

Trusted: whoever writes packs, as whoever writes policies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from nomos.catalogue import Catalogue
from nomos.catalogue.yaml12 import parse_yaml
from nomos.errors import Malformed, NomosError
from nomos.ids import parse_slug
from nomos_policy.expected import Table, differences, parse_table
from nomos_policy.guard import tokens
from nomos_policy.policyset import compile_policies
from nomos_policy.vocabulary import Vocabulary

_PARAMETER: Final = re.compile(r'"\$([a-z][a-z0-9_]{0,39})"')


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a pack's user names.

    Attributes:
        kind: whether it is the name of an app, of an agent, or a resource.
        title: what it is for.
        example: the value that the pack's tests are written for.
        type: of a resource, for instance ``github:repo``; else empty.
    """

    kind: Literal["app", "agent", "resource"]
    title: str
    example: str
    type: str = ""


class _PackFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pack: str
    title: str
    description: str
    connectors: tuple[str, ...]
    parameters: dict[str, Parameter] = {}


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack as its files say.

    Attributes:
        name: of its folder.
        title: one line.
        description: one sentence.
        connectors: those whose actions its policies name.
        parameters: by name.
        text: its policies, with ``"$name"`` where parameters go.
        table: its tests.
        lines: of the tests.
    """

    name: str
    title: str
    description: str
    connectors: tuple[str, ...]
    parameters: dict[str, Parameter]
    text: str
    table: Table
    lines: tuple[int, ...]


def parse_pack(name: str, about: bytes, text: str, tests: bytes) -> Pack:
    """Reads a pack.

    Args:
        name: of its folder.
        about: ``pack.yaml``.
        text: ``policies.cedar``.
        tests: ``tests.yaml``.

    Raises:
        Malformed: a file is not what it must be; the message names the file.
        LimitExceeded: a file is over a limit.
    """
    try:
        file = msgspec.convert(parse_yaml(about), _PackFile)
    except (msgspec.ValidationError, Malformed) as error:
        raise Malformed(f"pack {name}: pack.yaml: {error}") from error
    if file.pack != name:
        raise Malformed(f"pack {name}: pack.yaml calls it {file.pack!r}")
    used = {found.group(1) for _, _, found in _places(text)}
    if used != set(file.parameters):
        odd = min(used ^ set(file.parameters))
        told = "used and not declared" if odd in used else "declared and not used"
        raise Malformed(f"pack {name}: the parameter {odd} is {told}")
    try:
        table, lines = parse_table(tests)
    except Malformed as error:
        raise Malformed(f"pack {name}: tests.yaml: {error.detail}", hint=error.hint) from error
    return Pack(
        name=name,
        title=file.title,
        description=file.description,
        connectors=file.connectors,
        parameters=file.parameters,
        text=text,
        table=table,
        lines=lines,
    )


def fill(pack: Pack, values: Mapping[str, str], catalogue: Catalogue, *, prefix: str = "") -> str:
    """The pack's policies for these values.

    Args:
        pack: the pack.
        values: one for each parameter.
        catalogue: that knows the resources.
        prefix: put before each policy's id with a slash, so that a set may hold a pack twice; empty for none.

    Returns:
        Cedar text, not compiled.

    Raises:
        Malformed: a value is missing, too many, or not what the parameter is.
        UnknownResource: a value is no resource.
    """
    odd = sorted(values.keys() ^ pack.parameters.keys())
    if odd:
        told = "needs" if odd[0] in pack.parameters else "has no parameter"
        raise Malformed(f"the pack {pack.name} {told} {odd[0]}", hint=f"nomos policy pack show {pack.name}")
    written = {name: _string(_value(name, one, values[name], catalogue)) for name, one in pack.parameters.items()}
    if prefix:
        parse_slug(prefix, "prefix")
    parts: list[str] = []
    end = 0
    for start, string, found in _strings(pack.text):
        if found is not None:
            new = written[found.group(1)]
        elif prefix and _is_id(pack.text[:start]):
            new = f'"{prefix}/{string[1:]}'
        else:
            continue
        parts += (pack.text[end:start], new)
        end = start + len(string)
    return "".join((*parts, pack.text[end:]))


def faults(pack: Pack, vocabulary: Vocabulary, *, now_seconds: int) -> list[str]:
    """What is wrong with a pack by the rules of this module; empty for a good one. A sentence each.

    Args:
        pack: the pack.
        vocabulary: the schema of the catalogue.
        now_seconds: Unix time for tests that name none.
    """
    examples = {name: one.example for name, one in pack.parameters.items()}
    try:
        policies = compile_policies(fill(pack, examples, vocabulary.catalogue), vocabulary)
    except NomosError as error:
        return [f"it does not compile: {error.detail}"]
    found = [
        f"tests.yaml:{one.line}: test {one.test} ({one.name}): expected {one.expected}, got {one.got}"
        for one in differences(pack.table, pack.lines, policies, now_seconds=now_seconds)
    ]
    answers = {test.expect for test in pack.table.tests}
    found += [f"no test expects {answer}" for answer in ("allow", "deny") if answer not in answers]
    decided = {name for test in pack.table.tests for name in test.policies or ()}
    found += [f"no test names the policy {one.id} as deciding" for one in policies.policies if one.id not in decided]
    known = vocabulary.catalogue.connectors
    found += [f"there is no connector {name}" for name in pack.connectors if name not in known]
    return found


def _value(name: str, parameter: Parameter, value: str, catalogue: Catalogue) -> str:
    if parameter.kind != "resource":
        return parse_slug(value, name)
    resource = catalogue.parse_resource(value)
    if f"{resource.type.connector}:{resource.type.kind}" != parameter.type:
        raise Malformed(f"{name} must be a {parameter.type}, for instance {parameter.example}")
    return resource.id


def _string(value: str) -> str:
    """A Cedar string literal."""
    if not value.isprintable():
        raise Malformed("a value must be printable text")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _strings(text: str) -> list[tuple[int, str, re.Match[str] | None]]:
    """Each string of a policy text: where it begins, how it stands, and its match if it is a parameter."""
    return [
        (start, token, _PARAMETER.fullmatch(token)) for token, start in tokens(text, raw=True) if token.startswith('"')
    ]


def _places(text: str) -> list[tuple[int, str, re.Match[str]]]:
    return [(start, string, found) for start, string, found in _strings(text) if found is not None]


def _is_id(before: str) -> bool:
    """Whether what stands before a string makes it a policy's id."""
    return re.search(r"@\s*id\s*\(\s*\Z", before) is not None

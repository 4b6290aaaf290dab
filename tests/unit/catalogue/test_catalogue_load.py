"""Connector files: what is accepted says one thing, and everything else is refused with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import Risk, load_catalogue, parse_connector
from nomos.catalogue.yaml12 import parse_yaml
from nomos.errors import LimitExceeded, Malformed, MalformedCatalogue, UnknownAction, UnknownResource

CONNECTORS = Path(__file__).parents[3] / "connectors"

MINIMAL = """
connector: demo
title: Demo
scheme: https
host: api.demo.example
port: 443
auth: bearer
resource_types:
  thing: {cedar: "Demo::Thing", fields: {thing: "[a-z]+"}}
actions:
  things.get: {title: Read, method: GET, path: "/things/{thing}", risk: read, resource: thing}
"""


def test_the_shipped_connector_loads_with_every_risk_class_that_it_promises() -> None:
    catalogue = load_catalogue(CONNECTORS)
    assert len(catalogue.actions) >= 12
    assert {action.risk for action in catalogue.actions.values()} == {
        Risk.READ,
        Risk.WRITE,
        Risk.DESTRUCTIVE,
        Risk.PERMISSION,
    }
    assert catalogue.action("github:repos.delete").risk.is_high_stakes
    assert catalogue.action("github:issues.list").command == "/github/issues/list"


def test_each_action_is_found_by_its_command() -> None:
    catalogue = load_catalogue(CONNECTORS)
    for action in catalogue.actions.values():
        assert catalogue.action_of_command(action.command) is action


@pytest.mark.parametrize(
    "command", ["", "/", "/github", "/github/issues", "/github/issues/list/", "github/issues/list"]
)
def test_a_command_that_names_no_action_is_refused(command: str) -> None:
    with pytest.raises(UnknownAction):
        load_catalogue(CONNECTORS).action_of_command(command)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(UnknownAction):
        load_catalogue(CONNECTORS).action("github:repos.explode")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "github",
        "github:",
        "github:repo",
        "github:repo/",
        "github:repo/acme",
        "github:repo/acme/",
        "github:repo//site",
        "github:repo/acme/site/",
        "github:repo/acme/site/issues",
        "github:repo/acme/..",
        "github:repo/acme/.",
        "github:repo/../site",
        "github:repo/ACME/site",  # GitHub reads it as acme/site, so it would be a second spelling
        "github:repo/acme/Site",
        "github:repo/acme/site.git",
        "github:repo/acme/site%2f..",
        "github:repo/acme/site\n",
        "github:repo/acme/ѕite",  # a Cyrillic letter
        "github:repo/acme/site?x",
        "github:repo/-acme/site",
        "GitHub:repo/acme/site",
        "gitlab:repo/acme/site",
        "github:search/everything",
        "github:repo/acme/" + "a" * 101,
    ],
)
def test_a_resource_has_one_spelling(text: str) -> None:
    with pytest.raises(UnknownResource):
        load_catalogue(CONNECTORS).parse_resource(text)


def test_a_resource_text_has_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        load_catalogue(CONNECTORS).parse_resource("github:repo/acme/" + "a" * 600)


def test_a_resource_gives_its_cedar_entity() -> None:
    resource = load_catalogue(CONNECTORS).parse_resource("github:repo/acme/site.web_1")
    assert (resource.type.cedar, resource.id) == ("GitHub::Repo", "acme/site.web_1")


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ("title: Demo", "title: Demo\ntitle: Twice"),
        ("title: Demo", "titel: Demo"),
        ("title: Demo", "title: Demo\nextra: 1"),
        ("scheme: https", "scheme: http"),
        ("host: api.demo.example", "host: 169.254.169.254"),
        ("host: api.demo.example", "host: localhost"),
        ("host: api.demo.example", "host: API.demo.example"),
        ("host: api.demo.example", "host: user@api.demo.example"),
        ("host: api.demo.example", "host: api.demo.example:8080"),
        ("port: 443", "port: 0"),
        ("port: 443", "port: '443'"),
        ("port: 443", "port: 0x1bb"),
        ("auth: bearer", "auth: digest"),
        ("auth: bearer", "auth: {header: cookie}"),
        ("auth: bearer", "auth: {header: host}"),
        ("auth: bearer", "auth: {header: x-api-key, prefix: \"a b c\"}"),
        ("auth: bearer", "auth: {header: X-Api-Key}"),
        ("auth: bearer", "auth: {header: x-key}\nheaders: {x-key: a}"),
        ("auth: bearer", "auth: bearer\nheaders: {authorization: x}"),
        ("auth: bearer", "auth: bearer\nheaders: {host: evil.example}"),
        ("auth: bearer", "auth: bearer\nheaders: {Accept: x}"),
        ("auth: bearer", 'auth: bearer\nheaders: {accept: "a\\r\\nx: y"}'),
        ("Demo::Thing", "Thing"),
        ("[a-z]+", "[a-z"),
        ("things.get", "things"),
        ("things.get", "things.get.all"),
        ("method: GET", "method: HEAD"),
        ("method: GET", "method: get"),
        ("risk: read", "risk: write"),
        ("risk: read", "risk: harmless"),
        ("/things/{thing}", "/things"),
        ("/things/{thing}", "/things/{thing}/{thing}"),
        ("/things/{thing}", "/things/{other}"),
        ("/things/{thing}", "/things/{+thing}"),
        ("/things/{thing}", "things/{thing}"),
        ("/things/{thing}", "/things/../{thing}"),
        ("/things/{thing}", "/things//{thing}"),
        ("/things/{thing}", "/things/{thing}?admin=1"),
        ("/things/{thing}", "https://evil.example/{thing}"),
        ("resource: thing}", "resource: nothing}"),
        ("resource: thing}", "resource: thing, parameters: {thing: {where: query}}}"),
        ("resource: thing}", "resource: thing, parameters: {x: {where: header}}}"),
        ("resource: thing}", "resource: thing, parameters: {x: {where: query, typ: string}}}"),
        ("resource: thing}", "resource: thing, parameters: {x: {where: query, maximum: 1, minimum: 2}}}"),
        ("resource: thing}", "resource: thing, parameters: {x: {where: body}}}"),
        ("resource: thing}", "resource: thing, idempotency_header: authorization}"),
        ("resource: thing}", "resource: &a thing}"),
        ("resource: thing}", "resource: !!python/name:os.system x}"),
        ("resource: thing}", "resource: thing}\n  things.peek: {title: P, method: GET, path: '/things/{thing}', "
         "risk: read, resource: thing}"),
    ],
)  # fmt: skip
def test_a_connector_that_could_be_misread_is_refused(replace: str, by: str) -> None:
    assert parse_connector(MINIMAL.encode()).name == "demo"
    assert replace in MINIMAL
    with pytest.raises(MalformedCatalogue):
        parse_connector(MINIMAL.replace(replace, by, 1).encode())


def test_a_repeated_key_is_refused_with_its_line() -> None:
    with pytest.raises(MalformedCatalogue, match="line 3"):
        parse_yaml(b"a: 1\nb: 2\na: 3\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("1.5", "1.5"),
        ("0o17", "0o17"),
        ("0x1f", "0x1f"),
        ("2026-11-22", "2026-11-22"),
        ("true", True),
        ("~", None),
        ("-7", -7),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    assert parse_yaml(f"a: {text}".encode()) == {"a": value}


def test_depth_and_size_of_a_file_are_limited() -> None:
    with pytest.raises(LimitExceeded):
        parse_yaml(b"[" * 40)
    with pytest.raises(LimitExceeded):
        parse_yaml(b"a" * 300_000)


def test_a_folder_without_connectors_or_with_a_misnamed_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedCatalogue):
        load_catalogue(tmp_path)
    (tmp_path / "other.yaml").write_text(MINIMAL)
    with pytest.raises(MalformedCatalogue):
        load_catalogue(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_connector_or_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        parse_connector(content)


@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#? \n\tabc01~.", max_size=80))
def test_any_yaml_like_text_is_read_or_malformed(text: str) -> None:
    with contextlib.suppress(Malformed):
        parse_yaml(text.encode())

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

from .demo import HEAD

CONNECTORS = Path(__file__).parents[3] / "connectors"

CATALOGUE = load_catalogue(CONNECTORS)
MINIMAL = (
    HEAD
    + """\
actions:
  things.get: {title: Read, method: GET, path: "/things/{thing}", risk: read, resource: thing}
"""
)


def test_the_shipped_connector_loads_with_every_risk_class_that_it_promises() -> None:
    catalogue = CATALOGUE
    assert {action.risk for action in catalogue.actions.values()} == set(Risk)
    assert catalogue.action("github:repos.delete").risk.is_high_stakes
    assert catalogue.action("github:issues.list").command == "/github/issues/list"


def test_each_action_is_found_by_its_command() -> None:
    catalogue = CATALOGUE
    for action in catalogue.actions.values():
        assert catalogue.action_of_command(action.command) is action


@pytest.mark.parametrize(
    "command", ["", "/", "/github", "/github/issues", "/github/issues/list/", "github/issues/list"]
)
def test_a_command_that_names_no_action_is_refused(command: str) -> None:
    with pytest.raises(UnknownAction):
        CATALOGUE.action_of_command(command)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(UnknownAction):
        CATALOGUE.action("github:repos.explode")


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
        CATALOGUE.parse_resource(text)


def test_a_resource_text_has_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        CATALOGUE.parse_resource("github:repo/acme/" + "a" * 600)


def test_a_resource_gives_its_cedar_entity() -> None:
    resource = CATALOGUE.parse_resource("github:repo/acme/site.web_1")
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
        ("auth: bearer", "auth: {aws: S3}"),
        ("auth: bearer", "auth: {aws: s3, header: x-key}"),
        ("auth: bearer", "auth: {prefix: 'Token '}"),
        ("auth: bearer", "auth: {header: signature}"),
        ("auth: bearer", "auth: signature\nheaders: {signature: x}"),
        ("auth: bearer", "auth: bearer\nheaders: {x-amz-date: x}"),
        ("host: api.demo.example", "host: {pattern: '[a-z'}"),
        ("host: api.demo.example", "host: {pattern: '.*', name: x}"),
        ("host: api.demo.example", "host: {pattern: '[a-z.]+'}\noauth: {authorize: 'https://id.demo.example/a', "
         "token: 'https://id.demo.example/t'}"),
        ("auth: bearer", "auth: bearer\noauth: {authorize: 'http://id.demo.example/a', "
         "token: 'https://id.demo.example/t'}"),
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


POST = """
connector: demo
title: Demo
scheme: https
host: api.demo.example
port: 443
auth: {header: x-api-key}
parameters:
  note: {where: body, max_length: 9}
resource_types:
  thing: {cedar: "Demo::Thing", fields: {thing: "[a-z]+"}}
actions:
  things.note:
    {title: N, method: POST, path: /notes, risk: write, resource: thing, derive: {thing: {body: a.thing}}, uses: [note]}
"""


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ("uses: [note]", "uses: [note, note]"),
        ("uses: [note]", "uses: [other]"),
        ("uses: [note]", "uses: [note], parameters: {note: {where: body}}"),
        ("uses: [note]", "parameters: {thing: {where: body}}"),
        ("uses: [note]", "parameters: {x: {where: body, wire: a.thing}}"),
        ("uses: [note]", "parameters: {x: {where: body, wire: a}}"),
        ("uses: [note]", "parameters: {x: {where: body, wire: a.thing.b}}"),
        ("uses: [note]", "parameters: {x: {where: body, wire: 'a..b'}}"),
        ("uses: [note]", "parameters: {x: {where: body, repeats: true}}"),
        ("uses: [note]", "parameters: {x: {where: query, type: json}}"),
        ("uses: [note]", "parameters: {x: {where: query, wire: 'a b'}}"),
        ("uses: [note]", "fixed: {body: {a.thing: x}}"),
        ("uses: [note]", "body: form, parameters: {x: {where: body, type: json}}"),
        ("uses: [note]", "body: mail"),
        ("uses: [note]", "parameters: {x: {where: body, wire: ., type: json, required: true}}"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, uses: [note], "
         "parameters: {x: {where: body, wire: ., type: json, required: true}}"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, "
         "parameters: {x: {where: body, wire: ., type: json}}"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, "
         "parameters: {x: {where: body, wire: ., required: true}}"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, body: text, "
         "parameters: {x: {where: body, wire: ., type: json, required: true}}"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, body: text, uses: [note]"),
        ("derive: {thing: {body: a.thing}}, uses: [note]", "derive: {thing: {query: t}}, "
         "parameters: {x: {where: query, wire: '*', type: string_map}}"),
        ("uses: [note]", "parameters: {x: {where: query, wire: '*', type: string_map}, y: {where: query}}"),
        ("uses: [note]", "parameters: {x: {where: query, wire: '*', type: string}}"),
        ("derive: {thing: {body: a.thing}}", "derive: {thing: {host: true}}"),
        ("derive: {thing: {body: a.thing}}", "derive: {thing: {host: true, query: t}}"),
        ("uses: [note]", "pagination: {parameter: note, kind: cursor, next: /n}"),
        ("uses: [note]", "uses: [note], pagination: {parameter: note, kind: page}"),
        ("uses: [note]", "uses: [note], pagination: {parameter: note, kind: cursor}"),
        ("uses: [note]", "uses: [note], pagination: {parameter: note, kind: cursor, next: n}"),
        ("derive: {thing: {body: a.thing}}", "derive: {thing: {body: a, query: b}}"),
        ("derive: {thing: {body: a.thing}}", "derive: {thing: {constant: X1}}"),
        ("derive: {thing: {body: a.thing}}", "derive: {other: {body: a}}"),
        ("derive: {thing: {body: a.thing}}", "derive: {thing: {}}"),
        ("derive: {thing: {body: a.thing}}, ", ""),
        ("method: POST", "method: DELETE"),
        ("uses: [note]}", "uses: [note]}\n  things.again: {title: A, method: POST, path: /notes, risk: write, "
         "resource: thing, derive: {thing: {body: a.thing}}}"),
    ],
)  # fmt: skip
def test_a_request_that_could_be_read_two_ways_is_refused(replace: str, by: str) -> None:
    assert parse_connector(POST.encode()).auth.header == "x-api-key"
    assert replace in POST
    with pytest.raises(MalformedCatalogue):
        parse_connector(POST.replace(replace, by, 1).encode())


@pytest.mark.parametrize(
    "second",
    [
        "fixed: {body: {kind: other}}, derive: {thing: {body: a.thing}}",
        "derive: {thing: {body: another}}",
    ],
)
def test_two_actions_share_a_path_where_no_request_is_of_both(second: str) -> None:
    first = POST.replace("uses: [note]", "fixed: {body: {kind: one}}")
    both = f"{first}  things.more: {{title: M, method: POST, path: /notes, risk: write, resource: thing, {second}}}\n"
    assert len(parse_connector(both.encode()).actions) == 2


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


FILES = """
connector: store
title: Store
scheme: file
host: {pattern: "[a-z]+"}
auth: none
resource_types:
  top: {cedar: "Store::Top", fields: {top: "[a-z]+"}}
  folder: {cedar: "Store::Folder", fields: {top: "[a-z]+", path: {segments: "[a-z]+"}}, within: [folder, top]}
  thing: {cedar: "Store::Thing", fields: {top: "[a-z]+", path: {segments: "[a-z]+"}}, within: [folder, top]}
actions:
  tops.list: {title: L, method: GET, path: /top, risk: read, resource: top, derive: {top: {host: true}}}
  things.add:
    {title: W, method: POST, path: "/append/{+path}", risk: write, resource: thing, derive: {top: {host: true}}}
"""


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ("scheme: file", "scheme: ssh"),
        ("scheme: file", "scheme: https\nport: 443"),
        ("scheme: file", "scheme: file\nport: 22"),
        ("scheme: file", "scheme: file\nheaders: {accept: x}"),
        ("auth: none", "auth: key"),
        ("auth: none", "auth: bearer"),
        ('host: {pattern: "[a-z]+"}', "host: files.demo.example"),
        (", within: [folder, top]}\n  thing", "}\n  thing"),
        ("within: [folder, top]}\nactions", "within: [folder]}\nactions"),
        ("within: [folder, top]}\nactions", "within: [top, folder]}\nactions"),
        ("within: [folder, top]}\nactions", "within: [folder, nothing]}\nactions"),
        ("within: [folder, top]}\nactions", "within: [folder, top, top]}\nactions"),
        ('top: {cedar: "Store::Top", fields: {top: "[a-z]+"}', 'top: {cedar: "Store::Top", fields: {top: "[a-c]+"}'),
        ('fields: {top: "[a-z]+"}}', 'fields: {top: "[a-z]+"}, within: [folder, top]}'),
        ('thing: {cedar: "Store::Thing", fields: {top: "[a-z]+", path: {segments: "[a-z]+"}}',
         'thing: {cedar: "Store::Thing", fields: {path: {segments: "[a-z]+"}}'),
        ('thing: {cedar: "Store::Thing", fields: {top: "[a-z]+",', 'thing: {cedar: "Store::Thing", fields: {'
         'top: {segments: "[a-z]+"},'),
        ("/append/{+path}", "/append/{path}"),
        ("/append/{+path}", "/add/{+path}"),
        ("/append/{+path}", "/append/more/{+path}"),
        ("/append/{+path}", "/append"),
        ("path: /top", "path: /read"),
        ("method: POST", "method: PUT"),
        ("derive: {top: {host: true}}}\n  things", "derive: {top: {constant: a}}}\n  things"),
        ("risk: write, ", "risk: write, idempotency_header: x-key, "),
        ("risk: write, ", "risk: write, body: form, "),
        ("risk: write, ", "risk: write, fixed: {query: {a: b}}, "),
        ("risk: write, ", "risk: write, fixed: {headers: {x-a-target: b}}, "),
        ("risk: write, ", "risk: write, content_type: application/demo+json, "),
        ("risk: write, ", "risk: write, fixed: {body: {text: b}}, "),
        ("risk: write, ", "risk: write, parameters: {x: {where: query}}, "),
        ("risk: write, ", "risk: write, parameters: {x: {where: body}}, "),
        ("risk: write, ", "risk: write, parameters: {text: {where: body, type: string_list}}, "),
    ],
)  # fmt: skip
def test_a_connector_of_files_that_is_none_of_its_operations_is_refused(replace: str, by: str) -> None:
    assert parse_connector(FILES.encode()).scheme == "file"
    assert replace in FILES
    with pytest.raises(MalformedCatalogue):
        parse_connector(FILES.replace(replace, by, 1).encode())


def test_a_resource_with_a_path_lies_in_every_shorter_path_and_has_one_spelling() -> None:
    resource = CATALOGUE.parse_resource("files:file/work/a/b c/ü.txt")
    assert resource.values == ("work", "a/b c/ü.txt")
    assert [(one.cedar, one.id) for one in resource.holders] == [
        ("Files::Directory", "work/a/b c"), ("Files::Directory", "work/a"), ("Files::Volume", "work"),
    ]  # fmt: skip
    assert CATALOGUE.parse_resource("files:volume/work").holders == ()
    for text in ("work", "work/", "work//a", "work/a/", "work/../a", "work/a/..", "work/./a", "work/%2e%2e/a",
                 "Work/a", "work/a\\b", "work/a\0b", "work/a?b", "work/．．/a", "../etc"):  # fmt: skip
        with pytest.raises(UnknownResource):
            CATALOGUE.parse_resource(f"files:file/{text}")
    assert CATALOGUE.parse_resource("files:file/work/" + "/".join("a" * 32))
    with pytest.raises(LimitExceeded, match="path_segments_max is 32"):
        CATALOGUE.parse_resource("files:file/work/" + "/".join("a" * 33))

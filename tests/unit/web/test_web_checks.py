"""What a site demands of a request, and what it says with every answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from starlette.datastructures import Headers

from nomos.errors import LimitExceeded, Malformed, Misconfigured, NotFound
from nomos_web.assets import Assets
from nomos_web.checks import CrossOrigin, WrongHost, check_host, check_same_origin, host_of
from nomos_web.csrf import check_token, form_token
from nomos_web.forms import parse_form
from nomos_web.headers import CONTENT_SECURITY_POLICY, security_headers
from nomos_web.server import Address, parse_address, tls_context
from nomos_web.site import status_of
from nomos_web.templates import Templates, marked

ORIGIN = "https://approve.example.test"


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode()) for name, value in pairs])


def test_the_policy_of_content_lets_nothing_in_but_our_own_files() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "form-action")} == {"'self'"}
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "strict-transport-security" in security_headers(https=True)
    assert "strict-transport-security" not in security_headers(https=False)


@pytest.mark.parametrize("hosts", [(), ("evil.example",), ("approve.example.test:444",), ("a.test", "a.test")])
def test_a_request_for_another_name_or_for_two_is_refused(hosts: tuple[str, ...]) -> None:
    with pytest.raises(WrongHost):
        check_host(headers(*(("host", host) for host in hosts)), {host_of(ORIGIN), "a.test"})


def test_a_request_for_our_name_is_taken() -> None:
    check_host(headers(("host", "Approve.example.test")), {host_of(ORIGIN)})
    check_same_origin(headers(("origin", ORIGIN)), {ORIGIN})
    check_same_origin(headers(("origin", ORIGIN), ("sec-fetch-site", "same-origin")), {ORIGIN})


@pytest.mark.parametrize(
    "given_headers",
    [
        (),
        (("origin", "null"),),
        (("origin", ORIGIN + ":444"),),
        (("origin", ORIGIN + "."),),
        (("origin", "http://approve.example.test"),),
        (("origin", ORIGIN), ("origin", ORIGIN)),
        (("origin", ORIGIN), ("sec-fetch-site", "same-site")),
        (("origin", ORIGIN), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")),
    ],
)
def test_a_form_that_no_page_of_ours_sent_is_refused(given_headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(CrossOrigin):
        check_same_origin(headers(*given_headers), {ORIGIN})


def test_a_token_is_for_one_browser_and_one_place() -> None:
    mine, yours = bytes(32), bytes([1]) * 32
    token = form_token(mine, "/a")
    check_token(token, mine, "/a")
    for given_token, secret, path in ((token, yours, "/a"), (token, mine, "/b"), ("", mine, "/a"), ("ä", mine, "/a")):
        with pytest.raises(CrossOrigin):
            check_token(given_token, secret, path)


@pytest.mark.parametrize("body", [b"a=1&a=2", b"c=1", b"a", b"a=%ff", b"a=1&b=2&c=3", b"\xff=1", b"a=1&&b"])
def test_a_form_with_other_fields_or_one_twice_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_form(body, ("a", "b"))


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=40)))
def test_a_form_comes_back_as_it_was_sent(fields: dict[str, str]) -> None:
    from urllib.parse import urlencode

    try:
        body = urlencode(fields).encode()
    except UnicodeEncodeError:
        return
    assert parse_form(body, ("a", "b")) == {"a": "", "b": ""} | fields


@given(st.binary(max_size=200))
def test_any_bytes_are_a_form_or_malformed(body: bytes) -> None:
    try:
        parse_form(body, ("a", "b"))
    except Malformed:
        return


def test_files_are_found_by_the_name_that_holds_their_hash_and_by_no_other() -> None:
    assets = Assets()
    for source in ("nomos.css", "passkey.js", "nomos.svg"):
        asset = assets[source]
        assert asset.name != source
        assert assets.response(asset.name).body == asset.content
        for name in (source, "../" + asset.name, asset.name.upper(), ""):
            with pytest.raises(NotFound):
                assets.response(name)


def test_the_script_writes_no_markup_and_evaluates_nothing() -> None:
    script = Assets()["passkey.js"].content.decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "fetch("):
        assert word not in script


def test_every_value_is_escaped_and_an_unknown_one_is_an_error() -> None:
    templates = Templates("nomos_web", Assets())
    page = templates.render("error.html", detail="<b>&\"'", hint="", code="x")
    assert "&lt;b&gt;&amp;&#34;&#39;" in page
    with pytest.raises(Exception, match="undefined"):
        templates.render("error.html", detail="x", code="x")


@given(st.text(max_size=60))
def test_marking_adds_no_markup_but_its_own(text: str) -> None:
    shown = marked(text)
    assert shown.replace("<mark>", "").replace("</mark>", "") == Markup.escape(text)


def test_written_out_characters_are_set_apart() -> None:
    assert marked("a⟨U+202E⟩<") == "a<mark>⟨U+202E⟩</mark>&lt;"


@pytest.mark.parametrize(
    ("listen", "cert", "key", "origins"),
    [
        ("0.0.0.0:8640", "", "", ("http://localhost:8640",)),
        ("127.0.0.1:8640", "", "", ("https://a.test",)),
        ("127.0.0.1:8640", "c", "k", ("http://localhost:8640",)),
        ("127.0.0.1:8640", "c", "k", ("https://a.test", "http://localhost:8640")),
        ("127.0.0.1:8640", "c", "", ("https://a.test",)),
        ("127.0.0.1", "", "", ("http://localhost",)),
        ("localhost:8640", "", "", ("http://localhost:8640",)),
        ("u@127.0.0.1:8640", "", "", ("http://localhost:8640",)),
        ("127.0.0.1:99999", "", "", ("http://localhost:8640",)),
        ("127.0.0.1:1/x", "", "", ("http://localhost:8640",)),
    ],
)
def test_plain_http_is_served_on_loopback_to_localhost_only(
    listen: str, cert: str, key: str, origins: tuple[str, ...]
) -> None:
    with pytest.raises(Misconfigured):
        parse_address(listen, cert=cert, key=key, origins=origins)


def test_addresses_that_may_be_served() -> None:
    plain = parse_address("[::1]:8640", cert="", key="", origins=("http://localhost:8640",))
    assert (plain.host, plain.port, plain.https) == ("::1", 8640, False)
    assert parse_address("0.0.0.0:443", cert="c", key="k", origins=(ORIGIN,)).https


def test_a_certificate_that_cannot_be_read_is_a_misconfiguration(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("no certificate")
    for cert in ("c", "missing"):
        with pytest.raises(Misconfigured):
            tls_context(Address(host="127.0.0.1", port=1, cert=str(tmp_path / cert), key=str(tmp_path / cert)))


def test_a_status_says_what_the_error_says() -> None:
    assert [status_of(e) for e in (NotFound(), CrossOrigin(), WrongHost(), LimitExceeded("x", 1), Malformed())] == [
        404, 403, 421, 413, 400,
    ]  # fmt: skip

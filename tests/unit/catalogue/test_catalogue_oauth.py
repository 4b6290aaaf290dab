"""How a connector file says that accounts are connected, and what the shipped ones say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.catalogue import load_catalogue
from nomos.catalogue.oauth import OWN_PARAMETERS, OAuthFile, build_oauth, check_scopes
from nomos.errors import MalformedCatalogue

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
GOOD: dict[str, Any] = {
    "authorize": "https://id.example.com/authorize", "token": "https://id.example.com:8443/oauth/token.v2/",
    "scopes": ["read", "https://scopes.example.com/files.readonly", "a:b"],
}  # fmt: skip


def built(**changes: Any) -> Any:
    return build_oauth(msgspec.convert(GOOD | changes, OAuthFile))


def test_an_endpoint_is_read_into_its_parts_and_written_back() -> None:
    oauth = built()
    assert (oauth.token.host, oauth.token.port, oauth.token.path) == ("id.example.com", 8443, "/oauth/token.v2/")
    assert str(oauth.token) == GOOD["token"]
    assert str(oauth.authorize) == GOOD["authorize"]
    assert built(token="https://id.example.com").token.path == "/"
    assert (oauth.revoke, oauth.push, oauth.client, oauth.separator) == (None, None, "basic", " ")


@pytest.mark.parametrize("name", ["authorize", "token", "revoke", "push"])
@pytest.mark.parametrize(
    "address",
    ["http://id.example.com/x", "https://id.example.com/x?y=1", "https://id.example.com/x#y", "https://u@id.example.com/",
     "https://127.0.0.1/x", "https://localhost/x", "https://ID.example.com/x", "https://id.example.com:0/x",
     "https://id.example.com:70000/x", "https://id.example.com/a b", "https://id.example.com/../x\\y",
     "//id.example.com",
     "https://id.example.com/%2e", " https://id.example.com/"],
)  # fmt: skip
def test_an_endpoint_is_https_a_name_and_a_path_and_no_more(name: str, address: str) -> None:
    with pytest.raises(MalformedCatalogue, match=name):
        built(**{name: address})


@pytest.mark.parametrize("name", sorted(OWN_PARAMETERS))
def test_a_file_cannot_set_what_the_proxy_sets(name: str) -> None:
    with pytest.raises(MalformedCatalogue, match="further parameter"):
        built(extra={name: "x"})


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"Prompt": "x"}},
        {"extra": {"prompt": ""}},
        {"extra": {"prompt": "x" * 201}},
        {"iss_sent": True},
        {"issuer": "http://id.example.com"},
        {"resource": "https://api.example.com?x"},
        {"account": "id_token"[:0] + "A.b"},
        {"account": "a..b"},
        {"refused": ["No Good"]},
        {"headers": ["x-version"]},
        {"body": "json", "client": "post"},
        {"revoked_as": "to ken"},
        {"error": "error.code"},
        {"keys": ["RS256", "RS256"]},
        {"revoked": "account"},
        {"revoked": "account", "account": "id_token.sub"},
        {"scopes": ["a b"]},
        {"scopes": ["a,b"]},
        {"scopes": ['a"b']},
        {"scopes": ["a", "a"]},
        {"scopes": [""]},
        {"scopes": [f"s{n}" for n in range(65)]},
    ],
)
def test_what_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedCatalogue):
        built(**changes)


def test_an_unknown_member_or_word_is_refused() -> None:
    for changes in (
        {"discovery": "x"},
        {"client": "tls"},
        {"separator": ";"},
        {"body": "xml"},
        {"actions": "some"},
        {"keys": ["HS256"]},
    ):
        with pytest.raises(msgspec.ValidationError):
            built(**changes)


def test_the_shipped_connectors_that_connect_accounts() -> None:
    able = {name: one.oauth for name, one in CATALOGUE.connectors.items() if one.oauth is not None}
    assert set(able) == {
        "discord", "github", "gmail", "google-calendar", "google-contacts", "google-docs", "google-drive",
        "google-sheets", "google-tasks", "jira", "linear", "notion", "slack", "stripe",
    }  # fmt: skip
    for name, oauth in able.items():
        check_scopes(oauth.scopes)
        assert oauth.scopes or name == "notion", name
        assert oauth.is_pkce or name == "notion", name
        # every endpoint is at a name of the provider itself
        domains = {".".join(e.host.split(".")[-2:]) for e in (oauth.authorize, oauth.token, oauth.revoke) if e}
        assert domains <= {
            "github.com", "slack.com", "google.com", "googleapis.com", "linear.app", "atlassian.com", "discord.com",
            "notion.com", "stripe.com",
        }  # fmt: skip
        if name.startswith(("google-", "gmail")):
            assert dict(oauth.extra) == {"access_type": "offline", "prompt": "consent"}, "else no refresh token comes"
            assert "openid" in oauth.scopes, "else no ID token says whose account it is"


def test_headers_of_the_connector_go_along_where_it_says_so_but_for_those_that_the_proxy_writes() -> None:
    headers = {"x-version": "2", "accept": "text/plain", "user-agent": "x"}
    file = msgspec.convert(GOOD | {"headers": ["x-version"]}, OAuthFile)
    assert build_oauth(file, headers).headers == (("x-version", "2"),)
    for wrong in (["accept"], ["user-agent"], ["x-other"], ["x-version", "x-version"]):
        with pytest.raises(MalformedCatalogue, match="headers"):
            build_oauth(msgspec.convert(GOOD | {"headers": wrong}, OAuthFile), headers)


def test_where_an_account_does_little_every_scope_that_an_action_names_can_be_asked_for() -> None:
    scoped = [one for one in CATALOGUE.connectors.values() if one.oauth is not None and one.oauth.is_scoped]
    assert [one.name for one in scoped] == ["discord"]
    for one in scoped:
        named = {scope for action in one.actions.values() for scope in action.scopes}
        assert one.oauth is not None
        assert named == set(one.oauth.scopes)

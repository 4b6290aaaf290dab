"""What a process keeps in memory of connections, and that nothing comes back of one that is gone."""

from __future__ import annotations

from nomos_proxy.keeping import Kept


def test_it_is_kept_by_tenant_and_name_and_the_last_one_stands() -> None:
    kept: Kept[str] = Kept()
    kept.keep("acme", "github", "one")
    kept.keep("beta", "github", "other")
    kept.keep("acme", "github", "two")
    assert (kept.find("acme", "github"), kept.find("beta", "github")) == ("two", "other")
    assert kept.find("acme", "slack") is None


def test_what_ends_after_its_connection_was_removed_is_not_kept() -> None:
    kept: Kept[str] = Kept()
    kept.keep("acme", "github", "one")
    kept.drop("acme", "github")
    kept.keep("acme", "github", "late")
    kept.keep("beta", "github", "other")
    assert (kept.find("acme", "github"), kept.find("beta", "github")) == (None, "other")


def test_what_ends_after_its_tenant_was_closed_is_not_kept() -> None:
    kept: Kept[str] = Kept()
    kept.keep("acme", "github", "one")
    kept.keep("beta", "github", "other")
    kept.drop("acme", "slack")
    kept.forget("acme")
    for name in ("github", "slack", "new"):
        kept.keep("acme", name, "late")
        assert kept.find("acme", name) is None
    assert kept.find("beta", "github") == "other"

"""Commands of other distributions: the one that a hint names is the one that has the command."""

from __future__ import annotations

from importlib.metadata import entry_points

from nomos.cli.plugins import DISTRIBUTIONS, PLUGINS


def test_a_command_that_is_not_installed_is_looked_for_in_the_distribution_that_has_it() -> None:
    found = {point.name.replace("-", " "): point.dist for point in entry_points(group="nomos.commands")}
    assert found.keys() == PLUGINS.keys()
    for name, distribution in found.items():
        assert distribution is not None
        assert DISTRIBUTIONS.get(name, "nomos-authz-runtime") == distribution.name, name

"""How a command is declared: its words, the options that all have, and the function that it runs.

A command's module is imported when the command runs, so that the command line starts fast. Which commands there are is
:mod:`nomos.cli.arguments`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

Command = Callable[[argparse.Namespace], int]
Group = argparse._SubParsersAction


class Words:
    """Adds commands to one parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.top: Group[argparse.ArgumentParser] = parser.add_subparsers(dest="command", metavar="COMMAND")
        #: Commands that have commands, by name.
        self.groups: dict[str, Group[argparse.ArgumentParser]] = {}

    def group(self, name: str, about: str) -> Group[argparse.ArgumentParser]:
        """A command that has commands."""
        sub = self.top.add_parser(name, help=about, description=about)
        self.groups[name] = sub.add_subparsers(dest=f"{name}_command", metavar="COMMAND", required=True)
        return self.groups[name]

    def add(
        self,
        name: str,
        about: str,
        run: Command | None,
        *,
        group: Group[argparse.ArgumentParser] | None = None,
        context: bool = True,
        tenant: bool = False,
    ) -> argparse.ArgumentParser:
        """A command. ``context`` and ``tenant`` give it these options."""
        sub = (group or self.top).add_parser(name, help=about, description=about)
        sub.add_argument("--json", action="store_true", help="one JSON document on standard output")
        if context:
            sub.add_argument("--context", metavar="FILE", help="context file of the installation")
        if tenant:
            sub.add_argument("--tenant", required=True, metavar="T")
        if run is not None:
            sub.set_defaults(run=run)
        return sub


def behind_the_verb() -> argparse.ArgumentParser:
    """The options of every command, for the verbs of a plug-in: they may stand before the verb or behind it."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    common.add_argument("--context", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return common


def lazy(module: str, function: str) -> Command:
    """The command ``function`` of ``nomos.cli.<module>``, imported when it runs."""

    def run(args: argparse.Namespace) -> int:
        command: Command = getattr(import_module(f"nomos.cli.{module}"), function)
        return command(args)

    return run

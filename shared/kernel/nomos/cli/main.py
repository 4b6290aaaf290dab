"""Parses the command line, runs one command, and turns errors into exit codes.

Commands that start servers (``up``, ``run``, ``demo``, ``bench``, ``doctor``) come from the distribution
``nomos-authz-runtime`` through the entry points ``nomos.commands``, and those that need the policy engine
(``replay``, ``policy explain``) from ``nomos-authz-policy``; an installation without them has all the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from nomos.cli.arguments import FAMILIES
from nomos.cli.output import Exit, error
from nomos.cli.plugins import DISTRIBUTIONS, PLUGINS, plugin_of
from nomos.cli.words import Command, Words
from nomos.errors import Malformed, Misconfigured, NomosError, Unavailable, UnknownOutcome


def _plugin(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Command]:
    from importlib.metadata import entry_points

    for point in entry_points(group="nomos.commands", name=name.replace(" ", "-")):
        module = point.load()
        return module.add_arguments, module.run
    distribution = DISTRIBUTIONS.get(name, "nomos-authz-runtime")
    raise Misconfigured(f"the command {name} is not installed", hint=f"install {distribution}")


def build_parser(plugin: str | None) -> argparse.ArgumentParser:
    """The parser. ``plugin`` is the plug-in command on this command line, whose arguments are then loaded."""
    parser = argparse.ArgumentParser(prog="nomos", description="authorization runtime for AI agents")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    words = Words(parser)
    for family in FAMILIES:
        family(words)
    for name, about in PLUGINS.items():
        group, _, word = name.rpartition(" ")
        sub = words.add(word, about, None, group=words.groups[group] if group else None)
        if name == plugin:
            add_arguments, run = _plugin(name)
            add_arguments(sub)
            sub.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    plugin = plugin_of(words)
    try:
        parser = build_parser(plugin)
        args = parser.parse_args(words)
        if args.version:
            from importlib.metadata import version

            print(version("nomos-authz"))
            return Exit.YES
        if args.command is None:
            parser.print_help()
            return Exit.USAGE
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left; there is nobody to tell.
        sys.stderr.close()
        return Exit.NO
    except (Misconfigured, Malformed) as e:
        error(e.detail, e.hint)
        return Exit.USAGE
    except (Unavailable, UnknownOutcome) as e:
        # The cause is for the operator, who is the one that reads this terminal.
        error(f"{e.code}: {e.detail}" + (f" ({e.cause})" if e.cause else ""), e.hint)
        return Exit.CANNOT_TELL
    except NomosError as e:
        error(f"{e.code}: {e.detail}", e.hint)
        return Exit.NO


if __name__ == "__main__":
    sys.exit(main())

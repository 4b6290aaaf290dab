"""Parses the command line, runs one command, and turns errors into exit codes.

Commands that start servers (``up``, ``run``, ``demo``, ``bench``, ``doctor``) come from the distribution
``nomos-authz-runtime`` through the entry points ``nomos.commands``; an installation without it has all the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from nomos.cli.output import Exit, error
from nomos.errors import Malformed, Misconfigured, NomosError, Unavailable, UnknownOutcome

Command = Callable[[argparse.Namespace], int]
#: Commands that live in other distributions: name -> help.
PLUGINS = {
    "up": "start everything on loopback, for development",
    "run": "run one service",
    "demo": "show the main job, step by step",
    "bench": "measure",
    "doctor": "check an installation",
}


def _plugin(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Command]:
    from importlib.metadata import entry_points

    for point in entry_points(group="nomos.commands", name=name):
        module = point.load()
        return module.add_arguments, module.run
    raise Misconfigured(f"the command {name} is not installed", hint="install nomos-authz-runtime")


def _lazy(module: str, function: str) -> Command:
    def run(args: argparse.Namespace) -> int:
        from importlib import import_module

        command: Command = getattr(import_module(f"nomos.cli.{module}"), function)
        return command(args)

    return run


def build_parser(plugin: str | None) -> argparse.ArgumentParser:
    """The parser. ``plugin`` is the plug-in command on this command line, whose arguments are then loaded."""
    parser = argparse.ArgumentParser(prog="nomos", description="authorization runtime for AI agents")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(group: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, run: Command | None,
            context: bool = True) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=about, description=about)
        sub.add_argument("--json", action="store_true", help="one JSON document on standard output")
        if context:
            sub.add_argument("--context", metavar="FILE", help="context file of the installation")
        if run is not None:
            sub.set_defaults(run=run)
        return sub

    def group(name: str, about: str) -> argparse._SubParsersAction[argparse.ArgumentParser]:
        sub = commands.add_parser(name, help=about, description=about)
        return sub.add_subparsers(dest=f"{name}_command", metavar="COMMAND", required=True)

    tenant = group("tenant", "tenants")
    add(tenant, "create", "create a tenant", _lazy("admin", "tenant_create")).add_argument("name")
    add(tenant, "list", "list tenants", _lazy("admin", "tenant_list"))

    app = group("app", "apps of a tenant")
    sub = add(app, "create", "create an app", _lazy("admin", "app_create"))
    sub.add_argument("name")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--env", choices=("live", "test"), default="test")

    agent = group("agent", "agents of an app")
    sub = add(agent, "create", "create an agent and write its credentials", _lazy("admin", "agent_create"))
    sub.add_argument("name")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--app", required=True)
    sub.add_argument("--creds", required=True, metavar="FILE", help="where to write; must not exist")

    auditor = group("auditor", "auditors of a tenant")
    sub = add(auditor, "create", "create an auditor and write its credentials", _lazy("admin", "auditor_create"))
    sub.add_argument("name")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--creds", required=True, metavar="FILE", help="where to write; must not exist")

    key = group("key", "bus keys")
    sub = add(key, "list", "list the keys of a tenant", _lazy("admin", "key_list"))
    sub.add_argument("--tenant", required=True)
    sub = add(key, "revoke", "revoke a key; its holder is disconnected at once", _lazy("admin", "key_revoke"))
    sub.add_argument("key")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--why", default="")

    policy = group("policy", "policy sets of a tenant")
    sub = add(policy, "put", "validate a policy set and put it in force", _lazy("admin", "policy_put"))
    sub.add_argument("file")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--why", default="")
    for name, about in (("list", "list the policies in force"), ("show", "print the policy set in force"),
                        ("history", "list the revisions")):
        sub = add(policy, name, about, _lazy("admin", f"policy_{name}"))
        sub.add_argument("--tenant", required=True)
        if name == "show":
            sub.add_argument("--revision", type=int, default=0)

    connection = group("connection", "connections to upstreams")
    sub = add(connection, "add", "store a bearer, sealed", _lazy("admin", "connection_add"))
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--connector", required=True)
    sub.add_argument("--name", required=True)
    sub.add_argument("--token-file", required=True, metavar="FILE")
    sub.add_argument("--base-url", default="", help="development only: another origin than the connector's")
    sub = add(connection, "list", "list connections", _lazy("admin", "connection_list"))
    sub.add_argument("--tenant", required=True)

    for name, about in (("authorize", "ask for a decision"), ("call", "authorize, invoke, print the body")):
        sub = add(commands, name, about, _lazy("agent", name), context=False)
        sub.add_argument("action")
        sub.add_argument("resource")
        sub.add_argument("--creds", required=True, metavar="FILE")
        sub.add_argument("--args", default="{}", metavar="JSON")
        sub.add_argument("--connection", default="", metavar="NAME")
        sub.add_argument("--cosigner", metavar="FILE", help="cosigner delegation of an approved step-up")
        sub.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
        if name == "call":
            sub.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait for a human")

    approver = group("approver", "people who approve")
    sub = add(approver, "add", "add an approver", _lazy("approvals", "approver_add"))
    sub.add_argument("name")
    sub.add_argument("--tenant", required=True)
    sub.add_argument("--software-passkey", metavar="FILE", help="development only: enrol a software passkey")
    sub = add(commands, "approvals", "list what waits for a human", _lazy("approvals", "approvals"))
    sub.add_argument("--tenant", required=True)
    for name, about in (("approve", "approve with a passkey"), ("cancel", "take a request for approval back")):
        sub = add(commands, name, about, _lazy("approvals", name))
        sub.add_argument("id")
        sub.add_argument("--tenant", default="")
        if name == "approve":
            sub.add_argument("--software-passkey", required=True, metavar="FILE", help="development only")
            sub.add_argument("--out", metavar="FILE", help="write the cosigner delegation here")
        else:
            sub.add_argument("--why", default="")

    audit = group("audit", "the log")
    sub = add(audit, "tail", "print records as they come, verifying the chain", _lazy("audit", "tail"))
    sub.add_argument("--tenant", default="")
    sub.add_argument("--auditor-creds", metavar="FILE")
    sub.add_argument("--from", dest="from_tseq", type=int, default=0, metavar="TSEQ")
    sub.add_argument("--follow", action="store_true", help="go on until interrupted")
    sub = add(audit, "export", "export the log, or one tenant's records, to files", _lazy("audit", "export"))
    sub.add_argument("--tenant", default="")
    sub.add_argument("--out", required=True, metavar="DIR")

    sub = add(commands, "verify", "verify an export offline", _lazy("verify", "verify"), context=False)
    sub.add_argument("dir")
    sub.add_argument("--trust", required=True, metavar="FILE")
    sub.add_argument("--level", type=int, choices=(0, 1, 2), default=1)
    sub.add_argument("--tenant", default="", help="demand the bundle of this tenant instead of the whole log")
    sub.add_argument("--strict", action="store_true", help="warnings are failures")
    sub.add_argument("--workers", type=int, default=1, help="processes that verify row groups")

    sub = add(commands, "inspect", "show a token for people", _lazy("inspect", "inspect"), context=False)
    sub.add_argument("token", help="the token, a file that holds it, or - for standard input")
    sub = add(commands, "help", "explain a topic", _lazy("help", "help_topic"), context=False)
    sub.add_argument("topic", nargs="?", default="")

    for name, about in PLUGINS.items():
        sub = add(commands, name, about, None)
        if name == plugin:
            add_arguments, run = _plugin(name)
            add_arguments(sub)
            sub.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    plugin = words[0] if words and words[0] in PLUGINS else None
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
        error(f"{e.code}: {e.detail}", e.hint)
        return Exit.CANNOT_TELL
    except NomosError as e:
        error(f"{e.code}: {e.detail}", e.hint)
        return Exit.NO


if __name__ == "__main__":
    sys.exit(main())

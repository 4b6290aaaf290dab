"""``nomos notify add|list|remove|test``: channels that are told when somebody must approve."""

from __future__ import annotations

from argparse import Namespace

from nomos.cli.admin import ask
from nomos.cli.output import Exit, result, say
from nomos.errors import Misconfigured


def notify_add(args: Namespace) -> int:
    """``nomos notify add --tenant T NAME --webhook URL | --slack URL | --email ADDRESS``."""
    given = [(kind, to) for kind in ("webhook", "slack", "email") if (to := getattr(args, kind)) is not None]
    if len(given) != 1:
        raise Misconfigured("name one of --webhook URL, --slack URL and --email ADDRESS")
    kind, to = given[0]
    sent = {"channel": args.name, "kind": kind, "to": to, "group": args.group, "after": args.after}
    made = ask(args, "stepup", "notify-add", args.tenant, **sent)
    lines = [f"channel {made['channel']} of {args.tenant} is told when somebody must approve ({made['kind']})"]
    if made["secret"]:
        lines += [f"  secret  {made['secret']}", "  it signs what the hook gets, and is shown once"]
    result(args, "notify add", made, lines)
    return Exit.YES


def notify_list(args: Namespace) -> int:
    """``nomos notify list --tenant T``."""
    found = ask(args, "stepup", "notify-list", args.tenant)
    lines = [
        f"{one['channel']:<24} {one['kind']:<8} {one['group'] or 'everything'}"
        + (f", after {one['after']} s" if one["after"] else "")
        for one in found["channels"]
    ]
    result(args, "notify list", found, lines)
    return Exit.YES


def notify_remove(args: Namespace) -> int:
    """``nomos notify remove --tenant T NAME``."""
    done = ask(args, "stepup", "notify-remove", args.tenant, channel=args.name)
    result(args, "notify remove", done, [f"channel {done['channel']} of {args.tenant} is removed"])
    return Exit.YES


def notify_test(args: Namespace) -> int:
    """``nomos notify test --tenant T NAME``: exit 3 where the channel did not take it."""
    say("nomos: a request that nobody made is told")
    done = ask(args, "stepup", "notify-test", args.tenant, timeout_ms=30_000, channel=args.name)
    result(args, "notify test", done, [f"channel {done['channel']} took it"])
    return Exit.YES

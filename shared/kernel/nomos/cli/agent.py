"""The agent's commands: ``authorize`` and ``call``."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from nomos.agent import Agent, Allowed, Decision, Denied, StepUpRequired, Streaming
from nomos.cli.admin import parse_args_json
from nomos.cli.output import Exit, document, say
from nomos.errors import Misconfigured
from nomos.uploading import Upload, separated

#: How the connectors that come with Nomos name what is uploaded.
UPLOAD_NAME: Final = "upload"
_NAMED_FILE: Final = re.compile(r"([a-z][a-z0-9_]{0,39})=(.+)", re.DOTALL)


def authorize(args: Namespace) -> int:
    """``nomos authorize``: exit 0 allow, 1 deny, 4 step-up."""
    given, cosigner = _given(args), _cosigner(args.cosigner)

    async def ask(agent: Agent) -> Decision:
        return await agent.authorize(
            args.action,
            args.resource,
            given,
            connection=args.connection,
            cosigner=cosigner,
            timeout_ms=int(args.timeout * 1000),
        )

    return _show(args, "authorize", _run(args.creds, ask))


def call(args: Namespace) -> int:
    """``nomos call``: the body on standard output, what was removed and noted on standard error."""
    if args.dry_run:
        return _dry_run(args)
    if args.creds is None:
        raise Misconfigured("a call needs --creds FILE", hint="--dry-run prints the request without it")
    asked: dict[str, Any] = {
        "action": args.action,
        "resource": args.resource,
        "args": _given(args),
        "connection": args.connection,
        "cosigner": _cosigner(args.cosigner),
        "wait_seconds": args.wait,
        "timeout_ms": int(args.timeout * 1000),
    }
    if not args.stream:
        return _show(args, "call", _run(args.creds, lambda agent: agent.call(**asked)))
    if args.json:
        raise Misconfigured(
            "--stream prints the answer as it comes, not a document", hint="leave --json or --stream out"
        )
    return _show(args, "call", _run(args.creds, lambda agent: _streamed(agent, asked)))


async def _streamed(agent: Agent, asked: dict[str, Any]) -> Decision:
    """Prints the pieces while they come; gives what there is to say at the end."""
    async with agent.stream(**asked) as answer:
        if not isinstance(answer, Streaming):
            return answer
        async for piece in answer:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return answer.done()


def _dry_run(args: Namespace) -> int:
    """The request that would be sent, from the catalogue on this machine; nothing is asked and nothing sent."""
    from nomos.cli.main import main

    given = json.dumps(separated(_given(args))[0])
    words = ["connector", "try", args.action, args.resource, "--args", given, "--connectors", args.connectors]
    return main([*words, "--json"] if args.json else words)


def _given(args: Namespace) -> dict[str, object]:
    """The arguments, and the file among them."""
    given = parse_args_json(args.args)
    if args.upload is None:
        return given
    named = _NAMED_FILE.fullmatch(args.upload)
    name, path = (named[1], named[2]) if named else (UPLOAD_NAME, args.upload)
    if name in given:
        raise Misconfigured(f"the argument {name} stands in --args and in --upload")
    return {**given, name: Upload.of_file(path, args.media_type)}


def _run(creds: str, ask: Callable[[Agent], Awaitable[Decision]]) -> Decision:
    async def run() -> Decision:
        async with Agent.connect(creds) as agent:
            return await ask(agent)

    return asyncio.run(run())


def _cosigner(path: str | None) -> bytes | None:
    if path is None:
        return None
    from nomos.ucan.inspect import parse_token_text

    try:
        return parse_token_text(Path(path).read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as e:
        raise Misconfigured(f"cosigner file {path} cannot be read") from e


def _show(args: Namespace, command: str, decision: Decision) -> int:
    policies = [{"id": p.id, "description": p.description} for p in decision.policies]
    members: dict[str, object] = {"decision": decision.decision, "policies": policies}
    match decision:
        case Allowed():
            members |= {
                "outcome": "allow",
                "expires_at": decision.expires_at,
                "delegation": base64.urlsafe_b64encode(decision.delegation).rstrip(b"=").decode(),
            }
            if command == "call":
                members |= {
                    "status": decision.status,
                    "headers": decision.headers,
                    "removed": decision.removed,
                    "noted": decision.noted,
                    "next_args": decision.next_args,
                    "body": decision.body.decode("utf-8", "replace"),
                }
            code = Exit.YES
        case Denied():
            members |= {"outcome": "deny", "reason": decision.reason}
            code = Exit.NO
        case StepUpRequired():
            members |= {
                "outcome": "step_up",
                "approval": decision.approval,
                "url": decision.url,
                "expires_at": decision.expires_at,
            }
            code = Exit.HUMAN_FIRST
    if args.json:
        print(document(command, members))
    else:
        _talk(command, decision)
    return code


def _talk(command: str, decision: Decision) -> None:
    named = [f"  {p.id}: {p.description}" if p.description else f"  {p.id}" for p in decision.policies]
    match decision:
        case Allowed() if command == "call":
            say(f"allowed, upstream answered {decision.status}")
            for word, lines in (("removed", decision.removed), ("noted", decision.noted)):
                for found in lines:
                    say(f"  {word} " + ", ".join(f"{k} {v}" for k, v in found.items()))
            sys.stdout.buffer.write(decision.body)
            if decision.body and not decision.body.endswith(b"\n"):
                sys.stdout.buffer.write(b"\n")
            sys.stdout.buffer.flush()
            if decision.next_args is not None:
                say(f"  there is a next page: --args {shlex.quote(json.dumps(decision.next_args))}")
        case Allowed():
            print(base64.urlsafe_b64encode(decision.delegation).rstrip(b"=").decode())
            say("allowed, until " + str(decision.expires_at))
            for line in named:
                say(line)
        case Denied():
            say(f"denied: {decision.reason}")
            for line in named:
                say(line)
        case StepUpRequired():
            print(decision.approval)
            say("a human must approve first" + (f": {decision.url}" if decision.url else ""))
            for line in named:
                say(line)

"""``nomos doctor``: looks at an installation from outside and says what is wrong with it.

Decides nothing for the services: each says itself, by its verb ``ready``, whether it can keep its promise (bus,
journal, freshness of facts). What no service says is looked at here: the context's files, the trust file against the
log's own key, whether stores answer, the streams' configuration and how full they are.

Exit 0: nothing is wrong (warnings do not count); 1: something is; 3: something could not be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from nomos.cli.context import Context, load_context
from nomos.cli.output import Exit, document
from nomos.client import Connection
from nomos.errors import Malformed, NomosError, NotPermitted, Unavailable
from nomos.log.checkpoint import open_checkpoint
from nomos.log.trust import NO_QUORUM, TrustPolicy, parse_trust
from nomos.operator import Operator
from nomos_runtime.topology import SERVICES, STREAMS, Stream

ASK_MS: Final = 5_000
CONNECT_SECONDS: Final = 5
#: How long the servers of a cluster have for their figures.
FIGURES_SECONDS: Final = 2.0
#: A stream that refuses when it is full stops decisions then; so it is said early.
FILL_WARNING: Final = 0.75
FILL_FAILURE: Final = 0.95
#: What a context's folder may hold that only its owner may read.
PRIVATE_FOLDERS: Final = ("bus", "secrets")
OBSERVER: Final = "observer"
#: A verb of each service that reads its store for one tenant, and changes nothing.
STORE_VERBS: Final = {"identity": "key-list", "policy": "history", "audit": "read"}
_OTHERS: Final = 0o077
_MARK: Final = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "unknown": "?   "}


class State(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. ``hint`` says what to do, where something is to be done."""

    name: str
    state: State
    detail: str
    hint: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``doctor``."""
    parser.add_argument(
        "--observer-creds", metavar="FILE", help="reads the streams' figures; found beside the context by default"
    )


def run(args: argparse.Namespace) -> int:
    """Looks at everything and prints a table."""
    context = load_context(args)
    folder = Path(context.operator_creds).parent
    observer = Path(args.observer_creds) if args.observer_creds else folder / "bus" / "creds" / f"{OBSERVER}.creds"
    running = asyncio.run(_check_running(context, observer if observer.is_file() else None))
    checks = [*check_files(context, folder), *running]
    states = {c.state for c in checks}
    code = Exit.NO if State.FAILED in states else Exit.CANNOT_TELL if State.UNKNOWN in states else Exit.YES
    verdict = {Exit.YES: "healthy", Exit.NO: "failing", Exit.CANNOT_TELL: "cannot tell"}[code]
    if args.json:
        print(document("doctor", {"verdict": verdict, "checks": [msgspec.to_builtins(c) for c in checks]}))
        return code
    width = max(len(c.name) for c in checks)
    for check in checks:
        print(f"{_MARK[check.state]}  {check.name:<{width}}  {check.detail}")
        if check.hint and check.state is not State.OK:
            print(f"      {'':<{width}}  -> {check.hint}")
    print(verdict)
    return code


def check_files(context: Context, folder: Path) -> Iterator[Check]:
    """Modes of the secret files that are here, and the trust file."""
    if not Path(context.operator_creds).is_file():
        yield Check(name="operator credentials", state=State.FAILED, detail=f"no file {context.operator_creds}")
    secret = [Path(context.operator_creds), *(p for name in PRIVATE_FOLDERS for p in (folder / name).rglob("*"))]
    here = [p for p in secret if p.exists()]
    if open_ones := [p for p in here if p.stat().st_mode & _OTHERS]:
        shown = ", ".join(str(p.relative_to(folder)) for p in open_ones[:3])
        yield Check(name="secret files", state=State.FAILED, hint="chmod go= them, and replace what others have read",
                    detail=f"{len(open_ones)} of {len(here)} can be read by others: {shown}")  # fmt: skip
    else:
        yield Check(name="secret files", state=State.OK, detail=f"{len(here)}, for their owner only")
    if context.environment != "production":
        yield Check(name="environment", state=State.WARNING, hint="never for real credentials",
                    detail=f"{context.environment}: all keys lie on one machine")  # fmt: skip
    yield _check_trust(context)


def _check_trust(context: Context) -> Check:
    try:
        trust = _trust(context)
    except OSError as e:
        return Check(name="trust file", state=State.FAILED, detail=f"{context.trust} cannot be read: {e.strerror}")
    except Malformed as e:
        return Check(name="trust file", state=State.FAILED, detail=e.detail)
    if context.origin not in trust.origins():
        return Check(name="trust file", state=State.FAILED, detail=f"it has no key of the log {context.origin}")
    if trust.quorum == NO_QUORUM:
        return Check(name="trust file", state=State.WARNING, detail="it demands no witness",
                     hint="a log without witnesses can show two histories to two auditors")  # fmt: skip
    return Check(name="trust file", state=State.OK, detail=f"quorum {trust.quorum}")


def _trust(context: Context) -> TrustPolicy:
    return parse_trust(Path(context.trust).read_bytes())


async def _check_running(context: Context, observer: Path | None) -> list[Check]:
    began = time.perf_counter()
    try:
        connection = await asyncio.wait_for(
            Connection.open(context.operator_creds, url=context.bus_url), 2 * CONNECT_SECONDS
        )
    except NotPermitted as e:
        return [Check(name="bus", state=State.FAILED, detail=e.detail, hint=e.hint)]
    except TimeoutError:
        return [Check(name="bus", state=State.UNKNOWN, detail=f"{context.bus_url} does not answer")]
    except NomosError as e:
        return [Check(name="bus", state=State.UNKNOWN, detail=f"{context.bus_url}: {e.detail}", hint=e.hint)]
    took_ms = (time.perf_counter() - began) * 1000
    checks = [Check(name="bus", state=State.OK, detail=f"{context.bus_url}, connected in {took_ms:.0f} ms")]
    async with Operator(connection) as operator:
        checks += await asyncio.gather(*(_check_service(operator, name) for name in SERVICES))
        checks += await _check_stores(operator)
        checks.append(await _check_log(operator, context))
    return checks + await _check_streams(context, observer)


async def _check_service(operator: Operator, service: str) -> Check:
    name = f"service {service}"
    try:
        reply = await operator.ask(service, "ready", timeout_ms=ASK_MS)
    except Unavailable as e:
        return Check(name=name, state=State.FAILED, detail=e.detail, hint=f"nomos run {service}; its own diagnostics")
    except NomosError as e:
        return Check(name=name, state=State.FAILED, detail=f"{e.code}: {e.detail}", hint=e.hint)
    faults = reply.get("faults")
    if not isinstance(faults, list):
        return Check(name=name, state=State.UNKNOWN, detail="its answer names no faults")
    if faults:
        return Check(name=name, state=State.FAILED, detail="; ".join(str(f) for f in faults))
    return Check(name=name, state=State.OK, detail="ready")


async def _check_stores(operator: Operator) -> list[Check]:
    """Reads something small from the store of each service that has a verb for it."""
    try:
        tenants = (await operator.ask("identity", "tenant-list", timeout_ms=ASK_MS)).get("tenants")
    except NomosError as e:
        return [Check(name="stores", state=State.UNKNOWN, detail=f"not looked at: {e.detail}")]
    if not isinstance(tenants, list) or not tenants:
        return [Check(name="stores", state=State.WARNING, detail="not looked at: there is no tenant yet")]
    tenant = str(tenants[0]["tenant"])
    return list(await asyncio.gather(*(_check_store(operator, s, verb, tenant) for s, verb in STORE_VERBS.items())))


async def _check_store(operator: Operator, service: str, verb: str, tenant: str) -> Check:
    name = f"store {service}"
    try:
        await operator.ask(service, verb, tenant, timeout_ms=ASK_MS)
    except NomosError as e:
        return Check(name=name, state=State.FAILED, detail=f"{e.code}: {e.detail}", hint=e.hint)
    return Check(name=name, state=State.OK, detail="answers")


async def _check_log(operator: Operator, context: Context) -> Check:
    """Lets the log be signed now, and compares the key with the trust file."""
    try:
        note = str((await operator.ask("audit", "checkpoint", timeout_ms=ASK_MS)).get("checkpoint")).encode()
        trust = _trust(context)
        opened = open_checkpoint(note, trust.log_keys(), trust.witnesses)
    except NotPermitted as e:
        return Check(name="log", state=State.WARNING, detail=e.detail, hint="a standby answered; ask again")
    except (Unavailable, OSError) as e:
        return Check(name="log", state=State.UNKNOWN, detail=getattr(e, "detail", str(e)))
    except NomosError as e:
        return Check(name="log", state=State.FAILED, detail=f"{e.code}: {e.detail}", hint=e.hint)
    if opened.checkpoint.origin != context.origin:
        return Check(name="log", state=State.FAILED, detail=f"it signs as {opened.checkpoint.origin}")
    if not any(trust.may_sign(key, opened.checkpoint.size) for key in opened.keys):
        return Check(name="log", state=State.FAILED, detail="the key that signs may not speak for this size")
    return Check(name="log", state=State.OK, detail=f"{opened.checkpoint.size} records, signed by the trusted key")


async def _check_streams(context: Context, observer: Path | None) -> list[Check]:
    if observer is None:
        return [Check(name="streams", state=State.WARNING, detail="not looked at: no observer credentials here",
                      hint="--observer-creds FILE")]  # fmt: skip
    try:
        client = await nats.connect(
            context.bus_url,
            user_credentials=str(observer),
            inbox_prefix=f"_INBOX.{OBSERVER}".encode(),
            connect_timeout=CONNECT_SECONDS,
            allow_reconnect=False,
        )
    except (nats.errors.Error, OSError, TimeoutError, ValueError) as e:
        return [Check(name="streams", state=State.UNKNOWN, detail=f"the observer cannot connect: {e!r}"[:120])]
    try:
        figures = await _figures(client)
    finally:
        await client.close()
    if not figures:
        return [Check(name="streams", state=State.UNKNOWN, detail="no server tells its figures")]
    found: dict[str, dict[str, Any]] = {}
    for server in figures:
        for account in server.get("account_details") or []:
            for stream in account.get("stream_detail") or []:
                found.setdefault(stream["name"], stream)
    synced = all(server.get("config", {}).get("sync_always") for server in figures)
    return [judge_stream(stream, found.get(stream.name), synced=synced) for stream in STREAMS]


async def _figures(client: Client) -> list[dict[str, Any]]:
    """JetStream's figures, of each server that answers in time."""
    answers: list[dict[str, Any]] = []

    async def take(message: Msg) -> None:
        try:
            answers.append(json.loads(message.data)["data"])
        except (ValueError, KeyError, TypeError):
            return

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take)
    asked = {"accounts": True, "streams": True, "config": True}
    await client.publish("$SYS.REQ.SERVER.PING.JSZ", json.dumps(asked).encode(), reply=inbox)
    end = asyncio.get_running_loop().time() + FIGURES_SECONDS
    seen = -1
    # The number of servers is not known: those that answer do so together.
    while asyncio.get_running_loop().time() < end and (not answers or len(answers) != seen):
        seen = len(answers)
        await asyncio.sleep(FIGURES_SECONDS / 10)
    return answers


def judge_stream(stream: Stream, found: dict[str, Any] | None, *, synced: bool) -> Check:
    """Whether a stream is what the topology says, and has room.

    Args:
        stream: as the topology has it.
        found: the server's own description (``config`` and ``state``); None where it has none.
        synced: whether every server writes through to disk before it acknowledges.
    """
    name = f"stream {stream.name}"
    if found is None:
        return Check(name=name, state=State.FAILED, detail="it is not there", hint="run the provisioning")
    config, bytes_now = found["config"], int(found["state"]["bytes"])
    if config.get("discard") != stream.discard or config.get("storage") != "file":
        return Check(name=name, state=State.FAILED, detail="it drops or forgets what it must keep: wrong configuration")
    if stream.keep_forever and not (config.get("deny_delete") and config.get("deny_purge")):
        return Check(name=name, state=State.FAILED, detail="its messages can be deleted or purged")
    if not synced and int(config.get("num_replicas", 1)) == 1:
        return Check(name=name, state=State.FAILED, detail="one copy, and acknowledged before it is on disk",
                     hint="jetstream { sync_interval: always }")  # fmt: skip
    bytes_max = int(config.get("max_bytes", -1))
    if bytes_max <= 0:
        return Check(name=name, state=State.FAILED, detail="it has no bound")
    fill = bytes_now / bytes_max
    said = f"{found['state']['messages']} messages, {fill:.1%} of {bytes_max >> 20} MiB"
    if stream.discard == "new" and fill >= FILL_WARNING:
        state = State.FAILED if fill >= FILL_FAILURE else State.WARNING
        return Check(name=name, state=state, detail=said, hint="when it is full, every answer is deny: raise its bound")
    return Check(name=name, state=State.OK, detail=said)

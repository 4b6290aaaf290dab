"""``nomos up``: everything on loopback, for development. Real servers, real keys, no safety of production."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Final

import uvloop

from nomos.cli.context import POINTER, state_folder
from nomos.cli.output import Exit, say
from nomos_runtime.launch import Service, ServiceProcess, run_together
from nomos_runtime.local import BUCKET, SERVICES, Local, wipe, write_public

DATA: Final = ".nomos"
#: Seconds between two looks at the children.
WATCH_SECONDS: Final = 0.2
PORT_MAX: Final = 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``up``."""
    parser.add_argument("--data", metavar="DIR", default=DATA, help=f"where everything is kept (default {DATA})")
    parser.add_argument("--fresh", action="store_true", help="remove what is there first")
    parser.add_argument("--processes", action="store_true", help="one process for each service")
    parser.add_argument("--ready-file", metavar="FILE", help="written with the endpoints when everything serves")
    parser.add_argument("--capture", metavar="FILE", help="record every byte on the bus here")
    parser.add_argument("--connectors", metavar="DIR", default="connectors", help="the connector catalogue")
    parser.add_argument(
        "--pages-port",
        type=_port,
        default=0,
        metavar="PORT",
        help="port of the approval pages (default: a free one, kept)",
    )
    parser.add_argument("--archive", action="store_true", help="archive each sealed day to an S3 store of its own")
    parser.add_argument(
        "--files", metavar="DIR", help="give agents' files the volume work, a folder for each tenant here"
    )
    parser.add_argument("--witnesses", metavar="FILE", help="a trust policy; its witnesses are asked to cosign the log")


def _port(text: str) -> int:
    """A TCP port, or 0."""
    if not text.isascii() or not text.isdigit() or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"expected 0 to {PORT_MAX}, got {text!a}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    return uvloop.run(_up(args))


async def _up(args: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    data = Path(args.data)
    if args.fresh:
        wipe(data)
    local = Local(
        data,
        connectors=Path(args.connectors),
        archive=args.archive,
        files=Path(args.files) if args.files else None,
        witnesses=Path(args.witnesses) if args.witnesses else None,
        pages_port=args.pages_port,
    )
    say("nomos: development installation on loopback; its keys lie in " + str(local.directory))
    await local.start(Path(args.capture) if args.capture else None)
    services: list[Service] = []
    processes: list[ServiceProcess] = []
    try:
        environments = {name: local.environment(name) for name in SERVICES}
        if args.processes:
            folder = local.directory / "run"
            folder.mkdir(mode=0o700, exist_ok=True)
            processes = [ServiceProcess(name, env, folder) for name, env in environments.items()]
            await asyncio.gather(*(p.wait() for p in processes))
        else:
            services = await run_together(environments)
        await local.name_operator()
        _announce(args, local, processes)
        ended = await _watch(stop, processes)
    finally:
        (state_folder() / POINTER).unlink(missing_ok=True)
        await asyncio.gather(*(s.stop() for s in services), *(p.stop() for p in processes))
        local.stop()
    return Exit.NO if ended else Exit.YES


def _announce(args: argparse.Namespace, local: Local, processes: list[ServiceProcess]) -> None:
    endpoints = {
        "schema": "nomos.up/1",
        "bus_url": local.bus_url,
        "context": str(local.context),
        "operator_creds": str(local.operator_creds),
        "trust": str(local.trust),
        "pages": local.pages_origin,
        "policy_pages": local.policy_pages_origin,
        "connect_pages": local.connect_pages_origin,
        "pid": os.getpid(),
        "nats_pid": local.nats.pid,
        "postgres_pid": local.postgres.pid,
        "archive": None if local.seaweed is None else f"{local.seaweed.endpoint}/{BUCKET}",
        "processes": {p.label: p.pid for p in processes},
    }
    pointer = state_folder() / POINTER
    pointer.parent.mkdir(parents=True, exist_ok=True)
    write_public(pointer, json.dumps({"context": str(local.context), "pid": os.getpid()}))
    if args.ready_file:
        write_public(Path(args.ready_file), json.dumps(endpoints))
    if args.json:
        print(json.dumps(endpoints), flush=True)
    say(f"nomos: approval pages on {local.pages_origin}")
    say(f"nomos: policies on {local.policy_pages_origin}, for operators with a passkey (nomos operator passkey)")
    say(f"nomos: accounts are connected on {local.connect_pages_origin} (nomos connection connect)")
    say(f"nomos: ready, bus on {local.bus_url}; context {local.context}")


async def _watch(stop: asyncio.Event, processes: list[ServiceProcess]) -> bool:
    """Waits for the end; True when a service ended by itself."""
    while not stop.is_set():
        for process in processes:
            if not process.running:
                say(f"nomos: error: {process.label} ended; its log: {process.log}")
                return True
        try:
            await asyncio.wait_for(stop.wait(), WATCH_SECONDS)
        except TimeoutError:
            continue
    return False

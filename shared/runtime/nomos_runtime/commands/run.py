"""``nomos run SERVICE``: one service, from its environment. What production runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

import uvloop

from nomos.cli.output import Exit, error
from nomos.errors import NomosError
from nomos_runtime.launch import build
from nomos_runtime.local import write_public


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``run``."""
    parser.add_argument("service")
    parser.add_argument("--ready-file", metavar="FILE", help="written when the service serves")


def run(args: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    return uvloop.run(_run(args.service, args.ready_file))


async def _run(name: str, ready_file: str | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = build(name, os.environ)
    try:
        await service.start()
    except NomosError as e:
        error(f"{name}: {e.detail}" + (f" ({e.cause})" if e.cause else ""), e.hint)
        await service.stop()
        return Exit.CANNOT_TELL
    if ready_file:
        write_public(Path(ready_file), str(os.getpid()))
    await stop.wait()
    await service.stop()
    return Exit.YES

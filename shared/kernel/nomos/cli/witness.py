"""``nomos witness``: a witness of logs in one command. It needs no installation, no bus and no database.

``keygen`` makes a key; ``run`` serves ``add-checkpoint`` (c2sp.org/tlog-witness) until it is told to stop. On loopback
it speaks plain HTTP; elsewhere it needs a certificate, and speaks TLS 1.3 only.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import signal
import ssl
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from nomos.cli.output import Exit, result, say
from nomos.errors import Misconfigured
from nomos.log.checkpoint import WitnessSigner
from nomos.log.note import KeyKind, VerifierKey, parse_vkey
from nomos.loopback import is_loopback
from nomos.witness.server import Witness, serve
from nomos.witness.store import Remembered

SEED_BYTES = 32


def keygen(args: Namespace) -> int:
    """``nomos witness keygen``: the seed goes into a new file, the public key is printed."""
    seed = os.urandom(SEED_BYTES)
    key = WitnessSigner(args.name, seed).verifier_key
    try:
        descriptor = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as e:
        raise Misconfigured(f"{args.out} exists", hint="name another file; a key is never overwritten") from e
    except OSError as e:
        raise Misconfigured(f"{args.out} cannot be written: {e.strerror}") from e
    with os.fdopen(descriptor, "w", encoding="ascii") as target:
        target.write(base64.urlsafe_b64encode(seed).decode().rstrip("=") + "\n")
    lines = [
        f"witness {args.name.rpartition('/')[2]} {key}",
        f"  the line above goes into trust files; key in {args.out}",
    ]
    result(args, "witness keygen", {"key": str(key), "out": args.out}, lines)
    return Exit.YES


def run(args: Namespace) -> int:
    """``nomos witness run``: serves until SIGTERM or SIGINT."""
    signer = WitnessSigner(args.name, _seed(Path(args.key_file)))
    logs: dict[str, list[VerifierKey]] = {}
    for text in args.log:
        key = parse_vkey(text)
        if key.kind is not KeyKind.ED25519:
            raise Misconfigured(f"{text} is no log's key")
        logs.setdefault(key.name, []).append(key)
    host, separator, port = args.listen.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise Misconfigured("--listen takes HOST:PORT, for instance 127.0.0.1:7380")
    tls = _tls(args, host)
    try:
        remembered = Remembered(Path(args.state))
        for origin in logs:
            # What cannot be read must be known now, not when a log asks.
            remembered.load(origin)
        witness = Witness(signer, logs, remembered)
        return asyncio.run(_serve(witness, host, int(port), tls, lambda url: _announce(args, signer, url)))
    except OSError as e:
        raise Misconfigured(f"cannot serve on {args.listen} with {args.state}: {e.strerror or e}") from e


async def _serve(
    witness: Witness, host: str, port: int, tls: ssl.SSLContext | None, announce: Callable[[str], None]
) -> int:
    server = await serve(witness, host, port, tls=tls)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bound = server.sockets[0].getsockname()[1]
    announce(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}/")
    async with server:
        await stop.wait()
    return Exit.YES


def _announce(args: Namespace, signer: WitnessSigner, url: str) -> None:
    say(f"nomos: witness {signer.verifier_key} at {url}")
    if args.ready_file:
        draft = Path(f"{args.ready_file}.new")
        ready = {"url": url, "key": str(signer.verifier_key), "pid": os.getpid()}
        draft.write_text(json.dumps(ready), encoding="utf-8")
        draft.replace(args.ready_file)


def _seed(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
        seed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except OSError as e:
        raise Misconfigured(f"the key file {path} cannot be read: {e.strerror}", hint="nomos witness keygen") from e
    except (UnicodeDecodeError, binascii.Error, ValueError):
        seed = b""
    if len(seed) != SEED_BYTES:
        raise Misconfigured(f"{path} holds no key", hint="nomos witness keygen makes one")
    return seed


def _tls(args: Namespace, host: str) -> ssl.SSLContext | None:
    if bool(args.tls_cert) != bool(args.tls_key):
        raise Misconfigured("--tls-cert and --tls-key go together")
    if not args.tls_cert:
        if not is_loopback(host):
            raise Misconfigured(f"{host} is not loopback, and there is no certificate", hint="--tls-cert and --tls-key")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, ssl.SSLError) as e:
        raise Misconfigured(f"the certificate cannot be used: {e}") from e
    return context

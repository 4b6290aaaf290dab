"""Brings the streams of one account to what :mod:`nomos_runtime.topology.streams` says, and never loosens one.

Run by a provisioner's credentials: they can create and update the streams by name, and cannot delete, purge or read.
Idempotent; safe to run by several at once, since the server creates a stream with one configuration once.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client

from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.topology.streams import Bounds, Stream, stream_config, streams_of

API_SECONDS: Final = 10
_NOT_FOUND: Final = 10059

#: May grow, never shrink: a smaller bound makes the server drop what is beyond it.
_GROWS: Final = frozenset({"max_bytes", "max_msg_size", "duplicate_window", "num_replicas"})
#: May be switched on, never off.
_SWITCHES: Final = frozenset({"deny_delete", "deny_purge", "allow_direct", "allow_msg_ttl", "discard_new_per_subject"})


def changes(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What must change in the stream configuration ``found`` to become ``wanted``; empty where nothing must.

    Raises:
        Misconfigured: the change would loosen the stream, drop messages, or make another stream of it.
    """
    wrong: dict[str, Any] = {}
    for name, value in wanted.items():
        # The server leaves members out that are false or 0.
        now = found.get(name, type(value)())
        if now == value:
            continue
        grows = name in _GROWS and value > now >= 0
        if not grows and not (name in _SWITCHES and value is True):
            raise Misconfigured(
                f"stream {wanted['name']} has {name} {now}, expected {value}",
                hint="a stream is never loosened or shrunk in place; correct the setting",
            )
        wrong[name] = value
    return wrong


async def ensure_streams(nc: Client, account: str, bounds: Bounds) -> dict[str, str]:
    """Creates or tightens the streams of ``account``.

    Args:
        nc: connected as that account's provisioner.
        account: ``AUDIT`` or ``PROXY``.
        bounds: limits, in bytes.

    Returns:
        Stream name -> ``created``, ``updated`` or ``unchanged``.

    Raises:
        Misconfigured: an existing stream differs in a way that must not be changed in place, or the server refuses the
            configuration.
        Unavailable: JetStream does not answer.
    """
    return {s.name: await _ensure(nc, s, bounds) for s in streams_of(account)}


async def _ensure(nc: Client, stream: Stream, bounds: Bounds) -> str:
    wanted = stream_config(stream, bounds)
    found = await _call(nc, f"$JS.API.STREAM.INFO.{stream.name}", b"")
    error = found.get("error")
    if error is not None:
        if error.get("err_code") != _NOT_FOUND:
            raise Unavailable(f"JetStream does not show stream {stream.name}", cause=str(error))
        _accepted(stream, await _call(nc, f"$JS.API.STREAM.CREATE.{stream.name}", msgspec.json.encode(wanted)))
        return "created"
    config = found.get("config")
    if not isinstance(config, dict):
        raise Unavailable(f"JetStream's answer about stream {stream.name} has no configuration")
    wrong = changes(config, wanted)
    if not wrong:
        return "unchanged"
    update = msgspec.json.encode(config | wrong)
    _accepted(stream, await _call(nc, f"$JS.API.STREAM.UPDATE.{stream.name}", update))
    return "updated"


def _accepted(stream: Stream, answer: dict[str, Any]) -> None:
    error = answer.get("error")
    if error is not None:
        raise Misconfigured(f"the server refuses stream {stream.name}: {error.get('description', 'no reason given')}")


async def _call(nc: Client, subject: str, payload: bytes) -> dict[str, Any]:
    try:
        reply = await nc.request(subject, payload, timeout=API_SECONDS)
        return msgspec.json.decode(reply.data, type=dict[str, Any])
    except (nats.errors.Error, TimeoutError, msgspec.DecodeError) as e:
        raise Unavailable("JetStream does not answer", cause=repr(e)) from e

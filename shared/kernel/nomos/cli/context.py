"""Which installation a command talks to: ``--context``, then ``NOMOS_CONTEXT``, then the running ``nomos up``."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import Misconfigured

#: Where ``nomos up`` leaves the path of its context, below the user's state folder.
POINTER: Final = "nomos/running.json"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """An installation as its operator's commands see it.

    Attributes:
        bus_url: where the bus listens.
        operator_creds: path of the operator's credentials file.
        trust: path of the trust file for ``nomos verify``.
        origin: the log's origin.
        rp_id: relying party id of the passkeys; ``expected_origin`` is the page's origin.
        pid: process id of the running ``nomos up``, 0 when there is none.
    """

    bus_url: str
    operator_creds: str
    trust: str
    origin: str
    environment: str
    rp_id: str
    expected_origin: str
    pid: int = 0


def state_folder() -> Path:
    """The user's folder for state (XDG base directory specification)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def load_context(args: Namespace) -> Context:
    """Finds and reads the context.

    Raises:
        Misconfigured: there is none, or it cannot be read.
    """
    given = getattr(args, "context", None) or os.environ.get("NOMOS_CONTEXT")
    path = Path(given) if given else _running()
    if path is None:
        raise Misconfigured("no context and no running nomos up", hint="start nomos up, or pass --context FILE")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Context)
    except OSError as e:
        raise Misconfigured(f"context {path} cannot be read: {e.strerror}") from e
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise Misconfigured(f"context {path} is not a context file", cause=str(e)) from e


def _running() -> Path | None:
    try:
        pointer = json.loads((state_folder() / POINTER).read_text(encoding="utf-8"))
        path, pid = Path(pointer["context"]), int(pointer["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.exists() else None

"""Nomos: a decision before the call, a credential that never leaves the broker, a log that outsiders can check.

The public surface for agents' developers. Names are loaded when they are first used, so the offline verifier and the
command line start without the bus client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nomos.agent import Agent, Allowed, ApprovalEnded, Denied, StepUpRequired, Streaming
    from nomos.errors import NomosError
    from nomos.handover import Grant
    from nomos.uploading import Upload

__all__ = [
    "Agent",
    "Allowed",
    "ApprovalEnded",
    "Denied",
    "Grant",
    "NomosError",
    "StepUpRequired",
    "Streaming",
    "Upload",
]

_HOMES = {"NomosError": "nomos.errors", "Grant": "nomos.handover", "Upload": "nomos.uploading"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module nomos has no attribute {name}")
    return getattr(import_module(_HOMES.get(name, "nomos.agent")), name)

"""Loaded into a proxy of its own process (as ``sitecustomize``): it ends itself, as ``kill -9`` would, at one step of a
renewal. ``NOMOS_TEST_KILL`` names the step; the sweep stays away, and leases are short.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from nomos.events import CREDENTIAL_RENEWED, CREDENTIAL_RENEWING
from nomos_proxy.oauth import grants
from nomos_proxy.oauth.grants import Grants
from nomos_proxy.oauth.party import Party
from nomos_proxy.oauth.sweeping import Sweeper
from nomos_runtime.journal import Journal

STEPS = ("leased", "journaled", "asking", "answered", "stored", "recorded")
STEP = os.environ.get("NOMOS_TEST_KILL", "")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: type, name: str, is_it: Any) -> None:
    """Ends the process when ``owner.name`` has come back, if ``is_it(arguments, result)``."""
    original = getattr(owner, name)

    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(self, *args, **kwargs)
        if is_it(args, result):
            die()
        return result

    setattr(owner, name, run)


def recorded(kind: str) -> Any:
    return lambda args, _: any(envelope.type == kind for envelope in args[0])


async def nothing(self: Any) -> None:
    """Instead of a sweep."""


Sweeper.sweep = nothing  # type: ignore[method-assign]
grants.LEASE_SECONDS = 2  # type: ignore[misc]
if STEP == "leased":
    after(Grants, "lease", lambda _, got: got)
elif STEP == "journaled":
    after(Journal, "append", recorded(CREDENTIAL_RENEWING))
elif STEP == "asking":
    Party.ask = lambda *_: die()  # type: ignore[method-assign]
elif STEP == "answered":
    after(Party, "ask", lambda *_: True)
elif STEP == "stored":
    after(Grants, "store", lambda *_: True)
elif STEP == "recorded":
    after(Journal, "append", recorded(CREDENTIAL_RENEWED))

"""A trap of ``asyncio`` on Python 3.11, and the way out of it.

``asyncio.wait_for``, which the bus client uses for each request, returns a result that arrives in the same tick as a
cancellation instead of raising. A loop around it then never ends: Ctrl-C and a service's stop are lost. Code of ours
waits with ``asyncio.timeout``, which has no such trap, and asks here after a request.
"""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raises CancelledError where the running task was cancelled and something below swallowed it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError

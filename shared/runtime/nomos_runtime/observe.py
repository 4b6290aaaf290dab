"""Diagnostics: one line per event, event-name constants plus fields; JSON unless standard error is a terminal.

Not the audit log. Never a secret, a payload or a credential in a field.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Final

CONNECTED: Final = "bus_connected"
DISCONNECTED: Final = "bus_disconnected"
BUS_ERROR: Final = "bus_error"
PERMISSION_VIOLATION: Final = "bus_permission_violation"
ANSWER_TOO_LARGE: Final = "bus_answer_too_large"
TENANT_FLOOD: Final = "tenant_flood"
PAGE_FLOOD: Final = "page_flood"
ANSWER_LOST: Final = "bus_answer_lost"
SLOW_CONSUMER: Final = "bus_slow_consumer"
SERVICE_READY: Final = "service_ready"
SERVICE_STOPPED: Final = "service_stopped"
BACKGROUND_FAULT: Final = "background_fault"
REQUEST_FAULT: Final = "request_fault"
JOURNAL_STALLED: Final = "journal_stalled"
JOURNAL_RESUMED: Final = "journal_resumed"
JOURNAL_REFUSED: Final = "journal_refused"
FEED_STALE: Final = "feed_stale"
FEED_FAULT: Final = "feed_fault"
FEED_CAUGHT_UP: Final = "feed_caught_up"
MIGRATED: Final = "store_migrated"
STORE_RESEALED: Final = "store_resealed"
CREDENTIAL_FAULT: Final = "credential_fault"
OUTBOX_WAITING: Final = "outbox_waiting"
REPLAY_SET_UNREAD: Final = "replay_set_unread"
REFUSAL_UNRECORDED: Final = "refusal_unrecorded"
REFUSALS_COUNTED: Final = "refusals_counted"

#: How often each event was said in this process, by (service, event). Read by readiness and by tests.
counts: Counter[tuple[str, str]] = Counter()
_lock = threading.Lock()


def say(service: str, event: str, **fields: str | int | float | bool | None) -> None:
    """Writes one diagnostic line to standard error."""
    counts[service, event] += 1
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    if sys.stderr.isatty():
        line = f"{at[11:23]} {service:<9} {event} " + " ".join(f"{k}={v}" for k, v in fields.items())
    else:
        line = json.dumps({"at": at, "service": service, "event": event, **fields}, separators=(",", ":"))
    with _lock:
        sys.stderr.write(line + "\n")

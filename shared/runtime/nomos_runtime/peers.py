"""Which bus account is which service, and who may read whose facts: from the installation's account table.

The table is written when the installation is provisioned (``NOMOS_ACCOUNTS``: a JSON file, account name to public key).
It holds no secret; a wrong one fails closed, since the server stamps the real keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nomos.errors import Misconfigured
from nomos_runtime.topology.doors import FEEDS


def load_accounts(env: Mapping[str, str]) -> dict[str, str]:
    """Service name (lower case) to account public key.

    Raises:
        Misconfigured: the table is missing or is not one.
    """
    path = env.get("NOMOS_ACCOUNTS")
    if not path:
        raise Misconfigured("NOMOS_ACCOUNTS is not set", hint="the file accounts.json of the installation")
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(name).lower(): str(key) for name, key in table.items()}
    except (OSError, ValueError, AttributeError) as e:
        raise Misconfigured("the account table cannot be read", cause=str(e)) from e


def reader_tokens(owner: str, env: Mapping[str, str]) -> list[str]:
    """The tokens under which the readers of ``owner``'s facts ask: account keys, and ``self`` for its own replicas."""
    accounts = load_accounts(env)
    return [*(accounts[reader] for reader in FEEDS.get(owner, ())), "self"]


def callers(env: Mapping[str, str], *services: str) -> dict[str, str]:
    """Account key to name, of ``services``: who may ask, as the server stamps it."""
    accounts = load_accounts(env)
    return {accounts[name]: name for name in services}

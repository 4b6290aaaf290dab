"""Settings from the environment: ``NOMOS_*`` for what is not secret, ``NAME`` or ``NAME_FILE`` for what is.

A service has one frozen class of settings; :func:`load` fills it. A setting that is missing or wrong stops the
process before it serves anything. Secrets never come from argv, from a database or from a configuration file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from nomos.errors import Misconfigured

T = TypeVar("T", bound=msgspec.Struct)


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs.

    Attributes:
        bus_url: ``nats://host:port`` or ``tls://host:port``; several, comma-separated.
        bus_creds: path of this service's NATS credentials file.
        database_url: ``postgresql://...`` of this service's own role; empty where a service owns no state.
        request_timeout_ms: bound of one request to another service, milliseconds.
        feed_poll_ms: how often a replica asks for new facts, milliseconds.
        feed_fresh_ms: a replica that has not heard from the owner for so long stops allowing, milliseconds.
        journal_timeout_ms: bound of one append to the journal, milliseconds.
        in_flight_max: requests of one subject that a process works on at once; further ones wait.
        tenant_in_flight_max: of these, how many may be one tenant's; further ones are refused as ``unavailable``.
        refusals_per_minute: refusals of one agent that are recorded one by one in a minute; further ones are counted,
            and the count is recorded. Each process counts for itself.
    """

    bus_url: str
    bus_creds: str
    database_url: str = ""
    request_timeout_ms: int = 3_000
    feed_poll_ms: int = 1_000
    feed_fresh_ms: int = 5_000
    journal_timeout_ms: int = 2_000
    in_flight_max: int = 2_048
    tenant_in_flight_max: int = 1_280
    refusals_per_minute: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 120

    def __repr__(self) -> str:
        # The database's URL holds a password.
        return f"{type(self).__name__}(redacted)"


def load(kind: type[T], service: str, env: Mapping[str, str], **given: object) -> T:
    """Fills ``kind`` from ``NOMOS_<SERVICE>_<FIELD>`` or ``NOMOS_<FIELD>``; ``given`` wins over both.

    Raises:
        Misconfigured: a field without default is missing, or a value does not have the field's type.
    """
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in given:
            values[field.name] = given[field.name]
            continue
        for name in (f"NOMOS_{service.upper()}_{field.name.upper()}", f"NOMOS_{field.name.upper()}"):
            if name in env:
                values[field.name] = env[name]
                break
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as e:
        raise Misconfigured(f"settings of {service}: {e}") from e


def optional_secret(name: str, env: Mapping[str, str]) -> str:
    """As :func:`secret`, but empty where neither ``<name>`` nor ``<name>_FILE`` is set."""
    return secret(name, env) if env.get(name) or env.get(f"{name}_FILE") else ""


def secret(name: str, env: Mapping[str, str]) -> str:
    """The secret ``name`` from the environment, or from the file that ``<name>_FILE`` names.

    Raises:
        Misconfigured: neither is set, both are set, or the file cannot be read.
    """
    value, path = env.get(name), env.get(f"{name}_FILE")
    if value and path:
        raise Misconfigured(f"both {name} and {name}_FILE are set")
    if value:
        return value
    if not path:
        raise Misconfigured(f"{name} is not set", hint=f"set {name} or {name}_FILE")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as e:
        raise Misconfigured(f"{name}_FILE cannot be read: {e.strerror}") from e

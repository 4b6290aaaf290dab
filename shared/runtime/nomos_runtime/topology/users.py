"""The users of the services' accounts, and exactly what each may publish and subscribe to.

A right follows from a door (:mod:`nomos_runtime.topology.doors`) or stands in :data:`_OWN` with its reason. The owner
of a door subscribes to it as a member of its own queue group only, so nobody listens beside it. The rights live in
the account's JWT (one scoped signing key per user), so a change of this table reaches the server with the next push and
no credentials file changes.

Trusted / not trusted: who steals a service's credentials can do what its row says, and nothing else on the bus.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos_runtime.topology.doors import DOORS, SERVICES, SYS, account_of, doors_into
from nomos_runtime.topology.streams import STREAMS

#: How long after its arrival a request may be answered; deadlines lie at most 120 s ahead.
RESPONSE_SECONDS: Final = 130


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One user of a service account.

    Attributes:
        name: unique in the installation: the credentials file, the inbox prefix ``_INBOX.<name>``, the user's name.
        account: name of its account.
        publish: subjects it may publish to; ``{{account-subject()}}`` is its account's key.
        subscribe: ``subject`` or ``subject queue``.
        answers: whether it may answer requests that it received.
        denied: subjects among ``publish`` that it may not publish to.
    """

    name: str
    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool
    denied: tuple[str, ...] = ()


def _api(verb: str, stream: str) -> str:
    return f"$JS.API.{verb}.{stream}"


def _read(stream: str) -> tuple[str, ...]:
    # MSG.GET is answered by the stream's leader alone, DIRECT.GET by any replica: the head of the chain is read with
    # the first, history with the second.
    return (
        _api("STREAM.INFO", stream),
        _api("STREAM.MSG.GET", stream),
        _api("DIRECT.GET", stream),
        _api("DIRECT.GET", f"{stream}.>"),
    )


def _consume(stream: str) -> tuple[str, ...]:
    return (
        _api("CONSUMER.CREATE", f"{stream}.>"),
        _api("CONSUMER.INFO", f"{stream}.*"),
        _api("CONSUMER.MSG.NEXT", f"{stream}.*"),
        _api("CONSUMER.DELETE", f"{stream}.*"),
        f"$JS.ACK.{stream}.>",
        # The form with domain and account tokens (ADR-15) that a later server writes.
        f"$JS.ACK.*.*.{stream}.>",
        f"$JS.FC.{stream}.>",
    )


#: Rights that no door gives.
_OWN: Final[dict[str, tuple[str, ...]]] = {
    "audit": (
        "chain.*",
        "audit.*",
        "checkpoint.0",
        # Its own events: the server maps intake.batch to this subject (claims.py), so the emitter is its account's key.
        "intake.{{account-subject()}}.batch",
        # Trims what is chained. CHAIN and CHECKPOINT deny purge for good and have no such line.
        _api("STREAM.PURGE", "INTAKE"),
        # The chain's segments get their names while it grows; the account holds the log's streams alone.
        # A stream that is there cannot be changed by creating it again.
        "$JS.API.STREAM.NAMES",
        _api("STREAM.CREATE", "*"),
        *_read("*"),
        *_consume("*"),
    ),
    # How far each of its replicas is, among themselves.
    "policy": ("applied.policy",),
    # Which of how many replicas each is, among themselves: they divide rates. Marks what is used, and reads what other
    # proxies have marked.
    "proxy": ("applied.proxy", "nonce.*", _api("STREAM.INFO", "NONCE"), _api("DIRECT.GET", "NONCE")),
}

#: Subscriptions that no door gives.
_HEARS: Final[dict[str, tuple[str, ...]]] = {
    # What it publishes itself, to wake auditors who wait for their tenant's next record.
    "audit": ("audit.*",),
    "policy": ("applied.policy",),
    "proxy": ("applied.proxy",),
}


def _inbox(name: str) -> str:
    return f"_INBOX.{name}.>"


def _service(name: str) -> User:
    account = account_of(name)
    publish = [d.local for d in doors_into(account) if d.kind == "service"]
    # Facts for its own replicas: asked of itself inside its account, with "self" where an importer has its key.
    publish += [f"feed.{name}", f"svc.feed.{name}.self", *_OWN.get(name, ())]
    served = [d.subject for d in DOORS if d.owner == account and d.kind == "service"]
    if f"svc.feed.{name}.*" not in served:
        served.append(f"svc.feed.{name}.*")
    # The journal's subject is captured by the stream INTAKE, not served by a process.
    subscribe = [f"{s} {name}" for s in served if s != "intake.*.batch"]
    subscribe += [_inbox(name), f"feed.{name}", *(d.local for d in doors_into(account) if d.kind == "stream")]
    subscribe += _HEARS.get(name, ())
    return User(name=name, account=account, publish=tuple(publish), subscribe=tuple(subscribe), answers=True)


def _provisioner(account: str) -> User:
    name = f"{account.lower()}-provisioner"
    names = tuple(s.name for s in STREAMS if s.account == account)
    return User(
        name=name,
        account=account,
        publish=tuple(_api(f"STREAM.{verb}", s) for s in names for verb in ("INFO", "CREATE", "UPDATE")),
        subscribe=(_inbox(name),),
        answers=False,
    )


_SYSTEM: Final = (
    # Held by identity: tells the servers about tenants and revocations. They check the operator's signature again.
    User(
        name="claims",
        account=SYS,
        publish=(
            "$SYS.REQ.CLAIMS.UPDATE",
            "$SYS.REQ.CLAIMS.DELETE",
            "$SYS.REQ.CLAIMS.LIST",
            "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP",
        ),
        subscribe=(_inbox("claims"),),
        answers=False,
    ),
    # Held by the doctor and the dashboards: reads the servers' figures.
    User(
        name="observer",
        account=SYS,
        publish=("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.*", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"),
        subscribe=(_inbox("observer"),),
        answers=False,
    ),
)

#: Held by nobody who serves: takes retired segments of the chain away, once the audit service has recorded that they
#: may go (``nomos audit retire``). Segments get their names while the chain grows; what stays is excepted by name.
_RETIRER: Final = User(
    name="audit-retirer",
    account="AUDIT",
    publish=(_api("STREAM.DELETE", "*"),),
    denied=tuple(_api("STREAM.DELETE", s.name) for s in STREAMS if s.account == "AUDIT" and s.name != "CHAIN"),
    subscribe=(_inbox("audit-retirer"),),
    answers=False,
)

USERS: Final[tuple[User, ...]] = (
    *(_service(s) for s in SERVICES),
    # Jobs that create streams and can neither delete nor purge nor read one.
    _provisioner("AUDIT"),
    _provisioner("PROXY"),
    _RETIRER,
    *_SYSTEM,
)


def users_of(account: str) -> tuple[User, ...]:
    """The users of ``account``."""
    return tuple(u for u in USERS if u.account == account)

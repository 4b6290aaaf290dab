"""The doors between bus accounts: what each account exports, to whom, and under which subject it is seen there.

A door with a ``token`` carries the importer's account key at that place of the subject, put there by the server: the
owner knows who calls, and no caller can say otherwise. A door without one is *private*: the importer needs an
activation token by the owner. There is no other way from one account into another.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

SYS: Final = "SYS"
OPS: Final = "OPS"
#: Stands for every tenant's account, of which there may be any number.
TENANTS: Final = "*"

#: Services by slug. Each has the account of its name in upper case, and a user of its name.
SERVICES: Final = ("audit", "policy", "minting", "proxy", "sanitizer", "stepup", "identity")

#: Facts that a service publishes for others to keep replicas of: owner -> readers.
FEEDS: Final[dict[str, tuple[str, ...]]] = {
    "identity": ("policy", "minting", "proxy", "stepup", "audit"),
    "minting": ("proxy",),
    "stepup": ("policy",),
}


#: Services that serve pages to operators, who sign in at stepup.
PAGES: Final = ("policy",)


def account_of(service: str) -> str:
    """Name of the service's account."""
    return service.upper()


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """One export and its imports.

    Attributes:
        owner: account that serves (or, for a stream, publishes) ``subject``.
        subject: as the owner sees it.
        local: as each importer sees it.
        importers: account names, or :data:`TENANTS`.
        token: 1-based token of ``subject`` that holds the importer's account key; 0 for a private door.
        kind: ``service`` (requests with one answer) or ``stream`` (notifications).
    """

    owner: str
    subject: str
    local: str
    importers: tuple[str, ...]
    token: int = 0
    kind: Literal["service", "stream"] = "service"

    @property
    def private(self) -> bool:
        """Whether an importer must show an activation token by the owner."""
        return self.token == 0

    def seen_by(self, account_key: str) -> str:
        """The subject that the account ``account_key`` imports."""
        if self.private:
            return self.subject
        tokens = self.subject.split(".")
        tokens[self.token - 1] = account_key
        return ".".join(tokens)


def _for_tenants(owner: str, verb: str) -> Door:
    return Door(owner=owner, subject=f"tenant.*.req.{verb}.*", local=f"req.{verb}.*", importers=(TENANTS,), token=2)


def _between(owner: str, subject: str, *importers: str) -> Door:
    exported = f"{subject}.*"
    return Door(owner=owner, subject=exported, local=subject, importers=importers, token=exported.count(".") + 1)


def _feeds() -> tuple[Door, ...]:
    doors: list[Door] = []
    for owner, readers in FEEDS.items():
        importers = tuple(account_of(r) for r in readers)
        doors.append(_between(account_of(owner), f"svc.feed.{owner}", *importers))
        # Says "look now" and nothing else; a reader that misses it polls.
        notify = f"feed.{owner}"
        doors.append(Door(owner=account_of(owner), subject=notify, local=notify, importers=importers, kind="stream"))
    return tuple(doors)


DOORS: Final[tuple[Door, ...]] = (
    # A tenant's agents and auditors. The tenant is the account key at token 2; the agent is bound by its own rights.
    _for_tenants("POLICY", "authorize"),
    _for_tenants("PROXY", "invoke"),
    # The token before the agent's is the replica that has the answer.
    _for_tenants("PROXY", "read.*"),
    # The token before the agent's is the replica that waits for the content.
    _for_tenants("PROXY", "upload.*"),
    _for_tenants("MINTING", "revoke"),
    _for_tenants("STEPUP", "stepup"),
    _for_tenants("AUDIT", "audit"),
    # Service to service.
    _between("MINTING", "svc.mint", "POLICY"),
    _between("SANITIZER", "svc.sanitize", "PROXY"),
    _between("SANITIZER", "svc.sanitize.open", "PROXY"),
    # The token before the caller's is the replica that has the body.
    _between("SANITIZER", "svc.sanitize.piece.*", "PROXY"),
    _between("STEPUP", "svc.stepup.open", "POLICY"),
    _between("STEPUP", "svc.stepup.consume", "POLICY"),
    # Services with pages of their own learn here which operator is at the browser.
    _between("STEPUP", "svc.stepup.redeem", *(account_of(s) for s in PAGES)),
    _between("STEPUP", "svc.stepup.session", *(account_of(s) for s in PAGES)),
    *_feeds(),
    # The journal. The emitter of every event is the account key at token 2.
    Door(
        owner="AUDIT",
        subject="intake.*.batch",
        local="intake.batch",
        importers=tuple(account_of(s) for s in SERVICES if s != "audit"),
        token=2,
    ),
    # Operators: admin.<service>.<tenant or _>.<verb>.<operator>; the last token is bound by the operator's role.
    *(Door(owner=account_of(s), subject=f"admin.{s}.>", local=f"admin.{s}.>", importers=(OPS,)) for s in SERVICES),
)


def doors_into(account: str) -> tuple[Door, ...]:
    """The doors that ``account`` (or :data:`TENANTS`) imports."""
    return tuple(d for d in DOORS if account in d.importers)

"""Operators' verbs of identity. Order of each: decide, store and journal the event, then tell the servers.

A crash between the two is repaired by the reconciliation; a revocation is in force for policy, minting and proxy from
the event on, whatever the bus says.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nomos.creds import ACCOUNT, Nkey
from nomos.errors import Conflict, NotFound, Unavailable
from nomos.events import Envelope
from nomos.ids import new_id, parse_slug
from nomos_identity import domain
from nomos_identity.accounts import Accounts
from nomos_identity.settings import IdentitySettings
from nomos_runtime.directory import Directory
from nomos_runtime.eventstore import EventStore
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_runtime.sealing import Sealer
from nomos_runtime.subjects import Subjects, check_basis
from nomos_runtime.topology.issue import issue_user, new_tenant_keys

ROLE_KEY_PURPOSE: Final = "role-key-v1"
#: Name of the sealed record of a role's key, before the role.
ROLE_KEY_NAME: Final = "role-key/"
#: Verbs that no operator of one tenant reaches.
INSTALLATION_VERBS: Final = ("tenant-create", "tenant-list", "tenant-close")
#: What the people of this service are to it.
KIND: Final = "auditor"


class NameParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name."""

    name: str


class CloseParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant to close for good, and why (stands in the log in plain text)."""

    name: str
    basis: str


class AppParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An app's name and environment, ``live`` or ``test``."""

    name: str
    env: str = "test"


class AgentParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent's app, name, bus key (``U...``) and UCAN key (``did:key:...``)."""

    app: str
    name: str
    key: str
    did: str


class AuditorParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An auditor's name and bus key."""

    name: str
    key: str


class RevokeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bus key to revoke, and why."""

    key: str
    why: str = ""


class IdentityAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        settings: IdentitySettings,
        store: EventStore,
        sealer: Sealer,
        subjects: Subjects,
        accounts: Accounts,
        directory: Directory,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._sealer = sealer
        self._subjects = subjects
        self._accounts = accounts
        self._directory = directory
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "tenant-create": (NameParams, self.tenant_create),
            "tenant-list": (NoParams, self.tenant_list),
            "tenant-close": (CloseParams, self.tenant_close),
            "app-create": (AppParams, self.app_create),
            "agent-create": (AgentParams, self.agent_create),
            "auditor-create": (AuditorParams, self.auditor_create),
            "key-list": (NoParams, self.key_list),
            "key-revoke": (RevokeParams, self.key_revoke),
        }

    async def tenant_create(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Creates a tenant: its account on the bus and its role keys."""
        name = parse_slug(msgspec.convert(params, NameParams).name, "tenant")
        keys = new_tenant_keys()
        roles = {role: key.public for role, key in keys.roles.items()}
        event = domain.tenant_created(
            new_id("ev"), tenant=name, account=keys.account, roles=roles, by=by.actor, corr=by.request
        )
        sealed = {
            f"{ROLE_KEY_NAME}{role}": self._sealer.seal(
                key.raw_seed, purpose=ROLE_KEY_PURPOSE, tenant=name, name=f"{ROLE_KEY_NAME}{role}"
            )
            for role, key in keys.roles.items()
        }
        await self._append(name, "tenant", event, f"tenant {name} exists", sealed)
        await self._accounts.push(name)
        return {"tenant": name, "account": keys.account}

    async def tenant_list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The tenants."""
        await self._refresh()
        tenants = self._directory.tenants
        return {"tenants": [{"tenant": t, "closed": self._directory.is_closed(t)} for t in tenants]}

    async def tenant_close(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Closes a tenant: from its event on nothing new is accepted of it; the servers drop its connections."""
        p = msgspec.convert(params, CloseParams)
        check_basis(p.basis)
        history = [s.envelope for s in await self._store.load(parse_slug(p.name, "tenant"), "tenant")]
        if not history:
            raise NotFound("there is no such tenant")
        if domain.closed_at(history) is None:
            now = int(time.time())
            event = domain.tenant_closed(
                new_id("ev"), tenant=p.name, basis=p.basis, now=now, by=by.actor, corr=by.request
            )
            await self._store.append(p.name, "tenant", len(history), [event])
        await self._accounts.push(p.name)
        return {"tenant": p.name, "closed": True}

    async def app_create(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Creates an app."""
        p = msgspec.convert(params, AppParams)
        event = domain.app_created(new_id("ev"), tenant=by.tenant, app=p.name, env=p.env, by=by.actor, corr=by.request)
        await self._append(by.tenant, f"app/{p.name}", event, f"app {p.name} exists")
        return {"tenant": by.tenant, "app": p.name, "env": p.env}

    async def agent_create(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Creates an agent and signs its bus credential; both private keys stay with whoever made them."""
        p = msgspec.convert(params, AgentParams)
        now = int(time.time())
        await self._check_new(by.tenant, p.key)
        app = [s.envelope for s in await self._store.load(by.tenant, f"app/{parse_slug(p.app, 'app')}")]
        event = domain.agent_created(
            new_id("ev"),
            tenant=by.tenant,
            app=app,
            name=p.name,
            key=p.key,
            did=p.did,
            now=now,
            by=by.actor,
            corr=by.request,
        )
        await self._append(by.tenant, f"agent/{p.name}", event, f"agent {p.name} exists")
        jwt = await self._issue(by.tenant, "agent", p.name, p.key, now)
        return {"tenant": by.tenant, "agent": p.name, "key": p.key, "did": p.did, "jwt": jwt}

    async def auditor_create(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Creates an auditor and signs their bus credential."""
        p = msgspec.convert(params, AuditorParams)
        now = int(time.time())
        await self._check_new(by.tenant, p.key)
        parse_slug(p.name, KIND)
        domain.parse_user_key(p.key)
        # The bus and every record know the auditor by this; their name stands sealed in one event.
        subject = await self._subjects.enrol(by.tenant, KIND, p.name, by=by.actor, corr=by.request, now=now)
        event = domain.auditor_created(
            new_id("ev"), tenant=by.tenant, name=subject, key=p.key, now=now, by=by.actor, corr=by.request
        )
        await self._append(by.tenant, f"auditor/{subject}", event, "an auditor of this name exists")
        jwt = await self._issue(by.tenant, "auditor", subject, p.key, now)
        return {"tenant": by.tenant, "auditor": p.name, "subject": subject, "key": p.key, "jwt": jwt}

    async def release(self, by: Operator, subject: str) -> None:
        """Revokes an auditor's key, before their name is erased."""
        history = [s.envelope for s in await self._store.load(by.tenant, f"auditor/{subject}")]
        for key in domain.keys_of(history).values():
            if not key.revoked:
                event = domain.key_revoked(
                    new_id("ev"), tenant=by.tenant, key=key, why="", now=int(time.time()), by=by.actor, corr=by.request
                )
                await self._store.append(by.tenant, f"auditor/{subject}", len(history), [event])
        # Again where an earlier call was cut short after its event.
        await self._accounts.push(by.tenant)

    async def held(self, tenant: str, subject: str) -> dict[str, object]:
        """What identity holds of an auditor beside their name: the bus key and its times."""
        history = [s.envelope for s in await self._store.load(tenant, f"auditor/{subject}")]
        return {"keys": [msgspec.to_builtins(key) for key in domain.keys_of(history).values()]}

    async def key_list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The keys of the tenant."""
        keys = (await self._keys(by.tenant)).values()
        return {"keys": [msgspec.to_builtins(k) for k in keys]}

    async def key_revoke(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Revokes a key: in the log, in every replica of the facts, and at the servers, which disconnect its holder."""
        p = msgspec.convert(params, RevokeParams)
        key = (await self._keys(by.tenant)).get(p.key)
        event = domain.key_revoked(
            new_id("ev"), tenant=by.tenant, key=key, why=p.why, now=int(time.time()), by=by.actor, corr=by.request
        )
        if key is None:
            raise NotFound("this tenant has no such key")
        stream = f"{key.role}/{key.name}"
        version = len(await self._store.load(by.tenant, stream))
        await self._store.append(by.tenant, stream, version, [event])
        await self._accounts.push(by.tenant)
        return {"tenant": by.tenant, "key": key.key, "role": key.role, "name": key.name}

    async def _check_new(self, tenant: str, key: str) -> None:
        if key in await self._keys(tenant):
            raise Conflict("this key belongs to somebody already, or did", hint="make a new key")

    async def _keys(self, tenant: str) -> dict[str, domain.Key]:
        found: dict[str, domain.Key] = {}
        for prefix in ("agent/", "auditor/"):
            found |= domain.keys_of(s.envelope for s in await self._store.load_matching(tenant, prefix))
        return found

    async def _append(
        self, tenant: str, stream: str, event: Envelope, taken: str, sealed: dict[str, bytes] | None = None
    ) -> None:
        try:
            await self._store.append(tenant, stream, 0, [event], sealed)
        except Conflict as e:
            raise Conflict(taken, hint="names are given once") from e

    async def _issue(self, tenant: str, role: str, name: str, key: str, now: int) -> str:
        record = await self._store.sealed(tenant, f"{ROLE_KEY_NAME}{role}")
        if record is None:
            raise Unavailable("the role keys of this tenant have been destroyed")
        seed = self._sealer.open(record, purpose=ROLE_KEY_PURPOSE, tenant=tenant, name=f"{ROLE_KEY_NAME}{role}")
        ttl = self._settings.user_ttl_seconds
        created = (await self._store.load(tenant, "tenant"))[0].envelope.event
        return issue_user(
            role=role,
            name=name,
            user_public_key=key,
            account=str(created["account"]),
            signer=Nkey(ACCOUNT, seed),
            issued_at=now,
            expires_at=now + ttl if ttl else 0,
        )

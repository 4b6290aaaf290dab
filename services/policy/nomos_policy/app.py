"""Policy, wired. Reads top to bottom; no logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nomos.catalogue import load_catalogue
from nomos.servicemessages import Fact
from nomos_policy.admin import PolicyAdmin
from nomos_policy.changing import ChangeAdmin, Spread
from nomos_policy.cosigners import Cosigners
from nomos_policy.handlers import Authorizer, decoder
from nomos_policy.pages.app import build_pages
from nomos_policy.settings import PolicySettings
from nomos_policy.shadow import FOLLOWED as SHADOWS
from nomos_policy.shadowadmin import ShadowAdmin
from nomos_policy.shadowing import Shadowing
from nomos_policy.store import FOLLOWED as POLICIES
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import reader_tokens
from nomos_runtime.replicas import Replicas
from nomos_runtime.service import Parts
from nomos_runtime.settings import load
from nomos_web.server import WebServer

NAME: Final = "policy"
#: A replica that says nothing is waited for so many times longer than it may allow anything without news.
PRESENT_FACTOR: Final = 2


class PolicyService:
    """The running service."""

    def __init__(self, settings: PolicySettings, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._readers = reader_tokens(NAME, env)
        self._vocabulary = Vocabulary(load_catalogue(Path(settings.connectors)))
        self._parts: Parts | None = None
        self._shadows: Shadowing | None = None
        self._replicas: Replicas | None = None
        self._pages: WebServer | None = None

    async def start(self) -> None:
        """Connects, compiles what is in force, serves."""
        s = self._settings
        parts = self._parts = await Parts.open(NAME, s)
        events = await parts.open_store()
        sets, store = PolicySets(self._vocabulary), PolicyStore(events, self._vocabulary)
        cosigners = Cosigners(parts.bus, s.request_timeout_ms)
        shadows = self._shadows = Shadowing(events, store, self._vocabulary)

        def own(fact: Fact) -> None:
            sets.apply(fact)
            shadows.apply(fact)

        await serve_feed(parts.bus, events, dict.fromkeys(self._readers, (*POLICIES, *SHADOWS)))
        await parts.follow({"identity": parts.directory.apply, "stepup": cosigners.apply, NAME: own})
        await sets.compile_all()
        replicas = self._replicas = Replicas(parts.bus, present_seconds=PRESENT_FACTOR * s.feed_fresh_ms / 1000)
        (facts,) = (one for one in parts.followers if one.owner == NAME)
        facts.on_applied = replicas.applied
        await replicas.start()
        parts.spawn(replicas.run())
        authorizer = Authorizer(
            settings=s,
            bus=parts.bus,
            journal=parts.journal,
            directory=parts.directory,
            catalogue=self._vocabulary.catalogue,
            sets=sets,
            cosigners=cosigners,
            check_fresh=parts.check_fresh,
            decided=shadows.offer,
        )
        parts.spawn(shadows.run())
        await parts.responder.serve_tenants("authorize", "agent", decoder, authorizer.authorize)
        admin = PolicyAdmin(store, sets, self._vocabulary, parts.directory, parts.refresh)
        spread = Spread(replicas, sets, parts.refresh, lambda: facts.rev, wait_seconds=s.feed_fresh_ms / 1000)
        changes = ChangeAdmin(store, sets, spread)
        await parts.serve_admin({
            **admin.verbs(), **changes.verbs(), **ShadowAdmin(shadows, parts.refresh).verbs()
        })  # fmt: skip
        if s.pages_listen:
            self._pages = build_pages(
                s,
                bus=parts.bus,
                responder=parts.responder,
                directory=parts.directory,
                store=store,
                sets=sets,
                vocabulary=self._vocabulary,
                changes=changes,
                refresh=parts.refresh,
            )
            await self._pages.start()
        await parts.serving()

    def faults(self) -> list[str]:
        """Why policy cannot keep its promise now."""
        if self._parts is None:
            return ["not started"]
        return [*self._parts.faults(), *(self._pages.faults() if self._pages else ())]

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._pages:
            await self._pages.stop()
        if self._replicas:
            await self._replicas.leave()
        if self._shadows:
            await self._shadows.close()
        if self._parts:
            await self._parts.close()


def build(env: Mapping[str, str]) -> PolicyService:
    """Policy from its environment."""
    return PolicyService(load(PolicySettings, NAME, env), env)

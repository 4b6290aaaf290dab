"""Stepup, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from nomos.events import COSIGNER_CREATED, TENANT_CLOSED, TENANT_CREATED
from nomos.messages import Fact
from nomos_runtime.erasing import People
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import callers, reader_tokens
from nomos_runtime.resealing import by_purpose
from nomos_runtime.sealing import Sealer
from nomos_runtime.service import Parts
from nomos_runtime.settings import load
from nomos_runtime.subjects import PURPOSES, Subjects
from nomos_runtime.topology.doors import PAGES
from nomos_stepup.admin import StepupAdmin
from nomos_stepup.ceremonies import Ceremonies
from nomos_stepup.handlers import Stepup, await_decoder, consume_decoder, open_decoder
from nomos_stepup.index import APPROVAL_TYPES, APPROVER_TYPES, Index
from nomos_stepup.links import approval_url
from nomos_stepup.operatoraccess import OperatorAccess, parse_services, redeem_decoder, session_decoder
from nomos_stepup.operatoradmin import OperatorAdmin
from nomos_stepup.operatorevents import SIGN_IN_TYPES
from nomos_stepup.operatorstore import OperatorStore, SessionIndex
from nomos_stepup.pages.app import build_pages
from nomos_stepup.settings import StepupSettings
from nomos_stepup.store import COSIGNER_NAME, COSIGNER_PURPOSE, KIND, StepupStore
from nomos_stepup.webauthn import RelyingParty, relying_party
from nomos_web.server import WebServer

NAME: Final = "stepup"
EXPIRE_SECONDS: Final = 1.0


class StepupService:
    """The running service."""

    def __init__(self, settings: StepupSettings, party: RelyingParty, sealer: Sealer, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._party = party
        self._sealer = sealer
        self._readers: dict[str, tuple[str, ...]] = dict.fromkeys(reader_tokens(NAME, env), (COSIGNER_CREATED,))
        self._callers = callers(env, "policy")
        self._asking = callers(env, *PAGES)
        self._services = parse_services(settings.sign_in_services, PAGES)
        self._readers["self"] = (*APPROVAL_TYPES, *APPROVER_TYPES, *SIGN_IN_TYPES)
        self._parts: Parts | None = None
        self._pages: WebServer | None = None

    async def start(self) -> None:
        """Connects, folds what is stored, serves."""
        parts = self._parts = await Parts.open(NAME, self._settings)
        events = await parts.open_store()
        subjects = Subjects(events, self._sealer)
        index, store = Index(), StepupStore(events, self._sealer, subjects)

        async def make_cosigner(tenant: str) -> None:
            if not parts.directory.is_closed(tenant):
                await store.cosigner(tenant)

        def apply(fact: Fact) -> None:
            parts.directory.apply(fact)
            if fact.type == TENANT_CREATED:
                # Before the first approval: policy must know the cosigner that it is going to be shown.
                parts.spawn(make_cosigner(fact.tenant))
            if fact.type == TENANT_CLOSED:
                store.forget(fact.tenant)

        sessions = SessionIndex()

        def apply_own(fact: Fact) -> None:
            index.apply(fact)
            sessions.apply(fact)

        await serve_feed(parts.bus, events, self._readers)
        await parts.follow({"identity": apply, NAME: apply_own})
        if self._sealer.is_rotating:
            await parts.reseal(by_purpose(self._sealer, {COSIGNER_NAME: COSIGNER_PURPOSE, **PURPOSES}))
        ceremonies = Ceremonies(self._party, store, index)
        stepup = Stepup(self._settings, store, index, parts.directory.is_closed, self._url_of)
        await parts.responder.serve_service("svc.stepup.open.*", self._callers, open_decoder, stepup.open)
        await parts.responder.serve_service("svc.stepup.consume.*", self._callers, consume_decoder, stepup.consume)
        await parts.responder.serve_tenants("stepup", "agent", await_decoder, stepup.status)
        operator_store = OperatorStore(events)
        operators = OperatorAccess(
            operator_store,
            self._party,
            standing=parts.responder.standing,
            services=self._services,
            enrolment_seconds=self._settings.enrolment_seconds,
            session_seconds=self._settings.session_seconds,
        )
        await parts.responder.serve_callers("svc.stepup.redeem.*", self._asking, redeem_decoder, operators.redeem)
        await parts.responder.serve_callers("svc.stepup.session.*", self._asking, session_decoder, operators.ask)
        about = OperatorAdmin(operators, operator_store, sessions, has_pages=bool(self._settings.pages_listen)).verbs()
        admin = StepupAdmin(self._settings, ceremonies, store, index)
        people = People(kind=KIND, subjects=subjects, release=admin.release, held=admin.held)
        await parts.serve_admin(
            {**admin.verbs(), **about}, installation=("approval-find",), either=tuple(about), people=people
        )
        parts.spawn(self._expire(stepup))
        if self._settings.pages_listen:
            self._pages = build_pages(
                parts,
                self._settings,
                ceremonies=ceremonies,
                store=store,
                index=index,
                sealer=self._sealer,
                operators=operators,
            )
            await self._pages.start()
        await parts.serving()

    async def _expire(self, stepup: Stepup) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            await stepup.expire()

    def faults(self) -> list[str]:
        """Why stepup cannot keep its promise now."""
        if self._parts is None:
            return ["not started"]
        return [*self._parts.faults(), *(self._pages.faults() if self._pages else ())]

    def _url_of(self, approval: str) -> str:
        return approval_url(self._party, approval) if self._settings.pages_listen else ""

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._pages:
            await self._pages.stop()
        if self._parts:
            await self._parts.close()


def build(env: Mapping[str, str]) -> StepupService:
    """Stepup from its environment."""
    settings = load(StepupSettings, NAME, env)
    party = relying_party(
        rp_id=settings.rp_id,
        name=settings.rp_name,
        origins=tuple(settings.rp_origins.split(",")),
        software_passkeys=settings.environment == "development",
    )
    return StepupService(settings, party, Sealer.from_env("STEPUP_KEY_ENCRYPTION_KEY", env), env)

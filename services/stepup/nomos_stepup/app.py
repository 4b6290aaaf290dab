"""Stepup, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from nomos.errors import Misconfigured
from nomos.events import COSIGNER_CREATED, TENANT_CLOSED, TENANT_CREATED
from nomos.loopback import is_loopback
from nomos.servicemessages import Fact
from nomos_runtime.erasing import People
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import callers, reader_tokens
from nomos_runtime.resealing import by_purpose
from nomos_runtime.sealing import Sealer
from nomos_runtime.secret import Secret
from nomos_runtime.service import Parts
from nomos_runtime.settings import load, optional_secret
from nomos_runtime.subjects import PURPOSES, Subjects
from nomos_runtime.topology.doors import PAGES
from nomos_stepup.admin import StepupAdmin
from nomos_stepup.ceremonies import Ceremonies
from nomos_stepup.handlers import Stepup, await_decoder, consume_decoder, open_decoder
from nomos_stepup.index import APPROVAL_TYPES, APPROVER_TYPES, Index
from nomos_stepup.links import approval_url
from nomos_stepup.noticeadmin import NoticeAdmin
from nomos_stepup.notices import FOLLOWED, check_address
from nomos_stepup.noticestore import PURPOSE, SEALED, NoticeStore
from nomos_stepup.notifying import Notifier
from nomos_stepup.operatoraccess import OperatorAccess, parse_services, redeem_decoder, session_decoder
from nomos_stepup.operatoradmin import OperatorAdmin
from nomos_stepup.operatorevents import SIGN_IN_TYPES
from nomos_stepup.operatorstore import OperatorStore, SessionIndex
from nomos_stepup.pages.app import build_pages
from nomos_stepup.pushes import PUSH_PURPOSE, PUSH_SEALED, PUSH_TYPES, Pushes
from nomos_stepup.sending import MailServer
from nomos_stepup.settings import StepupSettings
from nomos_stepup.store import COSIGNER_NAME, COSIGNER_PURPOSE, KIND, StepupStore
from nomos_stepup.webauthn import RelyingParty, relying_party
from nomos_stepup.webpush import Sender
from nomos_web.server import WebServer

NAME: Final = "stepup"
EXPIRE_SECONDS: Final = 1.0
#: Beginnings of the names of sealed records, and what each is sealed for.
_PURPOSES: Final = {COSIGNER_NAME: COSIGNER_PURPOSE, SEALED: PURPOSE, PUSH_SEALED: PUSH_PURPOSE, **PURPOSES}


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
        self._readers["self"] = (*APPROVAL_TYPES, *APPROVER_TYPES, *FOLLOWED, *SIGN_IN_TYPES)
        self._readers["self"] += PUSH_TYPES
        self._mail = _mail_server(settings, env)
        push_key = optional_secret("STEPUP_PUSH_KEY", env)
        self._sender = Sender(push_key, settings.push_subject) if push_key else None
        self._notifier: Notifier | None = None
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
        await serve_feed(parts.bus, events, self._readers)
        channels = NoticeStore(events, self._sealer)
        development = self._settings.environment == "development"
        pushes = Pushes(events, self._sealer, index)
        notifier = self._notifier = self._make_notifier(index, channels, pushes)

        def own(fact: Fact) -> None:
            if fact.type in FOLLOWED:
                notifier.apply(fact)
            elif fact.type in PUSH_TYPES:
                pushes.apply(fact)
            else:
                index.apply(fact)
                sessions.apply(fact)

        await parts.follow({"identity": apply, NAME: own})
        if self._sealer.is_rotating:
            await parts.reseal(by_purpose(self._sealer, _PURPOSES))
        ceremonies = Ceremonies(self._party, store, index)
        stepup = Stepup(self._settings, store, index, parts.directory.is_closed, self._url_of)
        await self._serve_agents(parts, stepup)
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
        admin = StepupAdmin(self._settings, ceremonies, store, index, pushes)
        people = People(kind=KIND, subjects=subjects, release=admin.release, held=admin.held)
        notices = NoticeAdmin(
            channels, notifier, parts.refresh, development=development, has_mail=bool(self._mail.host)
        )
        verbs = {**admin.verbs(), **notices.verbs(), **about}
        await parts.serve_admin(verbs, installation=("approval-find",), either=tuple(about), people=people)
        parts.spawn(self._expire(stepup))
        parts.spawn(notifier.run())
        if self._settings.pages_listen:
            self._pages = build_pages(
                parts,
                self._settings,
                ceremonies=ceremonies,
                store=store,
                index=index,
                sealer=self._sealer,
                operators=operators,
                pushes=pushes,
                sender=self._sender,
            )
            await self._pages.start()
        await parts.serving()

    async def _serve_agents(self, parts: Parts, stepup: Stepup) -> None:
        await parts.responder.serve_service("svc.stepup.open.*", self._callers, open_decoder, stepup.open)
        await parts.responder.serve_service("svc.stepup.consume.*", self._callers, consume_decoder, stepup.consume)
        await parts.responder.serve_tenants("stepup", "agent", await_decoder, stepup.status)

    def _make_notifier(self, index: Index, channels: NoticeStore, pushes: Pushes) -> Notifier:
        return Notifier(
            index,
            channels,
            server=self._mail,
            url_of=self._url_of,
            development=self._settings.environment == "development",
            pushes=pushes,
            sender=self._sender,
        )

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
        if self._notifier:
            await self._notifier.close()
        if self._parts:
            await self._parts.close()


def _mail_server(settings: StepupSettings, env: Mapping[str, str]) -> MailServer:
    """The mail server of the settings.

    Raises:
        Misconfigured: a way of encrypting that there is none of, clear text beyond loopback, or no sender.
    """
    clear = settings.environment == "development" and is_loopback(settings.smtp_host)
    if settings.smtp_host and settings.smtp_tls not in ("starttls", "tls", *(("none",) if clear else ())):
        raise Misconfigured(
            f"smtp_tls must be starttls or tls, got {settings.smtp_tls!r}", hint="none is for loopback, in development"
        )
    if settings.smtp_host:
        check_address(settings.smtp_from)
    return MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        tls=settings.smtp_tls,
        user=settings.smtp_user,
        password=Secret(optional_secret("STEPUP_SMTP_PASSWORD", env).encode()),
        sender=settings.smtp_from,
    )


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

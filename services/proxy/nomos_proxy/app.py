"""Proxy, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nomos.catalogue import Rate, load_catalogue
from nomos.events import PII_SET
from nomos.ids import new_id
from nomos_proxy.accountadmin import AccountAdmin
from nomos_proxy.admin import ProxyAdmin
from nomos_proxy.cleaning import Cleaning
from nomos_proxy.clientadmin import INSTALLATION as SHARED_CLIENTS
from nomos_proxy.destination import Origin
from nomos_proxy.dial import HttpVersion, tls_context
from nomos_proxy.ending import Ending
from nomos_proxy.federation.issuer import Issuer, parse_keys
from nomos_proxy.federation.tokens import Federated
from nomos_proxy.federationadmin import FederationAdmin
from nomos_proxy.following import Following
from nomos_proxy.gate import Gate, GateLimits
from nomos_proxy.handlers import Broker, decoder, upload_decoder
from nomos_proxy.intake import BearerIntake
from nomos_proxy.issuers import Issuers
from nomos_proxy.keyadmin import KeyAdmin
from nomos_proxy.keys import DataKeys
from nomos_proxy.oauth.attempts import Attempts
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.connecting import Connecting
from nomos_proxy.oauth.grants import Grants
from nomos_proxy.oauth.renewing import Accounts
from nomos_proxy.oauth.sweeping import Sweeper
from nomos_proxy.openanswers import OpenAnswers
from nomos_proxy.openanswers import decoder as read_decoder
from nomos_proxy.pages.app import build_pages
from nomos_proxy.personal import PersonalData, PersonalDataAdmin
from nomos_proxy.rates import Place
from nomos_proxy.replay import ReplaySet
from nomos_proxy.revocations import Revocations
from nomos_proxy.settings import ProxySettings
from nomos_proxy.sharedrates import SharedRates
from nomos_proxy.store import FOLLOWED, Connections, CredentialStore
from nomos_proxy.transports import Transports
from nomos_proxy.uploads import Uploads
from nomos_proxy.upstream import Upstreams
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import reader_tokens
from nomos_runtime.replicas import Replicas
from nomos_runtime.sealing import load_keyring
from nomos_runtime.service import Parts
from nomos_runtime.settings import load, optional_secret
from nomos_runtime.vault import Keyring, Vault
from nomos_web.server import WebServer

NAME: Final = "proxy"
#: A replica that says nothing for so long is not there any more; the others then take its share of the rates.
PRESENT_SECONDS: Final = 5.0
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Proxy:
    """The running service."""

    def __init__(self, settings: ProxySettings, keyring: Keyring, env: Mapping[str, str]) -> None:
        self._settings = settings
        federation = parse_keys(
            optional_secret("PROXY_FEDERATION_KEY", env), optional_secret("PROXY_FEDERATION_KEY_OTHERS", env)
        )
        #: None where there is no key, or nobody could read its public half.
        self._issuer = Issuer(settings.pages_origin, federation) if federation and settings.pages_origin else None
        self._vault = Vault(keyring, os.urandom)
        self._intake = BearerIntake(keyring.current.secret)
        self._readers = reader_tokens(NAME, env)
        self._catalogue = load_catalogue(Path(settings.connectors))
        # Grows by the connections that an operator gave another origin; stays empty outside development.
        self._development_origins: set[Origin] = set()
        self._transports = Transports(settings, self._development_origins)
        self._parts: Parts | None = None
        self._upstreams: Upstreams | None = None
        self._accounts: Accounts | None = None
        self._federated: Federated | None = None
        self._answers: OpenAnswers | None = None
        self._uploads: Uploads | None = None
        self._pages: WebServer | None = None
        self._replicas: Replicas | None = None

    async def start(self) -> None:
        """Connects, learns the connections and the tenants' issuing keys, serves."""
        s = self._settings
        parts = self._parts = await Parts.open(NAME, s)
        events = await parts.open_store(MIGRATIONS)
        connections = Connections(is_development=s.environment == "development")
        issuers, revocations = Issuers(), Revocations()
        keys = DataKeys(events, self._vault)
        credentials = CredentialStore(events, self._vault, keys)
        personal = PersonalData()
        replicas = self._replicas = await Replicas.join(parts.bus, parts.spawn, present_seconds=PRESENT_SECONDS)
        gate = Gate(
            GateLimits(
                tenant=Rate(calls=2 * s.tenant_calls_per_second, seconds=2),
                agent=Rate(calls=2 * s.agent_calls_per_second, seconds=2),
            ),
            place=lambda: Place(*replicas.place()),
            shared=SharedRates(parts.opened_database),
        )
        answers = self._answers = OpenAnswers(new_id("rp"))
        uploads = self._uploads = Uploads(answers.replica)
        upstreams = self._upstreams = Upstreams(
            context=tls_context(),
            http2=tls_context(version=HttpVersion.HTTP2),
            development_origins=self._development_origins,
        )
        clients = Clients(
            catalogue=self._catalogue,
            connections=connections,
            credentials=credentials,
            upstreams=upstreams,
            shared_accounts_max=s.shared_client_accounts,
            admit=gate.admit_one,
        )
        grants = Grants(parts.opened_database, self._vault, keys)
        accounts = self._accounts = Accounts(
            grants=grants, clients=clients, credentials=credentials, journal=parts.journal
        )
        federated = self._federated = Federated(issuer=self._issuer, upstreams=upstreams, journal=parts.journal)

        follow = Following(
            directory=parts.directory,
            connections=connections,
            personal=personal,
            issuers=issuers,
            revocations=revocations,
            keeps=(credentials, accounts, federated),
            forgets=(keys, gate, uploads),
            closed=lambda tenant: parts.spawn(answers.forget(tenant)),
            development_origins=self._development_origins if s.environment == "development" else None,
        )
        await serve_feed(parts.bus, events, dict.fromkeys(self._readers, (*FOLLOWED, PII_SET)))
        await parts.follow({"identity": follow.identity, "minting": follow.minted, NAME: follow.own})
        if self._vault.is_rotating:
            await parts.reseal(keys.seal_again)
        cleaning = Cleaning(
            parts.bus,
            personal,
            timeout_ms=s.sanitize_timeout_ms,
            large_timeout_ms=s.large_sanitize_timeout_ms,
        )
        broker = Broker(
            settings=s,
            journal=parts.journal,
            directory=parts.directory,
            catalogue=self._catalogue,
            issuers=issuers,
            revocations=revocations,
            connections=connections,
            credentials=credentials,
            accounts=accounts,
            federated=federated,
            replay=await ReplaySet.open(parts.bus, ttl_seconds=s.nonce_ttl_seconds, timeout_ms=s.request_timeout_ms),
            upstreams=upstreams,
            transports=self._transports,
            answers=answers,
            uploads=uploads,
            ending=Ending(settings=s, journal=parts.journal, cleaning=cleaning, answers=answers),
            check_fresh=parts.check_fresh,
            gate=gate,
        )
        await parts.responder.serve_tenants("invoke", "agent", decoder, broker.invoke)
        await parts.responder.serve_tenants("read", "agent", read_decoder, answers.read, at=answers.replica)
        await parts.responder.serve_tenants("upload", "agent", upload_decoder, broker.upload, at=answers.replica)
        parts.spawn(answers.watch())
        parts.spawn(uploads.watch())
        admin = ProxyAdmin(
            settings=s,
            catalogue=self._catalogue,
            connections=connections,
            credentials=credentials,
            intake=self._intake,
            volumes=self._transports.files.volumes,
            refresh=parts.refresh,
        )
        about_people = PersonalDataAdmin(settings=personal, store=events, refresh=parts.refresh)
        attempts = Attempts(
            store=events, vault=self._vault, keys=keys, clients=clients, credentials=credentials, grants=grants
        )
        connecting = Connecting(
            attempts, clients, origin=s.pages_origin, link_seconds=s.link_seconds, refresh=parts.refresh
        )
        sweeper = Sweeper(
            grants=grants,
            accounts=accounts,
            clients=clients,
            connections=connections,
            journal=parts.journal,
            is_closed=parts.directory.is_closed,
        )
        about_accounts = AccountAdmin(
            settings=s,
            connections=connections,
            credentials=credentials,
            intake=self._intake,
            clients=clients,
            connecting=connecting,
            grants=grants,
            accounts=accounts,
            sweeper=sweeper,
            refresh=parts.refresh,
        )
        about_clouds = FederationAdmin(
            settings=s,
            catalogue=self._catalogue,
            credentials=credentials,
            federated=federated,
            refresh=parts.refresh,
        )
        await parts.serve_admin(
            {
                **admin.verbs(),
                **about_people.verbs(),
                **about_accounts.verbs(),
                **about_clouds.verbs(),
                **KeyAdmin(keys, parts.directory).verbs(),
                **broker.stages.verbs(),
            },
            either=("sealing-key",),
            installation=("key-progress", "stages", *SHARED_CLIENTS),
            tables=("grants", "rates"),
            leaving=sweeper.leave,
        )
        parts.spawn(sweeper.run())
        if s.pages_listen:
            self._pages = build_pages(
                s,
                responder=parts.responder,
                directory=parts.directory,
                service=NAME,
                connecting=connecting,
                issuer=self._issuer,
            )
            await self._pages.start()
        await parts.serving()

    def faults(self) -> list[str]:
        """Why proxy cannot keep its promise now."""
        if self._parts is None:
            return ["not started"]
        return [*self._parts.faults(), *(self._pages.faults() if self._pages else ())]

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._replicas:
            await self._replicas.leave()
        if self._pages:
            await self._pages.stop()
        if self._accounts:
            await self._accounts.close()
        if self._federated:
            await self._federated.close()
        if self._answers:
            await self._answers.close()
        if self._parts:
            await self._parts.close()
        if self._upstreams:
            self._upstreams.close()
        self._transports.close()


def build(env: Mapping[str, str]) -> Proxy:
    """Proxy from its environment."""
    keyring = load_keyring("OAUTH_TOKEN_ENCRYPTION_KEY", env)
    return Proxy(load(ProxySettings, NAME, env), keyring, env)

"""The parts that every service is made of, and their life: open, serve, ready, stop.

``ready`` means the promise, not the process: the bus is connected, the journal confirms, every followed owner is
fresh, and no permission violation has been seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Final

from nomos.errors import NomosError, StalePolicy
from nomos.ids import SYSTEM_TENANT
from nomos.servicemessages import Fact
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.directory import Directory
from nomos_runtime.erasing import INSTALLATION_VERBS, SUBJECT_VERBS, Erasing, People
from nomos_runtime.eventstore import MIGRATIONS, EventStore
from nomos_runtime.feed import Follower, start_all
from nomos_runtime.journal import Journal
from nomos_runtime.refusals import Refusals
from nomos_runtime.resealing import SealAgain, reseal
from nomos_runtime.responder import NoParams, Operator, Responder, Verb, serve_admin
from nomos_runtime.settings import ServiceSettings

CATCH_UP_SECONDS: Final = 30.0
#: How often a service looks for stored events that could not be published, and tries again where it could not.
RELAY_SECONDS: Final = 1.0
RELAY_RETRY_SECONDS: Final = 0.1
#: Lines about ended background work in the faults.
DIED_MAX: Final = 16


class Parts:
    """What a service is built from. Build with :meth:`open`, then serve, then :meth:`close`."""

    def __init__(self, settings: ServiceSettings, bus: Bus, journal: Journal) -> None:
        self.settings = settings
        self.bus = bus
        self.journal = journal
        self.directory = Directory()
        self.followers: list[Follower] = []
        self.refusals = Refusals(bus, journal, per_minute=settings.refusals_per_minute)
        self.responder = Responder(
            bus, journal, self.directory, self.refresh, settings.tenant_in_flight_max, refusals=self.refusals
        )
        #: The admin verbs that are served.
        self.verbs: Mapping[str, Verb] = {}
        self._background: set[asyncio.Task[object]] = set()
        self._died: list[str] = []
        self.database: Database | None = None
        self._store: EventStore | None = None

    @classmethod
    async def open(cls, name: str, settings: ServiceSettings) -> Parts:
        """Connects to the bus as the service ``name``."""
        bus = await Bus.connect(
            service=name, url=settings.bus_url, creds=settings.bus_creds, in_flight_max=settings.in_flight_max
        )
        parts = cls(settings, bus, Journal(bus, timeout_ms=settings.journal_timeout_ms))
        parts.spawn(parts.refusals.run())
        return parts

    @property
    def store(self) -> EventStore:
        """The event store; there once :meth:`open_store` has run."""
        if self._store is None:
            raise RuntimeError("this service owns no state")
        return self._store

    @property
    def opened_database(self) -> Database:
        """The service's database; there once :meth:`open_store` has run."""
        if self.database is None:
            raise RuntimeError("this service owns no state")
        return self.database

    async def open_store(self, *migrations: Path) -> EventStore:
        """Opens Postgres, brings the schema up to date and publishes what a crash left waiting."""
        self.database = await Database.open(self.bus.service, self.settings.database_url)
        await self.database.migrate(MIGRATIONS, *migrations)
        self._store = EventStore(self.database, self.bus, journal_timeout_ms=self.settings.journal_timeout_ms)
        await self._store.relay()
        self.spawn(self._relay(self._store))
        return self._store

    async def _relay(self, store: EventStore) -> None:
        """Publishes what an append could not, at once after a reconnection: a stored change waits for nobody's next."""
        look = asyncio.Event()
        self.bus.on_reconnect(look.set)
        seconds = RELAY_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await look.wait()
            look.clear()
            seconds = RELAY_SECONDS
            try:
                if await store.is_waiting():
                    await store.relay()
            except NomosError as e:
                observe.say(self.bus.service, observe.OUTBOX_WAITING, code=e.code)
                seconds = RELAY_RETRY_SECONDS

    async def follow(self, owners: Mapping[str, Callable[[Fact], None]]) -> None:
        """Follows other services' facts; returns when every replica has caught up."""
        s = self.settings
        started = [
            Follower(
                self.bus,
                owner,
                apply,
                poll_ms=s.feed_poll_ms,
                fresh_ms=s.feed_fresh_ms,
                timeout_ms=s.request_timeout_ms,
            )
            for owner, apply in owners.items()
        ]
        self.followers += started
        await start_all(started, CATCH_UP_SECONDS)

    async def reseal(self, seal_again: SealAgain) -> None:
        """Brings what is sealed under another environment key under the current one. Call once the tenants are known.

        Raises:
            Unavailable: Postgres does not answer.
        """
        done = await reseal(self.store, [SYSTEM_TENANT, *self.directory.tenants], seal_again)
        observe.say(self.bus.service, observe.STORE_RESEALED, moved=done.moved, left=done.left)

    async def serve_admin(
        self,
        verbs: Mapping[str, Verb],
        *,
        installation: Collection[str] = (),
        either: Collection[str] = (),
        closed: Collection[str] = (),
        unnamed: Collection[str] = (),
        people: People | None = None,
        operators: People | None = None,
        tables: Collection[str] = (),
        leaving: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Serves the service's admin verbs, ``ready``, and where it has a store what erases. See :func:`serve_admin`.

        Args:
            verbs: the service's own.
            installation: as there.
            either: as there.
            closed: as there.
            unnamed: as there.
            people: whom the service knows in a tenant, if it knows people.
            operators: whom it knows in the installation.
            tables: the service's own tables of tenants, which an erasure empties of the tenant.
            leaving: what is done for a closed tenant before it is erased.
        """

        async def ready(operator: Operator, params: object) -> dict[str, object]:
            return {"service": self.bus.service, "producer": self.journal.producer, "faults": self.faults()}

        erasing: dict[str, Verb] = {}
        if self._store is not None:
            erasing = Erasing(
                service=self.bus.service,
                store=self._store,
                responder=self.responder,
                directory=self.directory,
                refresh=self.refresh,
                people=people,
                operators=operators,
                tables=tables,
                leaving=leaving,
            ).verbs()
        self.verbs = {**verbs, **erasing, "ready": (NoParams, ready)}
        await serve_admin(
            self.bus,
            self.responder,
            self.verbs,
            installation={*installation, *INSTALLATION_VERBS, "ready"},
            either={*either, *(SUBJECT_VERBS if operators is not None else ())},
            closed={*closed, *SUBJECT_VERBS},
            # Whether a service is well may be asked by whomever the bus lets in.
            unnamed={*unnamed, "ready"},
        )

    def check_fresh(self) -> None:
        """Checks that nothing is allowed on old facts.

        Raises:
            StalePolicy: an owner has not confirmed within the bound that nothing newer exists.
        """
        for follower in self.followers:
            if not follower.is_fresh:
                raise StalePolicy(f"facts of {follower.owner} are stale")

    def faults(self) -> list[str]:
        """Why this service cannot keep its promise right now; empty when it can."""
        found = []
        if not self.bus.connected:
            found.append("not connected to the bus")
        if self.journal.stalled:
            found.append("the journal does not confirm")
        if self.bus.violations:
            found.append(f"{self.bus.violations} permission violations on the bus")
        found += [f"facts of {f.owner} are stale" for f in self.followers if not f.is_fresh]
        found += self._died
        return found

    async def refresh(self) -> None:
        """Brings every replica of facts up to date now, within a second."""
        await asyncio.gather(*(f.refresh() for f in self.followers))

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Runs ``work`` beside the requests, for as long as the service lives.

        A failure is said, never lost. One that nobody foresaw (no :class:`NomosError`) is a fault of the service until
        it is started again: what should be running is not.
        """
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._background.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        observe.say(self.bus.service, observe.BACKGROUND_FAULT, error=repr(error)[:200])
        if not isinstance(error, NomosError) and len(self._died) < DIED_MAX:
            self._died.append(f"background work ended with {type(error).__name__}")

    async def serving(self) -> None:
        """Call last in a service's start: returns when the server knows every subscription."""
        await self.bus.flush()
        observe.say(self.bus.service, observe.SERVICE_READY)

    async def close(self) -> None:
        """Stops in order: no new work, what runs ends, the journal, the stores."""
        for task in self._background:
            task.cancel()
        for follower in self.followers:
            await follower.stop()
        await self.refusals.stop()
        await self.journal.close()
        await self.bus.close()
        if self.database is not None:
            await self.database.close()
        observe.say(self.bus.service, observe.SERVICE_STOPPED)

"""The replicas of one service, as they tell each other how far they have folded their owner's facts.

Each replica says on ``applied.<service>``, inside the service's own account, up to which revision of its own facts it
has come: after each change, every :data:`BEAT_SECONDS`, to one that is new, and when it leaves. Whoever changes
something can then wait for all that are there, and name those that lag. One that has said nothing for a while is not
there any more: by then it has not heard of anything either, and its own bound on freshness stops it
(:meth:`nomos_runtime.feed.Follower.is_fresh`).

Whoever divides something among all that are there asks which of how many it is (:meth:`Replicas.place`). All agree
once they have heard of each other: a moment after one has come or left, and the presence time after one has died.

What is said here allows nothing by itself: a lost word makes an operator wait longer, or a share too large until the
next one, and a wrong one could only come from a process with the service's own credentials.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from nomos.errors import Malformed
from nomos.ids import new_id
from nomos.messages import Decoder, encode
from nomos_runtime import observe
from nomos_runtime.bus import Bus

BEAT_SECONDS: Final = 1.0
#: How long one that comes listens for answers before it goes on; another one starts this time anew.
SETTLE_SECONDS: Final = 0.1
#: Answers for which it does so.
_SETTLE_ANSWERS_MAX: Final = 50
#: Replicas that are remembered at once.
REPLICAS_MAX: Final = 1_000


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag="applied"):
    """What one replica says.

    Attributes:
        v: 1.
        replica: its id, for as long as its process lives.
        label: its host and process, for people.
        rev: it has folded all facts below this number.
        leaves: whether it stops now.
    """

    v: int
    replica: str
    label: str
    rev: int
    leaves: bool = False


_applied = Decoder.of(Applied, "applied message")


class Replicas:
    """The replicas of this service, this process among them."""

    def __init__(self, bus: Bus, *, present_seconds: float) -> None:
        """``present_seconds``: how long a replica that says nothing is thought to be there."""
        self._bus = bus
        self._subject = f"applied.{bus.service}"
        self._present_seconds = present_seconds
        self._id = new_id("rp")
        self._label = f"{socket.gethostname()}/{os.getpid()}"
        self._rev = 0
        self._heard: dict[str, tuple[Applied, float]] = {}
        self._changed = asyncio.Event()
        self._say = asyncio.Event()

    async def start(self) -> None:
        """Begins to listen."""
        await self._bus.listen(self._subject, self._hear)

    @classmethod
    async def join(
        cls, bus: Bus, spawn: Callable[[Coroutine[object, object, object]], None], *, present_seconds: float
    ) -> Replicas:
        """Comes to the others; returns when those that are there have had the time to answer.

        Args:
            bus: of the service.
            spawn: runs what says where this replica is, beside the requests.
            present_seconds: as of the class.
        """
        made = cls(bus, present_seconds=present_seconds)
        await made.start()
        await bus.flush()
        spawn(made.run())
        await made._settle()
        return made

    async def _settle(self) -> None:
        await self._publish(leaves=False)
        for _ in range(_SETTLE_ANSWERS_MAX):
            self._changed.clear()
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                return

    def place(self) -> tuple[int, int]:
        """Which of how many replicas this is, counted from 0 in the order of their ids."""
        there = sorted(one.replica for one in self._present())
        return there.index(self._id), len(there)

    def applied(self, rev: int) -> None:
        """This replica has folded all facts below ``rev``; said at once."""
        if rev > self._rev:
            self._rev = rev
            self._say.set()

    async def run(self) -> None:
        """Says where this replica is, for as long as the service lives."""
        while True:
            self._say.clear()
            await self._publish(leaves=False)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._say.wait()
            except TimeoutError:
                continue

    async def leave(self) -> None:
        """Says that this replica stops."""
        await self._publish(leaves=True)

    async def wait_for(self, rev: int, seconds: float) -> tuple[int, list[str]]:
        """Waits until every replica that is there has folded all facts below ``rev``.

        Args:
            rev: the number.
            seconds: how long at most.

        Returns:
            How many have, and the labels of those that have not.
        """
        until = time.monotonic() + seconds
        while True:
            self._changed.clear()
            there = self._present()
            lagging = sorted(one.label for one in there if one.rev < rev)
            left = until - time.monotonic()
            if not lagging or left <= 0:
                return len(there) - len(lagging), lagging
            try:
                # Also without a word: who has said nothing for long enough is not waited for.
                async with asyncio.timeout(min(left, BEAT_SECONDS)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _present(self) -> list[Applied]:
        now = time.monotonic()
        self._heard = {name: (one, at) for name, (one, at) in self._heard.items() if now - at <= self._present_seconds}
        mine = Applied(v=1, replica=self._id, label=self._label, rev=self._rev)
        return [mine, *(one for one, _ in self._heard.values())]

    async def _hear(self, message: Msg) -> None:
        try:
            said = _applied.decode(message.data)
        except Malformed as error:
            observe.say(self._bus.service, observe.BUS_ERROR, error=error.detail)
            return
        if not isinstance(said, Applied) or said.replica == self._id:
            return
        if said.leaves:
            self._heard.pop(said.replica, None)
        elif said.replica in self._heard or len(self._heard) < REPLICAS_MAX:
            if said.replica not in self._heard:
                # It does not know of this one either.
                self._say.set()
            self._heard[said.replica] = (said, time.monotonic())
        self._changed.set()

    async def _publish(self, *, leaves: bool) -> None:
        said = Applied(v=1, replica=self._id, label=self._label, rev=self._rev, leaves=leaves)
        try:
            await self._bus.client.publish(self._subject, encode(said))
        except nats.errors.Error as error:
            # The next beat says it again; until then somebody waits a moment longer.
            observe.say(self._bus.service, observe.BUS_ERROR, error=repr(error)[:200])

"""The keys of the log in one process: those that it has had, and those that this process can sign with.

Decides which keys must sign a size, also while one follows another: a *turn* that the chain announces is pending until
a durable note proves it (:mod:`nomos.log.keyhistory`). A key that has been followed is let go of. When to sign, and
what, is decided in :mod:`nomos_audit.checkpoints`.

Trusted: the two secrets of this process.
"""

from __future__ import annotations

import asyncio
from typing import Final

from nats.aio.client import Client

from nomos.errors import Malformed, Misconfigured, Unavailable
from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.keyhistory import KeyHistory, NotInForce, Turn, change_in, short_name
from nomos.log.note import NoKnownKey, NoteSigner, VerifierKey
from nomos.waiting import raise_if_cancelled
from nomos_audit.keys import KEY_END, NoTurns, Turns, keep, load_history, read_turn
from nomos_runtime import observe

KEY_TURNED: Final = "audit_key_turned"
KEY_IGNORED: Final = "audit_key_ignored"
RETRY_SECONDS: Final = 0.5
HELD_HINT: Final = "set AUDIT_SIGN_KEY to the log's key, and AUDIT_SIGN_KEY_NEXT to the one that follows while it does"


class Keyring:
    """The keys of one log. :meth:`load` first."""

    def __init__(
        self, client: Client, *, origin: str, seed: bytes, next_seed: bytes | None = None, turns: Turns | None = None
    ) -> None:
        """Takes the secrets.

        Raises:
            MalformedRecord: the origin or a seed's length is not allowed.
            Misconfigured: both seeds are the same.
        """
        self._client = client
        self._origin = origin
        self._signers = [NoteSigner(origin, one) for one in (seed, next_seed) if one is not None]
        held = [one.verifier_key for one in self._signers]
        if len(set(held)) != len(held):
            raise Misconfigured("AUDIT_SIGN_KEY_NEXT is the same key as AUDIT_SIGN_KEY")
        #: The key of ``AUDIT_SIGN_KEY_NEXT``, also when it is in force already; None where there is none.
        self.next_key = held[1] if len(held) > 1 else None
        #: All keys, as far as they are proven by notes that both keys signed; and the proofs, oldest first.
        self.keys = KeyHistory.begin(held[0])
        self.turns: tuple[Turn, ...] = ()
        self._kept = turns if turns is not None else NoTurns()
        self._pending: KeyHistory | None = None

    @property
    def is_turning(self) -> bool:
        """Whether the tree stands at a size where the key changes, and no note proves it to this process yet."""
        return self._pending is not None

    def holds(self, key: VerifierKey) -> bool:
        """Whether this process can sign with ``key``."""
        return any(one.verifier_key == key for one in self._signers)

    def lacks(self, size: int) -> str | None:
        """The name of a key that must sign when the tree of ``size`` is signed or grows, and is not held; or None."""
        keys = self.keys.at(size + 1) if self._pending is None else self._pending.at(size)
        return next((short_name(one) for one in keys if not self.holds(one)), None)

    async def load(self, newest: bytes | None) -> None:
        """Derives the log's keys from the newest note of all places.

        Raises:
            NoKnownKey: no key that this process holds signed it.
            BadSignature, RolledBack, Misconfigured, Unavailable: as of :func:`nomos_audit.keys.load_history`.
        """
        held = [one.verifier_key for one in self._signers]
        try:
            self.keys, turns = await load_history(self._client, self._origin, held, newest, self._kept)
        except NoKnownKey as error:
            error.hint = HELD_HINT
            raise
        self.turns = tuple(turns)
        self._let_go()

    def _let_go(self) -> None:
        """A key that has been followed must not sign any more."""
        wanted = (self.keys.in_force, self.next_key)
        self._signers = [one for one in self._signers if one.verifier_key in wanted]

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint of a note that every key signed that must sign its size, a pending turn included.

        Raises:
            NoKnownKey, NotInForce: it was not; perhaps by a key whose record was not met yet.
            BadSignature: a line of a known key does not verify.
            Malformed: not a checkpoint.
        """
        try:
            return (self.keys if self._pending is None else self._pending).open(note).checkpoint
        except (NoKnownKey, NotInForce) as error:
            error.hint = error.hint or HELD_HINT
            raise

    def meet(self, record: bytes, size: int, *, is_signed: bool) -> None:
        """Looks at the record that completes ``size``: the key may change there.

        Args:
            record: its canonical bytes.
            size: the tree's.
            is_signed: whether any smaller size was ever signed.
        """
        self._pending = None
        if not record.endswith(KEY_END):
            return
        try:
            change = change_in(record)
        except Malformed as error:
            observe.say("audit", KEY_IGNORED, size=size, detail=error.detail)
            return
        if change is not None and change.key == self.keys.in_force and not is_signed:
            # A log that was never signed, and we hold the new key alone: the old one must sign the turn as well.
            self._pending = KeyHistory.begin(change.prev).turn(change, size)
        elif change is not None and self.keys.follows(change):
            self._pending = self.keys.turn(change, size)
        else:
            observe.say("audit", KEY_IGNORED, size=size, detail="the record does not follow from the key in force")

    def forget(self) -> None:
        """Forgets a pending turn: the tree is built anew from another place."""
        self._pending = None

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """The note of ``checkpoint``, by every key that must sign its size.

        Raises:
            Unavailable: this process does not hold one of them; nothing is signed.
        """
        chosen = []
        for key in (self.keys if self._pending is None else self._pending).at(checkpoint.size):
            signer = next((one for one in self._signers if one.verifier_key == key), None)
            if signer is None:
                raise Unavailable(
                    f"this process does not hold the key {short_name(key)}, which must sign size {checkpoint.size}",
                    hint=HELD_HINT,
                )
            chosen.append(signer)
        return sign_checkpoint(checkpoint, chosen)

    async def turn(self, note: bytes) -> None:
        """Goes over to the pending keys, where there are any, by the durable note of the turn.

        A crash here loses nothing: the next start derives the same from the same note.

        Raises:
            RolledBack: the chain does not hold the record any more.
        """
        keys = self._pending
        if keys is None:
            return
        while True:
            try:
                turn = await read_turn(self._client, self._origin, note)
            except Unavailable:
                raise_if_cancelled()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            break
        assert turn is not None, "the record is the last one of the tree that was signed"
        self.keys, self._pending, self.turns = keys, None, (*self.turns, turn)
        self._let_go()
        observe.say("audit", KEY_TURNED, size=keys.since, key=short_name(keys.in_force))
        await keep(self._kept, keys.since, turn)

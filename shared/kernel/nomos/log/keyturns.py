"""Judging changes of key: the log's own records ``audit.key``, against the signatures and the auditor's trust policy.

Decides, in order, for each record: whether it counts (:mod:`nomos.log.keyhistory`); that the checkpoint of the size
that it completes, where it is here and the policy has both keys, is signed by both; and, when all have been read, that
no checkpoint is signed only by a key that was followed before its size, or that began after it. The policy may be wider
than what the log says of itself (an old key without a last size): then the log's own word is held against it too.

What the policy does not know is no finding: a new key that it lacks is told as a warning, for the auditor to add.
"""

from __future__ import annotations

from collections.abc import Iterable

from nomos.errors import Malformed
from nomos.log.facts import OwnRecord
from nomos.log.heads import KEY
from nomos.log.keyhistory import KeyChange, KeyHistory, change_in, short_name
from nomos.log.report import SignedRoot, Verdict
from nomos.log.statements import Divergence
from nomos.log.trust import TrustPolicy


class KeyTurns:
    """The changes of key of one log. Give it the log's own records in order, then :meth:`finish`."""

    def __init__(self, trust: TrustPolicy, roots: Iterable[SignedRoot], *, first: int = 0) -> None:
        """Takes the auditor's policy, the checkpoints that were verified under it, and the first record to be read."""
        self._trust = trust
        self._first = first
        self._signed = {one.size: frozenset(one.keys) for one in roots}
        self._history: KeyHistory | None = None
        self.proven = 0
        self.warnings: list[str] = []
        self.not_checked: list[str] = []

    def judge_record(self, own: OwnRecord) -> None:
        """Judges one of the log's own records in its place.

        Raises:
            Divergence: a key begins here, and a key that must have signed the checkpoint did not.
        """
        if own.type != KEY:
            return
        try:
            change = change_in(own.record)
        except Malformed as error:
            self.warnings.append(f"record {own.seq}: a change of key that changes nothing: {error.detail}")
            return
        if change is None:
            return
        before = self._history if self._history is not None else KeyHistory.begin(change.prev)
        if not before.follows(change):
            self.warnings.append(
                f"record {own.seq}: a change of key that changes nothing: it is not from the key in force"
            )
            return
        size = own.seq + 1
        self._history = before.turn(change, size)
        self._judge_turn(own.seq, change, size)

    def _judge_turn(self, seq: int, change: KeyChange, size: int) -> None:
        known = self._trust.log_keys()
        if change.key not in known:
            self.warnings.append(
                f"record {seq}: from size {size} on {short_name(change.key)} signs, a key that the policy does not have"
            )
        elif self._trust.may_sign(change.prev, size + 1):
            self.warnings.append(
                f"record {seq}: the policy lets {short_name(change.prev)} speak for sizes above {size},"
                f" where another key follows: sizes:<first>-{size} would not"
            )
        signed = self._signed.get(size)
        if change.key not in known or change.prev not in known:
            self.not_checked.append(
                f"that both keys signed size {size}, where one follows the other (the policy lacks one)"
            )
        elif signed is None:
            self.not_checked.append(f"that both keys signed size {size}, where the key changes (it is not among these)")
        elif not {str(change.key), str(change.prev)} <= signed:
            raise Divergence(
                Verdict.TAMPERED, seq, f"a new key begins, and the checkpoint of size {size} is not signed by both keys"
            )
        else:
            self.proven += 1

    def finish(self) -> None:
        """Checks that each checkpoint is signed by a key that the log's own records allow for its size.

        Raises:
            Divergence: one is signed by a key that was followed before, or begins later.
        """
        if self._history is None:
            return
        for size, keys in sorted(self._signed.items()):
            # What lies before the records that were read may be a key's of which nothing stands in them.
            if size > self._first and not keys & {str(one) for one in self._history.at(size)}:
                raise Divergence(
                    Verdict.TAMPERED,
                    max(size - 1, 0),
                    f"the checkpoint of size {size} is signed by a key that by the log's own records had no such size",
                )

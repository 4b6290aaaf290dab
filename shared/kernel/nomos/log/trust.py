"""The auditor's trust policy: c2sp.org/tlog-policy. The only anchor of the offline verifier.

Decides which logs, keys and witnesses count and what quorum is demanded. The text reaches the verifier from the
auditor's own hands, never from the export that is being judged.

One addition, in the place that tlog-policy leaves to applications: the URL of a ``log`` line may be
``sizes:<first>-<last>`` (``<last>`` may be absent). Then this key speaks only for tree sizes in that range, so a key
that has been rotated out cannot sign a later checkpoint, nor a new one an earlier.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.checkpoint import parse_decimal
from nomos.log.note import KeyKind, VerifierKey, parse_vkey
from nomos.log.tree import TREE_SIZE_MAX

TRUST_BYTES_MAX: Final = 65_536
#: Each of logs, witnesses and groups; the specification asks for at least 32.
ENTRIES_MAX: Final = 64
NO_QUORUM: Final = "none"
_SIZES = re.compile(r"sizes:([0-9]+)-([0-9]*)")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_SPACE = re.compile(r"[ \t]+")


class LogKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a log and the tree sizes, both ends included, for which it may speak."""

    key: VerifierKey
    first_size: int = 0
    last_size: int = TREE_SIZE_MAX


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """At least ``threshold`` of ``members`` (witnesses or groups) must have cosigned."""

    threshold: int
    members: tuple[str, ...]


class TrustPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed policy. ``quorum`` names a witness or a group, or is ``none``."""

    logs: tuple[LogKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str
    urls: Mapping[str, str] = {}
    """Where a witness is asked, by its name in the policy. The verifier has no use for it; the log asks there."""

    def origins(self) -> frozenset[str]:
        """The logs that the policy knows."""
        return frozenset(one.key.name for one in self.logs)

    def log_keys(self) -> list[VerifierKey]:
        """The keys of all logs."""
        return [one.key for one in self.logs]

    def may_sign(self, key: VerifierKey, size: int) -> bool:
        """Whether ``key`` may speak for a tree of ``size``."""
        return any(one.key == key and one.first_size <= size <= one.last_size for one in self.logs)

    def is_quorum(self, cosigners: Collection[VerifierKey]) -> bool:
        """Whether these witnesses' cosignatures are enough. Always true for ``quorum none``."""
        return self.quorum == NO_QUORUM or self._witnessed(self.quorum, {one.public for one in cosigners})

    def _witnessed(self, name: str, cosigners: set[bytes]) -> bool:
        if name in self.witnesses:
            return self.witnesses[name].public in cosigners
        group = self.groups[name]
        return sum(self._witnessed(member, cosigners) for member in group.members) >= group.threshold


class _Parsing:
    """What the lines read so far have defined."""

    def __init__(self) -> None:
        self.logs: list[LogKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.urls: dict[str, str] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self._members: set[str] = set()
        self._publics: set[bytes] = set()

    def _take_key(self, text: str, kind: KeyKind, what: str) -> VerifierKey:
        key = parse_vkey(text)
        if key.kind is not kind:
            raise MalformedRecord(f"the key of a {what} must be of type {int(kind)}")
        # One public key counts once, whatever it is called: neither as two witnesses nor as log and witness.
        if key.public in self._publics:
            raise MalformedRecord("one public key stands twice in the policy")
        self._publics.add(key.public)
        return key

    def _new_name(self, name: str) -> str:
        if name == NO_QUORUM or name in self.witnesses or name in self.groups:
            raise MalformedRecord("a name of the policy is defined twice or reserved")
        return name

    def log(self, fields: list[str]) -> None:
        if len(fields) not in (1, 2):
            raise MalformedRecord("a log line has a key and at most one URL")
        key = self._take_key(fields[0], KeyKind.ED25519, "log")
        first, last = 0, TREE_SIZE_MAX
        if len(fields) == 2 and fields[1].startswith("sizes:"):
            match = _SIZES.fullmatch(fields[1])
            if match is None:
                raise MalformedRecord("a range of sizes has the form sizes:<first>-<last>")
            first = parse_decimal(match[1])
            last = parse_decimal(match[2]) if match[2] else TREE_SIZE_MAX
            if first > last:
                raise MalformedRecord("a range of sizes must not be empty")
        self.logs.append(LogKey(key=key, first_size=first, last_size=last))

    def witness(self, fields: list[str]) -> None:
        if len(fields) not in (2, 3):
            raise MalformedRecord("a witness line has a name, a key and at most one URL")
        name = self._new_name(fields[0])
        self.witnesses[name] = self._take_key(fields[1], KeyKind.COSIGNATURE_V1, "witness")
        if len(fields) == 3:
            self.urls[name] = fields[2]

    def group(self, fields: list[str]) -> None:
        if len(fields) < 3:
            raise MalformedRecord("a group line has a name, a threshold and members")
        name, threshold, *members = fields
        self._new_name(name)
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise MalformedRecord("a group's member must be defined before it")
            if member in self._members:
                raise MalformedRecord("a name is a member of a group twice")
            self._members.add(member)
        spelled = {"any": 1, "all": len(members)}
        needed = spelled[threshold] if threshold in spelled else parse_decimal(threshold)
        if not 1 <= needed <= len(members):
            raise MalformedRecord("a group's threshold must be 1 to the number of its members")
        self.groups[name] = Group(threshold=needed, members=tuple(members))

    def set_quorum(self, fields: list[str]) -> None:
        if self.quorum is not None or len(fields) != 1:
            raise MalformedRecord("a policy has one quorum line with one name")
        name = fields[0]
        if name != NO_QUORUM and name not in self.witnesses and name not in self.groups:
            raise MalformedRecord("the quorum must be defined before it is named")
        self.quorum = name


def parse_trust(encoded: bytes) -> TrustPolicy:
    """Parses a policy file.

    Raises:
        MalformedRecord: it breaks the format; a key stands twice; there is no quorum line.
        LimitExceeded: longer than :data:`TRUST_BYTES_MAX`, or more entries than :data:`ENTRIES_MAX`.
    """
    if len(encoded) > TRUST_BYTES_MAX:
        raise LimitExceeded("trust policy size in bytes", TRUST_BYTES_MAX, len(encoded))
    if _FORBIDDEN.search(encoded):
        raise MalformedRecord("a policy must have no control character but tab and newline")
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        raise MalformedRecord("a policy must be UTF-8") from None
    parsing = _Parsing()
    readers = {
        "log": parsing.log,
        "witness": parsing.witness,
        "group": parsing.group,
        "quorum": parsing.set_quorum,
    }
    for line in text.split("\n"):
        word, *fields = _SPACE.split(line.strip(" \t"))
        if not word or word.startswith("#"):
            continue
        if word not in readers:
            raise MalformedRecord("a policy line must begin with log, witness, group or quorum")
        readers[word](fields)
    for entries in (parsing.logs, parsing.witnesses, parsing.groups):
        if len(entries) > ENTRIES_MAX:
            raise LimitExceeded("entries of a trust policy", ENTRIES_MAX, len(entries))
    if parsing.quorum is None:
        raise MalformedRecord("a policy must have a quorum line")
    return TrustPolicy(
        logs=tuple(parsing.logs),
        witnesses=parsing.witnesses,
        groups=parsing.groups,
        quorum=parsing.quorum,
        urls=parsing.urls,
    )

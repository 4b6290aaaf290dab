"""``audit keys`` and ``audit rotate-key``: the keys of the log as lines of a trust file, proven before they are shown.

The operator's own trust file is where the proof begins: one of its keys must be a key of the log, and each change of
key is checked from there, in both directions. So the answer of the service is not believed; a line that is printed is
one that a trusted key leads to.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

import msgspec

from nomos.cli.context import Context, load_context
from nomos.cli.output import Exit, error, result
from nomos.errors import BadSignature, Malformed, MalformedRecord, Misconfigured
from nomos.log.keyhistory import KeyHistory, Turn, change_in, short_name, verify_turn
from nomos.log.note import parse_vkey
from nomos.log.proof import format_receipt, parse_receipt
from nomos.log.record import parse_record
from nomos.log.trust import TrustPolicy, parse_trust
from nomos.operator import INSTALLATION, Operator

#: The record is chained and signed for by both keys first.
ROTATE_MS: Final = 90_000
KEYS_MS: Final = 10_000


class _Turn(msgspec.Struct, frozen=True):
    record: str
    receipt: str


class _Keys(msgspec.Struct, frozen=True):
    key: str
    since: int
    lines: list[str]
    turns: list[_Turn]


def keys(args: Namespace) -> int:
    """``nomos audit keys [--proofs DIR]``."""
    return _run(args, "keys", KEYS_MS, args.proofs)


def rotate_key(args: Namespace) -> int:
    """``nomos audit rotate-key``: answers when the new key is in force."""
    return _run(args, "rotate-key", ROTATE_MS, "")


def _run(args: Namespace, verb: str, timeout_ms: int, proofs: str) -> int:
    context = load_context(args)
    try:
        trust = parse_trust(Path(context.trust).read_bytes())
    except OSError as e:
        raise Misconfigured(f"{e.filename}: {e.strerror or e}") from e
    try:
        answer = msgspec.convert(asyncio.run(_ask(context, verb, timeout_ms)), _Keys)
        turns = [Turn(record=one.record.encode(), receipt=parse_receipt(one.receipt.encode())) for one in answer.turns]
        history = proven(turns, trust, answer.key)
    except msgspec.ValidationError as e:
        raise Malformed("the audit service sent another answer", cause=str(e)) from e
    except (MalformedRecord, BadSignature) as e:
        error(f"the keys are not proven: {e.detail}", "do not add them to a trust file; export the log and verify it")
        return Exit.NO
    lines = history.trust_lines()
    known = {one.key: (one.first_size, one.last_size) for one in trust.logs}
    missing = [
        line
        for line, one in zip(lines, history.spans, strict=True)
        if known.get(one.key) != (one.first_size, one.last_size)
    ]
    if proofs:
        _keep_proofs(Path(proofs), turns)
    members = {
        "key": str(history.in_force),
        "since": history.since,
        "lines": lines,
        "missing": missing,
        "turns": [{"record": one.record, "receipt": one.receipt} for one in answer.turns],
    }
    said = [*lines]
    if missing:
        said.append(f"# {context.trust} does not have: {len(missing)} of these lines; they replace its log lines")
    result(args, f"audit {verb}", members, said)
    return Exit.YES


def proven(turns: list[Turn], trust: TrustPolicy, in_force: str) -> KeyHistory:
    """The keys of a log, if the auditor's policy leads to all of them.

    Args:
        turns: the changes of key, oldest first.
        trust: the policy; one of its keys must be one of the log's.
        in_force: the key that is said to be the newest.

    Raises:
        MalformedRecord: a turn is malformed, or does not follow the one before.
        BadSignature: a turn is not proven, or no key of the policy is one of the log's.
    """
    newest = parse_vkey(in_force)
    first = newest
    if turns:
        change = change_in(turns[0].record)
        if change is None:
            raise MalformedRecord("a proof of a change of key holds another record")
        first = change.prev
    history = KeyHistory.begin(first)
    for turn in turns:
        step = verify_turn(turn, history.in_force)
        history = history.turn(step.change, step.size)
    if history.in_force != newest:
        raise MalformedRecord("the changes of key do not lead to the key that is said to be in force")
    if not {one.key for one in history.spans} & set(trust.log_keys()):
        raise BadSignature(f"no key of the trust file leads to {short_name(newest)}")
    return history


def _keep_proofs(folder: Path, turns: list[Turn]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for turn in turns:
            name = f"key-{parse_record(turn.record).seq + 1}.tlog-proof"
            for path, content in (
                (folder / name, format_receipt(turn.receipt)),
                (folder / f"{name}.record", turn.record),
            ):
                with path.open("xb") as target:
                    target.write(content)
    except OSError as e:
        raise Misconfigured(f"{e.filename or folder}: {e.strerror or e}", hint="nothing is overwritten") from e


async def _ask(context: Context, verb: str, timeout_ms: int) -> dict[str, Any]:
    async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
        return await operator.ask("audit", verb, INSTALLATION, timeout_ms=timeout_ms)

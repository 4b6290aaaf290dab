"""A single receipt as a file (``.tlog-proof``) with its record beside it, judged like an export.

Decides, with the auditor's trust policy alone: the checkpoint in the receipt is signed by a key that may speak for its
size and has the quorum; the record, with the chain hash before it, is the leaf at the stated index of that tree; the
record says that very index of itself. It says nothing about other records, but through the chain the record fixes every
one before it. Without the record's bytes there is nothing that the proof could be of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nomos.errors import BadSignature, Malformed
from nomos.eventschemas import what_is_wrong
from nomos.log.chain import link
from nomos.log.group import LEVEL_MEANING
from nomos.log.memory import Memory
from nomos.log.proof import PROOF_BYTES_MAX, parse_receipt
from nomos.log.record import RECORD_BYTES_MAX, parse_record
from nomos.log.report import Report, Tally, Verdict
from nomos.log.seals import describe, judge_note
from nomos.log.tree import leaf_hash, verify_inclusion
from nomos.log.trust import NO_QUORUM, TrustPolicy

RECORD_SUFFIX: Final = ".record"
KIND: Final = "receipt"


def record_beside(receipt: Path) -> Path:
    """Where the record of a receipt is looked for: the receipt's name with ``.record`` behind it."""
    return receipt.with_name(receipt.name + RECORD_SUFFIX)


def verify_receipt_file(
    path: Path,
    record: Path,
    trust: TrustPolicy,
    level: int,
    *,
    now: int,
    tenant: str | None = None,
    memory: Memory | None = None,
) -> Report:
    """Verifies a receipt.

    Args:
        path: the receipt.
        record: the record's canonical bytes.
        trust: the auditor's policy.
        level: 0, 1 or 2. Inclusion is checked at every level, form and members at 2.
        now: Unix seconds; cosignatures from after it do not count.
        tenant: whose record it must be; None takes any tenant's.
        memory: what earlier runs verified; a root of the same size must be the same.

    Returns:
        The report. It never says ``verified`` without the record.

    Raises:
        OSError: the receipt cannot be read.
        Malformed: the memory was made under other keys. Never raised for the content of the files.
    """
    tally = Tally()
    tally.kind, tally.tenant = KIND, tenant
    with path.open("rb") as source:
        encoded = source.read(PROOF_BYTES_MAX + 1)
    try:
        receipt = parse_receipt(encoded)
    except Malformed as error:
        tally.fail(Verdict.TAMPERED, error.detail, file=path.name)
        return tally.report(level)
    opened = judge_note(path.name, receipt.checkpoint, None, trust, tally)
    if opened is None:
        return tally.report(level)
    checkpoint = opened.verified.checkpoint
    tally.origin, tally.to_size = checkpoint.origin, checkpoint.size
    described = describe(opened, trust, now, tally)
    tally.roots.append(described)
    tally.checked.append("the checkpoint: log signature and every known cosignature")
    if not described.quorum:
        tally.fail(Verdict.UNVERIFIABLE, "the checkpoint lacks the quorum of witnesses", file=path.name)
    elif trust.quorum == NO_QUORUM:
        tally.not_checked.append("witnesses: the policy demands none")
    else:
        tally.checked.append("the checkpoint has the quorum that the policy demands")
    if memory is not None:
        memory.check_keys(checkpoint.origin, frozenset(str(one) for one in trust.log_keys()))
        memory.judge(checkpoint, opened.note, None, tally)
        tally.not_checked.append("whether this tree continues an earlier one of another size (an export proves it)")
    try:
        with record.open("rb") as source:
            content = source.read(RECORD_BYTES_MAX + 1)
    except OSError as error:
        missing = f"the receipt's record cannot be read, and the proof is of it: {error.strerror}"
        tally.fail(Verdict.INCOMPLETE, missing, seq=receipt.index, file=record.name)
        return tally.report(level)
    _judge_record(receipt.index, content, tenant, level, record.name, tally)
    leaf = leaf_hash(link(receipt.prev, content))
    try:
        verify_inclusion(receipt.index, checkpoint.size, leaf, receipt.path, checkpoint.root)
    except (BadSignature, Malformed) as error:
        reason = f"record and proof do not lead to the signed root: {error.detail}"
        tally.fail(Verdict.TAMPERED, reason, seq=receipt.index, file=path.name)
    else:
        tally.records = 1
        tally.checked.append(
            f"record {receipt.index} is in the tree of size {checkpoint.size}, and fixes all before it"
        )
    if level >= LEVEL_MEANING:
        tally.checked.append("canonical form and members of the record")
    tally.not_checked.append("any other record")
    tally.not_checked.append("whether a newer checkpoint exists, or an earlier run saw another one")
    return tally.report(level)


def _judge_record(  # noqa: PLR0917 - two facts of the receipt, three of the demand, the tally
    index: int, content: bytes, tenant: str | None, level: int, name: str, tally: Tally
) -> None:
    """Judges what the record says of itself. Its spelling is what the proof is of, so it must be canonical."""
    if len(content) > RECORD_BYTES_MAX:
        tally.fail(Verdict.TAMPERED, f"the record is longer than {RECORD_BYTES_MAX} bytes", seq=index, file=name)
        return
    try:
        parsed = parse_record(content)
    except Malformed as error:
        tally.fail(Verdict.TAMPERED, error.detail, seq=index, file=name)
        return
    wrong = what_is_wrong(parsed.type, parsed.event) if level >= LEVEL_MEANING else None
    if wrong is not None:
        tally.fail(Verdict.TAMPERED, wrong, seq=index, file=name)
    if parsed.seq != index:
        tally.fail(Verdict.TAMPERED, f"the record says that it is record {parsed.seq}", seq=index, file=name)
    if tenant is not None and parsed.tenant != tenant:
        reason = f"the record belongs to {parsed.tenant!a}, and one of {tenant!a} was demanded"
        tally.fail(Verdict.UNVERIFIABLE, reason, seq=index, file=name)

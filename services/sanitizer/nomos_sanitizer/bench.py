"""The measurement ``sanitize``: how fast bodies are sanitized on one core (processor time), and what is found where.

Throughput: recorded answers of a public API, as they are and joined to larger bodies, and hostile bodies of one kind
each. Recall: a secret of every rule, built anew, in every context; found means that it cannot be read in what leaves.
False alarms: near misses of every rule in the same contexts, and the recorded answers.

Other scanners are measured beside it where they are installed, on the same texts: ``detect-secrets`` (a Python package)
and ``kingfisher`` (a command). They report lines and do not redact, so for them found means that a file was reported.
Both are made for source code, and the texts are made from our rules: a format they do not list counts against them.
"""

from __future__ import annotations

import argparse
import base64
import html
import importlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from nomos.errors import Misconfigured, ResponseRefused
from nomos_sanitizer import memory
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.examples import build, secret_of
from nomos_sanitizer.limits import STREAM_STEP_BYTES
from nomos_sanitizer.rules import Rule, load_rules

LARGE_BYTES: Final = 1_000_000
TEN_KB: Final = 10_000
HOSTILE_BYTES: Final = 200_000
SCANNER_SECONDS: Final = 600
_ZERO_WIDTH: Final = "\u200b"
_SEED: Final = "bench"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of throughput: bodies of one case, one after the other on one core.

    Attributes:
        case: what was sanitized.
        size: mean bytes of a body.
        calls: how many were timed.
        mb_s: 10^6 bytes a second.
        p50_ms: milliseconds of one body.
        p99_ms: the same.
        outcome: ``cleaned`` or ``refused``.
        errors: empty.
    """

    case: str
    size: int
    calls: int
    mb_s: float
    p50_ms: float
    p99_ms: float
    outcome: str
    errors: dict[str, int]


class FoundRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of detection: one scanner in one context.

    Attributes:
        context: where the text stood.
        scanner: ``nomos``, ``detect-secrets`` or ``kingfisher``.
        secrets: how many stood there.
        found: of these.
        near: texts that are no secret.
        alarms: of these.
        errors: what ours missed.
    """

    context: str
    scanner: str
    secrets: int
    found: int
    near: int
    alarms: int
    errors: dict[str, int]


class Context(msgspec.Struct, frozen=True):
    """Where a text stands, and how it is read there."""

    name: str
    content_type: str
    wrap: Callable[[str], str]
    read: Callable[[str], str]
    in_header: bool = False
    in_chunks: bool = False


def _same(text: str) -> str:
    return text


def _strings(text: str) -> str:
    return str(json.loads(text)["note"])


def _in_base64(lead: str) -> Callable[[str], str]:
    return lambda text: "content: " + base64.b64encode(f"value {lead} {text} end of value".encode()).decode()


def _from_base64(text: str) -> str:
    run = text.removeprefix("content: ")
    return base64.b64decode(run + "=" * (-len(run) % 4)).decode("latin-1")


_LEAD: Final = ("word " * STREAM_STEP_BYTES)[: STREAM_STEP_BYTES - 10] + " "
CONTEXTS: Final = (
    Context("json value", "application/json", lambda text: json.dumps({"note": f"> {text} <"}), _strings),
    Context("prose", "text/plain", lambda text: f"use this: {text} and nothing else", _same),
    Context("url", "text/plain", lambda text: f"see https://example.com/?q={quote(text, safe='')} now", unquote),
    Context("html", "text/html", lambda text: f"<p>{html.escape(text)}</p>", html.unescape),
    Context("header", "", lambda text: f"v {text}", _same, in_header=True),
    Context("base64, aligned", "text/plain", _in_base64(""), _from_base64),
    Context("base64, shifted once", "text/plain", _in_base64("="), _from_base64),
    Context("base64, shifted twice", "text/plain", _in_base64("=>"), _from_base64),
    Context("split by zero-width", "text/plain", lambda text: f"see {_ZERO_WIDTH.join(text)} now",
            lambda text: text.replace(_ZERO_WIDTH, "")),
    Context("split over chunks", "text/plain", lambda text: f"{_LEAD}{text} now", _same, in_chunks=True),
)  # fmt: skip


class SanitizeBench:
    """The measurement."""

    WITH: Final[dict[str, object]] = {"engine": "hyperscan and RE2, in this process, one thread"}

    def run(self, args: argparse.Namespace, folder: Path) -> Sequence[Row | FoundRow]:
        """Measures; ``--seconds`` for each row of throughput."""
        recorded = _recorded(Path(args.connectors))
        memory.keep_freed()  # as the service does
        began = time.thread_time()
        sanitizer = Sanitizer.from_rules(load_rules())
        compiled_ms = (time.thread_time() - began) * 1e3
        rows: list[Row | FoundRow] = [
            Row(case="compiling all rules, once", size=0, calls=1, mb_s=0.0, p50_ms=compiled_ms, p99_ms=compiled_ms,
                outcome="cleaned", errors={})
        ]  # fmt: skip
        for case, bodies in (*_clean(recorded), *_hostile()):
            rows.append(_time(sanitizer, case, bodies, args.seconds))
        rules = load_rules()
        for context in CONTEXTS:
            rows.append(_nomos(sanitizer, context, rules))
        rows.append(_alarms(sanitizer, recorded))
        rows += _detect_secrets(rules, recorded, folder)
        rows += _kingfisher(rules, recorded, folder)
        return rows

    def lines(self, rows: Sequence[Row | FoundRow]) -> list[str]:
        """The outcome as lines."""
        lines = [f"{'case':<34} {'bytes':>9} {'calls':>7} {'MB/s':>8} {'p50 ms':>9} {'p99 ms':>9}  outcome"]
        lines += [
            f"{row.case:<34} {row.size:>9,} {row.calls:>7,} {row.mb_s:>8.1f} {row.p50_ms:>9.3f} {row.p99_ms:>9.3f}  "
            f"{row.outcome}"
            for row in rows
            if isinstance(row, Row)
        ]
        lines += ["", f"{'context':<24} {'scanner':<16} {'found':>6} {'of':>6} {'alarms':>7} {'of':>6}"]
        lines += [
            f"{row.context:<24} {row.scanner:<16} {row.found:>6,} {row.secrets:>6,} {row.alarms:>7,} {row.near:>6,}"
            for row in rows
            if isinstance(row, FoundRow)
        ]
        return lines


def _recorded(connectors: Path) -> list[bytes]:
    """Recorded answers of the repository that the catalogue stands in.

    Raises:
        Misconfigured: it is an installation without the repository's tests.
    """
    root = connectors.resolve().parent / "tests" / "fixtures"
    paths = sorted([*(root / "sanitizer" / "github").glob("*.json"), *(root / "github").glob("*.json")])
    if not paths:
        raise Misconfigured(f"there are no recorded answers in {root}", hint="run it in a copy of the repository")
    return [path.read_bytes() for path in paths]


def _clean(recorded: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    # What needs no second look: no escapes but white space, no member that may hold a secret.
    plain = [body for body in recorded if not body.count(b"token") and b"\\" not in body]
    yield "recorded, each alone", list(recorded)
    yield "recorded, joined to 1 MB", [_joined(recorded, LARGE_BYTES)]
    yield "clean, joined to 1 MB", [_joined(plain, LARGE_BYTES)]
    yield "clean, joined to 10 KB", [_joined(plain, TEN_KB)]
    yield "recorded, joined to 10 KB", [_joined(recorded, TEN_KB)]
    chance = random.Random(_SEED)  # noqa: S311 - bytes that are nobody's secret
    digests = [chance.randbytes(32).hex() for _ in range(LARGE_BYTES // 68)]
    yield "digests, 1 MB", [json.dumps({"layers": digests}).encode()]
    yield "commits with paths, 1 MB", [json.dumps([_commit(chance) for _ in range(LARGE_BYTES // 420)]).encode()]


def _commit(chance: random.Random) -> dict[str, str]:
    """One element of a list of commits: digests, and paths that have the characters of base64."""
    sha, number = chance.randbytes(20).hex(), chance.randrange(1_000)
    return {
        "sha": sha,
        "tree": f"sha256:{chance.randbytes(32).hex()}",
        "url": f"https://api.example.com/repos/acme/site/git/commits/{sha}",
        "html_url": f"https://example.com/acme/site/commit/{sha}",
        "path": f"services/part{number}/module_name/handlers/file_{number}.py",
        "message": f"Handler {number} answers again",
    }


def _joined(bodies: Sequence[bytes], size: int) -> bytes:
    """A JSON array of about this size; elements of the bodies where a whole body would be too much."""
    parts: list[bytes] = []
    length, number = 0, 0
    while length < size:
        body = bodies[number % len(bodies)].strip()
        number += 1
        if length + len(body) > size * 1.1 and number <= 4 * len(bodies):
            continue
        parts.append(body)
        length += len(body) + 1
    return b"[" + b",".join(parts) + b"]"


def _hostile() -> Iterator[tuple[str, list[bytes]]]:
    size = HOSTILE_BYTES
    chance = random.Random(_SEED)  # noqa: S311 - bytes that are nobody's secret
    shapes: tuple[tuple[str, bytes], ...] = (
        ("hostile: base64 of noise", b'{"a":"' + base64.b64encode(chance.randbytes(size * 3 // 4)) + b'"}'),
        ("hostile: beginnings of tokens", b"ghp_" * (size // 4)),
        ("hostile: beginnings, another rule", b"glpat-" * (size // 6)),
        ("hostile: one endless token", b"ghp_" + b"a" * size),
        ("hostile: json escapes", b'["' + b"\\u0041" * (size // 6) + b'"]'),
        ("hostile: percent escapes", b"%41" * (size // 3)),
        ("hostile: entities", b"&#65;" * (size // 5)),
        ("hostile: entities of two lengths", b"&#65;&#100;" * (size // 11)),
        ("hostile: a token in each 100 bytes", (b"ghp_" + b"a" * 36 + b" " + b"word " * 12) * (size // 100)),
        ("hostile: zero-width everywhere", "a\u200b".encode() * (size // 4)),
        ("hostile: brackets", b"[" * size),
        ("hostile: urls without a password", b"x://" * (size // 4)),
        ("hostile: role tags", b"<system> " * (size // 9)),
    )
    for case, body in shapes:
        yield case, [body]


def _time(sanitizer: Sanitizer, case: str, bodies: Sequence[bytes], seconds: float) -> Row:
    times: list[float] = []
    done = 0
    outcome = "cleaned"
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        for body in bodies:
            began = time.thread_time()
            try:
                sanitizer.sanitize(body, content_type="", headers=(), credentials=())
            except ResponseRefused:
                outcome = "refused"
            times.append(time.thread_time() - began)
            done += len(body)
    ordered = sorted(times)
    return Row(
        case=case,
        size=sum(map(len, bodies)) // len(bodies),
        calls=len(times),
        mb_s=done / sum(times) / 1e6,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[int(len(ordered) * 0.99)] * 1e3,
        outcome=outcome,
        errors={},
    )


def _pass(sanitizer: Sanitizer, context: Context, text: str) -> str:
    """What an agent would be shown of ``text``."""
    if context.in_header:
        fields = (("X-Note", text),)
        return sanitizer.sanitize(b"", content_type="", headers=fields, credentials=()).headers[0][1]
    if context.in_chunks:
        stream = sanitizer.stream(content_type=context.content_type)
        body = text.encode()
        return (b"".join(stream.feed(body[at : at + 7]) for at in range(0, len(body), 7)) + stream.finish()).decode()
    done = sanitizer.sanitize(text.encode(), content_type=context.content_type, headers=(), credentials=())
    return done.body.decode()


def _cases(context: Context, rules: Sequence[Rule]) -> Iterator[tuple[str, str, str]]:
    """Secret, text with it, text with the near miss, for each rule. A header field is one line."""
    for rule in rules:
        example = build(rule.example, f"{_SEED} {rule.id}")
        near = build(rule.near, f"{_SEED} {rule.id}")
        if not (context.in_header and "\n" in example):
            yield secret_of(rule, example), context.wrap(example), context.wrap(near)


def _nomos(sanitizer: Sanitizer, context: Context, rules: Sequence[Rule]) -> FoundRow:
    found = alarms = count = 0
    for secret, text, near in _cases(context, rules):
        count += 1
        found += secret not in context.read(_pass(sanitizer, context, text))
        shown = _pass(sanitizer, context, near)
        alarms += context.read(shown) != context.read(near)
    return FoundRow(
        context=context.name,
        scanner="nomos",
        secrets=count,
        found=found,
        near=count,
        alarms=alarms,
        errors={"missed": count - found} if found < count else {},
    )


def _alarms(sanitizer: Sanitizer, recorded: Sequence[bytes]) -> FoundRow:
    reports = [sanitizer.sanitize(body, content_type="", headers=(), credentials=()).report for body in recorded]
    alarms = sum(bool(report.removed or report.noted) for report in reports)
    return FoundRow(
        context="recorded answers", scanner="nomos", secrets=0, found=0, near=len(recorded), alarms=alarms, errors={}
    )


def _detect_secrets(rules: Sequence[Rule], recorded: Sequence[bytes], folder: Path) -> list[FoundRow]:
    name = "detect-secrets"
    try:
        scan = importlib.import_module("detect_secrets.core.scan")
        settings = importlib.import_module("detect_secrets.settings")
    except ImportError:
        return []

    # Files, as people run it: its filters apply to files only.
    place = folder / "detect-secrets.txt"

    def reports(text: str) -> bool:
        place.write_text(text, encoding="utf-8")
        return next(iter(scan.scan_file(str(place))), None) is not None

    rows = []
    with settings.default_settings():
        for context in CONTEXTS:
            judged = [(reports(text), reports(near)) for _, text, near in _cases(context, rules)]
            rows.append(_row(context.name, name, [yes for yes, _ in judged], [no for _, no in judged]))
        rows.append(_row("recorded answers", name, [], [reports(body.decode()) for body in recorded]))
    return rows


def _kingfisher(rules: Sequence[Rule], recorded: Sequence[bytes], folder: Path) -> list[FoundRow]:
    command = shutil.which("kingfisher")
    if command is None:
        return []
    counts: dict[str, int] = {}
    for number, context in enumerate(CONTEXTS):
        for index, (_, text, near) in enumerate(_cases(context, rules)):
            counts[context.name] = index + 1
            for kind, content in (("text", text), ("near", near)):
                place = folder / "kingfisher" / f"{number}-{kind}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{index}.txt").write_text(content, encoding="utf-8")
    place = folder / "kingfisher" / "recorded"
    place.mkdir(parents=True, exist_ok=True)
    for index, body in enumerate(recorded):
        (place / f"{index}.json").write_bytes(body)
    # It answers 200 and more where it has found something.
    done = subprocess.run(  # noqa: S603 - found on the path of whoever measures; its arguments are ours
        [command, "scan", str(folder / "kingfisher"), "--no-validate", "--no-update-check", "--git-history=none",
         "--no-dedup", "--format", "jsonl"],
        capture_output=True, timeout=SCANNER_SECONDS, check=False, text=True,
    )  # fmt: skip
    reported = {
        path.relative_to(folder / "kingfisher").as_posix()
        for path in (folder / "kingfisher").rglob("*.*")
        if str(path) in done.stdout
    }
    rows = []
    for number, context in enumerate(CONTEXTS):
        files = range(counts[context.name])
        found = [f"{number}-text/{index}.txt" in reported for index in files]
        alarms = [f"{number}-near/{index}.txt" in reported for index in files]
        rows.append(_row(context.name, "kingfisher", found, alarms))
    alarms = [f"recorded/{index}.json" in reported for index in range(len(recorded))]
    return [*rows, _row("recorded answers", "kingfisher", [], alarms)]


def _row(context: str, scanner: str, found: Sequence[bool], alarms: Sequence[bool]) -> FoundRow:
    return FoundRow(
        context=context,
        scanner=scanner,
        secrets=len(found),
        found=sum(found),
        near=len(alarms),
        alarms=sum(alarms),
        errors={},
    )

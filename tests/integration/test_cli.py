"""The command line as a user has it: each command in a process of its own, against a running ``nomos up``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import asyncssh
import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.integration.documented import GitHub
from tests.integration.preloaded import Preloaded

from nomos.cli.audit import ChainBroken, TenantChain
from nomos.errors import Misconfigured
from nomos.log.chain import NO_HASH, link
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.headproof import check_head, parse_head
from nomos.log.note import NoteSigner, parse_note
from nomos.log.proof import parse_receipt, verify_receipt
from nomos.log.record import canonical_bytes
from nomos.log.trust import parse_trust
from nomos_runtime.bench.authorize import quantile
from nomos_runtime.commands.bench import parse_in_flight
from nomos_runtime.commands.doctor import State, judge_stream
from nomos_runtime.local import write_private
from nomos_runtime.topology import STREAMS

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
#: No command that is not told to wait may take longer; what a hang would cost, not a measure of speed.
COMMAND_SECONDS = 60.0
YES, NO, USAGE, CANNOT_TELL, HUMAN_FIRST = range(5)
#: A connector whose provider does what none of the shipped ones does.
TICKETS = """\
connector: tickets
title: Tickets
scheme: https
host: api.tickets.example
port: 443
auth: bearer
oauth:
  authorize: https://id.tickets.example/authorize
  token: https://id.tickets.example/token
  keys: [RS256]
  scopes: [openid]
resource_types:
  queue: {cedar: "Tickets::Queue", fields: {queue: "[a-z]{1,40}"}}
actions:
  tickets.list: {title: List tickets, method: GET, path: "/queues/{queue}/tickets", risk: read, resource: queue}
"""
POLICIES = """\
@id("triage-reads")
@description("The triage app may read issues.")
permit (principal in App::"triage", action == Action::"github:issues.list", resource);

@id("triage-cleans-up")
@description("The triage app may delete repositories; a human approves each deletion.")
permit (principal in App::"triage", action == Action::"github:repos.delete", resource);
"""
READ = ("github:issues.list", "github:repo/acme/site")
WRITE = ("github:issues.create", "github:repo/acme/site")
DELETE = ("github:repos.delete", "github:repo/acme/old-site")


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, f"one document was expected: {self.out!r} {self.err!r}"
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


@dataclass
class Shell:
    """A folder to work in and the environment of a user. ``nomos(...)`` runs a command."""

    folder: Path
    env: dict[str, str]
    commands: Preloaded
    ready: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    token: str = field(default_factory=lambda: "tok_" + secrets.token_hex(20))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def nomos(self, *words: str, stdin: str = "", **env: str) -> Said:
        done = self.commands.run(
            list(words), cwd=self.folder, env={**self.env, **env}, stdin=stdin, seconds=COMMAND_SECONDS
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, code: int = YES) -> Said:
        said = self.nomos(*words)
        assert said.code == code, f"{words}: {said}"
        return said

    def new(self, name: str) -> str:
        """A name that nothing has yet."""
        return f"{name}-{next(self.numbers)}"

    def path(self, name: str) -> Path:
        return self.folder / name

    def tenant(self) -> str:
        """A tenant with the app ``triage``, an agent in ``<tenant>.creds``, and policies."""
        name = self.new("tenant")
        self.ok("tenant", "create", name)
        self.ok("app", "create", "triage", "--tenant", name)
        self.ok("agent", "create", "bot", "--tenant", name, "--app", "triage", "--creds", f"{name}.creds")
        self.path("policies.cedar").write_text(POLICIES, encoding="utf-8")
        self.ok("policy", "put", "policies.cedar", "--tenant", name)
        return name


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that this module started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def started(shell: Shell, words: list[str], ready_file: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Starts a server command and waits for its ready file."""
    log = shell.path(f"{ready_file}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "--ready-file", ready_file],
            cwd=shell.folder,
            env=shell.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    end = time.monotonic() + READY_SECONDS
    while not shell.path(ready_file).exists():
        if process.poll() is not None or time.monotonic() > end:
            ended(process)
            pytest.fail(f"{words} is not ready: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
    return process, json.loads(shell.path(ready_file).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A running ``nomos up`` and an upstream."""
    folder = tmp_path_factory.mktemp("cli")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NOMOS_", "XDG_"))}
    commands = Preloaded(folder / "commands")
    made = Shell(folder, {**kept, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "200"}, commands)
    made.path("token").write_text(made.token, encoding="ascii")
    # The key that follows the log's key, in a test below; until then it does nothing.
    made.path("data/secrets").mkdir(mode=0o700, parents=True)
    write_private(made.path("data/secrets/AUDIT_SIGN_KEY_NEXT"), secrets.token_urlsafe(32))
    shutil.copytree(ROOT / "connectors", made.path("connectors"))
    made.path("connectors/tickets.yaml").write_text(TICKETS, encoding="utf-8")
    up = ["nomos.cli.main", "up", "--data", "data", "--connectors", "connectors", "--archive"]
    up += ["--files", "files"]
    made.path("files").mkdir()
    upstream = ["nomos_runtime.embedded.upstream", "--bodies", str(ROOT / "tests/fixtures/github")]
    running, made.ready = started(made, up, "up.json")
    try:
        answering, ready = started(made, [*upstream, "--token-file", "token"], "upstream.json")
        made.origin = ready["origin"]
        try:
            yield made
        finally:
            ended(answering)
    finally:
        ended(running)
        commands.close()


@pytest.fixture(scope="module")
def tenant(shell: Shell) -> str:
    """A tenant with an agent and policies that tests only ask; those that change something make their own."""
    return shell.tenant()


def test_up_with_an_archive_starts_a_store_that_locks_objects(shell: Shell) -> None:
    endpoint, _, bucket = shell.ready["archive"].rpartition("/")
    keys = json.loads(shell.path("data/weed/keys.json").read_text(encoding="ascii"))
    assert stat.S_IMODE(shell.path("data/weed/keys.json").stat().st_mode) == 0o600
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        region_name="us-east-1",
    )
    lock = client.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    assert lock["ObjectLockEnabled"] == "Enabled"
    # The audit service has opened it: the rule that lets parts expire is its own.
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [rule["ID"] for rule in rules] == ["nomos-archive-parts"]


# --- the command itself ---------------------------------------------------------------------------------------------


def test_the_command_starts_without_services_bus_or_parquet() -> None:
    program = (
        "import sys; import nomos.cli.main as m; m.build_parser(None); "
        "print([n for n in sys.modules if n.startswith(('nomos_', 'nats', 'pyarrow', 'asyncpg', 'uvloop'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command_and_no_command_is_a_usage_error(shell: Shell) -> None:
    said = shell.ok("--help")
    for command in ("tenant", "policy", "authorize", "approve", "audit", "verify", "doctor", "bench", "up"):
        assert re.search(rf"^ +{command}\b", said.out, re.MULTILINE), command
    assert shell.nomos().code == USAGE
    assert shell.nomos("nonsense").code == USAGE
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shell.ok("--version").out)


def test_every_command_explains_itself(shell: Shell) -> None:
    for words in (["tenant", "create"], ["approve"], ["audit", "tail"], ["audit", "export"], ["doctor"], ["bench"]):
        assert shell.ok(*words, "--help").out.startswith("usage: nomos " + " ".join(words))


def test_without_a_context_a_command_says_what_to_do(shell: Shell, tmp_path: Path) -> None:
    said = shell.nomos("tenant", "list", XDG_STATE_HOME=str(tmp_path))
    assert said.code == USAGE
    assert said.out == ""
    assert "nomos: hint: start nomos up" in said.err


@pytest.mark.parametrize("content", [None, "", "{", '{"bus_url": 3}'])
def test_a_context_that_is_none_is_a_usage_error(shell: Shell, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "context.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    for words in (["tenant", "list"], ["doctor"], ["approvals", "--tenant", "acme"], ["audit", "export", "--out", "x"]):
        said = shell.nomos(*words, "--context", str(path))
        assert said.code == USAGE, said
        assert str(path) in said.err


def test_the_context_can_be_named_in_the_environment(shell: Shell, tmp_path: Path) -> None:
    said = shell.nomos("tenant", "list", XDG_STATE_HOME=str(tmp_path), NOMOS_CONTEXT=shell.ready["context"])
    assert said.code == YES


def test_where_no_bus_answers_a_command_cannot_tell(shell: Shell, tmp_path: Path) -> None:
    context = json.loads(Path(shell.ready["context"]).read_text(encoding="utf-8"))
    path = tmp_path / "context.json"
    path.write_text(json.dumps({**context, "bus_url": "nats://127.0.0.1:1"}), encoding="utf-8")
    for words in (["tenant", "list"], ["audit", "tail", "--tenant", "acme"], ["approvals", "--tenant", "acme"]):
        said = shell.nomos(*words, "--context", str(path))
        assert said.code == CANNOT_TELL, said
        assert "unavailable" in said.err


# --- tenants, apps, agents, keys ------------------------------------------------------------------------------------


def test_a_tenant_is_created_once_and_listed(shell: Shell) -> None:
    name = shell.new("tenant")
    made = shell.ok("tenant", "create", name, "--json").json
    assert made["schema"] == "nomos.tenant-create/1"
    assert made["tenant"] == name
    assert {"tenant": name, "closed": False} in shell.ok("tenant", "list", "--json").json["tenants"]
    again = shell.nomos("tenant", "create", name)
    assert (again.code, again.out) == (NO, "")
    assert "conflict" in again.err


def test_a_name_that_is_no_slug_is_a_usage_error(shell: Shell) -> None:
    for name in ("Acme", "_sys", "a b", "a.b", "*", "x" * 41):
        said = shell.nomos("tenant", "create", name)
        assert said.code == USAGE, said
    assert shell.nomos("app", "create", "triage", "--tenant", "no.such").code == USAGE


@pytest.mark.parametrize(
    "words",
    [
        ["app", "create", "triage"],
        ["key", "list"],
        ["policy", "list"],
        ["policy", "history"],
        ["connection", "list"],
        ["approvals"],
        ["approver", "add", "ada"],
        ["audit", "tail"],
        ["auditor", "create", "ann", "--creds", "nobody.creds"],
    ],
)
def test_an_unknown_tenant_is_refused(shell: Shell, words: list[str]) -> None:
    said = shell.nomos(*words, "--tenant", "nowhere")
    assert (said.code, said.out) == (NO, ""), said
    assert "unknown_tenant" in said.err
    assert not shell.path("nobody.creds").exists()


def test_credentials_are_private_and_never_overwritten(shell: Shell) -> None:
    name = shell.tenant()
    creds = shell.path(f"{name}.creds")
    assert stat.S_IMODE(creds.stat().st_mode) == 0o600
    before = creds.read_bytes()
    for words in (["agent", "create", "other", "--app", "triage"], ["auditor", "create", "ann"]):
        said = shell.nomos(*words, "--tenant", name, "--creds", creds.name)
        assert said.code == USAGE, said
        assert f"{creds.name} exists" in said.err
    assert creds.read_bytes() == before
    keys = shell.ok("key", "list", "--tenant", name, "--json").json["keys"]
    assert [(k["role"], k["name"], k["revoked"]) for k in keys] == [("agent", "bot", False)]


def test_no_command_prints_a_secret(shell: Shell) -> None:
    name = shell.new("tenant")
    shell.ok("tenant", "create", name)
    shell.ok("app", "create", "triage", "--tenant", name)
    creds = f"{name}.creds"
    said = shell.ok("agent", "create", "bot", "--tenant", name, "--app", "triage", "--creds", creds, "--json")
    lines = shell.path(creds).read_text(encoding="ascii").splitlines()
    hidden = [line for line in lines if re.fullmatch(r"SU[A-Z2-7]{56}|[A-Za-z0-9_-]{43}|[\w-]+\.[\w-]+\.[\w-]+", line)]
    assert len(hidden) == 3
    assert not any(line in said.out + said.err for line in hidden)
    assert set(said.json) == {"schema", "tenant", "agent", "key", "did", "creds"}


def test_an_agent_needs_an_app_that_exists(shell: Shell, tenant: str) -> None:
    said = shell.nomos("agent", "create", "b", "--tenant", tenant, "--app", "none", "--creds", "b.creds")
    assert said.code == NO
    assert not shell.path("b.creds").exists()


def test_everything_issued_for_an_app_or_a_tenant_is_revoked_by_one_command(shell: Shell) -> None:
    name = shell.tenant()
    said = shell.ok("revoke", "--tenant", name, "--app", "triage", "--why", "test", "--json").json
    assert (said["schema"], said["app"]) == ("nomos.revoke/1", "triage")
    assert shell.ok("revoke", "--tenant", name, "--all").out == (
        f"everything that was issued for {name} up to now is revoked, and in force\n"
    )
    said_until(shell, ["--tenant", name], "ucan.revoked-all", times=2)
    # One of the three, and never by mistake: nothing but a refusal is recorded of the rest.
    for words in ([], ["--all", "--app", "triage"], ["bafy", "--all"], ["bafy", "--app", "triage"]):
        assert shell.nomos("revoke", "--tenant", name, *words).code == USAGE, words
    assert shell.nomos("revoke", "--tenant", name, "--app", "triaged").code == NO
    assert shell.ok("audit", "tail", "--tenant", name).out.count("ucan.revoked-all") == 2


def test_a_revoked_key_is_refused(shell: Shell) -> None:
    name = shell.tenant()
    assert shell.nomos("authorize", *READ, "--creds", f"{name}.creds").code == YES
    key = shell.ok("key", "list", "--tenant", name, "--json").json["keys"][0]["key"]
    done = shell.ok("key", "revoke", key, "--tenant", name, "--why", "test", "--json").json
    assert (done["schema"], done["name"]) == ("nomos.key-revoke/1", "bot")
    said = shell.nomos("authorize", *READ, "--creds", f"{name}.creds", "--timeout", "5")
    assert (said.code, said.out) == (NO, ""), said
    assert shell.ok("key", "list", "--tenant", name, "--json").json["keys"][0]["revoked"] is True
    assert shell.nomos("key", "revoke", key[:-1] + "A", "--tenant", name).code == NO


# --- policies -------------------------------------------------------------------------------------------------------


def test_policies_are_put_listed_shown_and_kept(shell: Shell) -> None:
    name = shell.tenant()
    text = POLICIES + '@id("nobody") forbid (principal in App::"none", action, resource);\n'
    shell.path("longer.cedar").write_text(text, encoding="utf-8")
    put = shell.ok("policy", "put", "longer.cedar", "--tenant", name, "--why", "again", "--json").json
    assert put["schema"] == "nomos.policy-put/1"
    assert put["revision"] == 2
    again = shell.ok("policy", "put", "longer.cedar", "--tenant", name, "--json").json
    assert again["revision"] == 2, "the same text is no new revision"
    listed = shell.ok("policy", "list", "--tenant", name).out
    assert "triage-reads" in listed
    assert "The triage app may read issues." in listed
    assert shell.ok("policy", "show", "--tenant", name).out == text
    assert shell.ok("policy", "show", "--tenant", name, "--revision", "1").out == POLICIES
    history = shell.ok("policy", "history", "--tenant", name, "--json").json["revisions"]
    assert [r["revision"] for r in history] == [2, 1]
    assert shell.nomos("policy", "show", "--tenant", name, "--revision", "9").code == NO


def test_a_request_is_explained_by_the_policies_in_force_and_a_decision_by_those_of_then(shell: Shell) -> None:
    name = shell.tenant()
    asked = ("policy", "explain", "--tenant", name, "--agent", "bot")
    waiting = shell.ok(*asked, "--action", DELETE[0], "--resource", DELETE[1]).out
    assert (
        "by        triage-cleans-up: The triage app may delete repositories; a human approves each deletion." in waiting
    )
    assert "change    a human's approval of exactly this request would allow it" in waiting
    approved = shell.ok(*asked, "--action", DELETE[0], "--resource", DELETE[1], "--cosigned", "--json").json
    assert (approved["schema"], approved["outcome"]) == ("nomos.policy-explain/1", "allow")
    denied = shell.ok(*asked, "--action", WRITE[0], "--resource", WRITE[1], "--arg", "title=x").out
    assert "no permit's head names this" in denied
    assert shell.nomos(*asked[:-1], "nobody", "--action", READ[0], "--resource", READ[1]).code == NO
    said = shell.nomos("authorize", *READ, "--creds", f"{name}.creds", "--json")
    decision = said.json["decision"]
    tail_until(shell, ["--tenant", name], "ucan.minted")
    shell.path("closed.cedar").write_text('@id("no") forbid (principal, action, resource);', encoding="utf-8")
    shell.ok("policy", "put", "closed.cedar", "--tenant", name)
    shell.ok("audit", "export", "--tenant", name, "--out", f"{name}.export")
    recorded = ("policy", "explain", "--export", f"{name}.export", "--connectors", "connectors")
    trusted = ("--trust", shell.ready["trust"])
    then = shell.ok(*recorded, "--decision", decision, *trusted, "--json").json
    assert (then["outcome"], then["revision"]) == ("allow", 1)
    assert [policy["id"] for policy in then["decided_by"]] == ["triage-reads"]
    assert shell.nomos(*recorded, "--decision", "dc_none", *trusted).code == NO
    assert shell.nomos(*recorded, "--decision", decision).code == USAGE, "neither --trust nor --unverified"


def test_the_policies_in_force_are_tested_and_linted(shell: Shell) -> None:
    name = shell.tenant()
    connectors = ("--connectors", "connectors")
    table = f"""\
app: triage
agent: bot
tests:
  - {{action: "{READ[0]}", resource: "{READ[1]}", expect: allow, policies: [triage-reads]}}
  - {{action: "{DELETE[0]}", resource: "{DELETE[1]}", expect: step_up}}
"""
    shell.path(f"{name}.yaml").write_text(table, encoding="utf-8")
    shell.ok("policy", "test", f"{name}.yaml", "--tenant", name, *connectors)
    shell.path("shut.cedar").write_text(
        POLICIES + '@id("shut") forbid (principal in App::"triage", action in Action::"risk:read", resource);',
        encoding="utf-8",
    )
    put = shell.ok("policy", "put", "shut.cedar", "--tenant", name)
    warned = "shut.cedar:1:1: warning: triage-reads: it never permits: shut (line 8) forbids all that it names"
    assert warned in put.err
    tested = shell.ok("policy", "test", f"{name}.yaml", "--tenant", name, *connectors, code=NO)
    assert (
        f"{name}.yaml:4: test 1 ({READ[0]} on {READ[1]}): expected allow by triage-reads, got deny by shut"
        in tested.out
    )
    assert "[unreachable]" in shell.ok("policy", "lint", "--tenant", name, *connectors).out
    assert shell.nomos("policy", "lint", "--tenant", name, "--strict", *connectors).code == NO


def test_the_impact_of_a_candidate_is_told_from_the_records(shell: Shell) -> None:
    name = shell.tenant()
    connectors = ("--connectors", "connectors")
    shell.path("closed.cedar").write_text('@id("no") forbid (principal, action, resource);', encoding="utf-8")
    none = shell.nomos("policy", "impact", "closed.cedar", "--tenant", name, *connectors)
    assert none.code == CANNOT_TELL, none
    assert "has no recorded decision" in none.out
    for action, resource in (READ, WRITE, DELETE):
        shell.nomos("authorize", action, resource, "--creds", f"{name}.creds")
    tail_until(shell, ["--tenant", name], "stepup.requested")
    told = shell.ok("policy", "impact", "closed.cedar", "--tenant", name, "--since", "1d", *connectors).out
    assert told.startswith("candidate: 2 of 3 answers would change\n"), told
    assert "  answer    allow -> deny: 1\n  answer    step_up -> deny: 1\n" in told
    assert f"bot {READ[0]} {READ[1]}: allow -> deny (no)" in told
    failing = ("policy", "impact", "closed.cedar", "--tenant", name, "--fail-on-change", *connectors)
    assert shell.ok(*failing, "--json", code=NO).json["changes"]["by_agent"] == {f"{name}/bot": 2}
    shell.path("same.cedar").write_text(POLICIES, encoding="utf-8")
    same = shell.ok("policy", "impact", "same.cedar", "--tenant", name, "--fail-on-change", *connectors).out
    assert same == "candidate: 0 of 3 answers would change\n"
    assert shell.nomos("policy", "impact", "same.cedar", "--tenant", name, "--since", "soon").code == USAGE
    later = shell.nomos("policy", "impact", "same.cedar", "--tenant", name, "--since", "2999-01-01", *connectors)
    assert later.code == CANNOT_TELL, later


def test_a_draft_is_compared_put_in_force_and_rolled_back(shell: Shell) -> None:
    name = shell.tenant()
    of = ("--tenant", name)
    longer = POLICIES + '@id("nobody") forbid (principal in App::"none", action, resource);\n'
    shell.path("longer.cedar").write_text(longer, encoding="utf-8")
    saved = shell.ok("policy", "draft", "save", "next", "longer.cedar", *of, "--json").json
    assert (saved["draft"], saved["based_on"]) == ("next", 1)
    assert shell.ok("policy", "list", *of, "--json").json["total"] == 2, "a draft is not in force"
    assert shell.ok("policy", "draft", "show", "next", *of).out == longer
    assert shell.ok("policy", "draft", "list", *of).out.startswith("next                     from 1")
    differs = shell.ok("policy", "diff", "1", "draft:next", *of, code=NO).out
    assert '+@id("nobody") forbid (principal in App::"none", action, resource);' in differs
    assert shell.ok("policy", "diff", "draft:next", "longer.cedar", *of).out == "the same text\n"
    shell.path("bad.cedar").write_text(
        '@id("a") permit (principal, action, resource)\nwhen { context.nope };', encoding="utf-8"
    )
    bad = shell.nomos("policy", "draft", "save", "bad", "bad.cedar", *of)
    assert bad.code == USAGE, bad
    assert "policy a (line 1, column 1)" in bad.err
    again = shell.nomos("policy", "draft", "save", "next", "policies.cedar", *of, "--if-sha256", "")
    assert (again.code, "is another than" in again.err) == (NO, True)
    assert shell.nomos("policy", "activate", "next", *of, "--if-revision", "7").code == NO
    assert "revision 2 of" in shell.ok("policy", "activate", "next", *of).out
    assert shell.nomos("policy", "activate", "next", *of).code == NO, "it is no draft any more"
    assert shell.nomos("policy", "rollback", *of, "--to", "9", "--why", "it broke").code == NO
    assert shell.nomos("policy", "rollback", *of, "--to", "1").code == USAGE, "without a reason"
    assert "revision 3 of" in shell.ok("policy", "rollback", *of, "--to", "1", "--why", "it broke").out
    assert shell.ok("policy", "show", *of).out == POLICIES
    revisions = shell.ok("policy", "history", *of, "--json").json["revisions"]
    assert [(r["revision"], r["restores"], r.get("draft")) for r in revisions] == [
        (3, 1, None),
        (2, None, "next"),
        (1, None, None),
    ]
    shell.ok("policy", "draft", "save", "next", "longer.cedar", *of)
    shell.ok("policy", "draft", "discard", "next", *of)
    assert shell.ok("policy", "draft", "list", *of).out == ""
    assert shell.nomos("policy", "put", "longer.cedar", *of, "--if-revision", "1").code == NO


def test_a_set_of_thousands_of_policies_is_put_decides_and_is_read_back(shell: Shell) -> None:
    name = shell.tenant()
    of = ("--tenant", name)
    text = (
        "".join(
            f'@id("grant-{number}")\n@description("Agent {number} reads the issues of its site.")\n'
            f'permit (principal == Agent::"agent{number}", action == Action::"github:issues.list", '
            f'resource == GitHub::Repo::"acme/site{number}");\n'
            for number in range(3_000)
        )
        + POLICIES
    )
    shell.path("thousands.cedar").write_text(text, encoding="utf-8")
    put = shell.ok("policy", "put", "thousands.cedar", *of, "--json").json
    assert (put["revision"], put["total"], len(put["policies"])) == (2, 3_002, 500)
    assert shell.ok("policy", "show", *of).out == text
    assert len(shell.ok("policy", "list", *of, "--json").json["policies"]) == 3_002
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    tail_until(shell, of, "ucan.minted")
    # The records hold all of it: what was decided can be decided again from them alone.
    shell.ok("audit", "export", *of, "--out", f"{name}.export")
    trust = ("--trust", shell.ready["trust"])
    shell.ok("verify", f"{name}.export", *trust, *of, "--level", "2")
    replayed = shell.ok("replay", "--export", f"{name}.export", *trust, "--connectors", "connectors", "--json").json
    assert (replayed["decisions"], replayed["right"], replayed["policy_sets"]) == (1, 1, 2)


def test_a_shadow_is_compared_with_what_agents_ask(shell: Shell) -> None:
    name = shell.tenant()
    shell.path("closed.cedar").write_text('@id("no") forbid (principal, action, resource);', encoding="utf-8")
    of = ("--tenant", name)
    assert shell.nomos("policy", "shadow", "report", *of).code == NO, "there is none"
    started = shell.ok("policy", "shadow", "start", "closed.cedar", *of, "--days", "1", "--json").json
    again = shell.nomos("policy", "shadow", "start", "closed.cedar", *of)
    assert again.code == NO, again
    assert f"the shadow {started['shadow']} runs" in again.err
    for action, resource in (READ, WRITE, DELETE):
        shell.nomos("authorize", action, resource, "--creds", f"{name}.creds")
    # It changes nothing that an agent gets.
    assert shell.nomos("authorize", *READ, "--creds", f"{name}.creds").code == YES
    told = shell.ok("policy", "shadow", "report", *of).out
    assert "candidate: 3 of 4 answers would change\n" in told
    assert "  answer    allow -> deny: 2\n  answer    step_up -> deny: 1\n" in told
    assert f"bot {READ[0]} {READ[1]}: allow -> deny (no)" in told
    assert shell.nomos("policy", "shadow", "report", *of, "--fail-on-change").code == NO
    shell.ok("policy", "shadow", "stop", *of)
    assert shell.nomos("policy", "shadow", "stop", *of).code == NO
    shell.nomos("authorize", *READ, "--creds", f"{name}.creds")
    after = shell.ok("policy", "shadow", "report", *of, "--json").json
    assert (after["running"], after["changes"]["evaluated"]) == (False, 4)
    tail_until(shell, of, "policy.shadow-stopped")
    shell.path("bad.cedar").write_text("permit (principal", encoding="utf-8")
    assert shell.nomos("policy", "shadow", "start", "bad.cedar", *of).code == USAGE
    assert shell.nomos("policy", "shadow", "start", "closed.cedar", *of, "--days", "99").code == NO


def test_a_pack_is_put_in_force_beside_what_is_there(shell: Shell) -> None:
    name = shell.tenant()
    folders = ("--packs", str(ROOT / "packs"), "--connectors", "connectors")
    values = ("--set", "app=triage", "--set", "repo=github:repo/acme/shop")
    add = ("policy", "pack", "add", "github-triage", "--tenant", name, *values, *folders)
    added = shell.ok(*add, "--json").json
    assert added["revision"] == 2
    assert added["added"][0] == "github-triage/read"
    text = shell.ok("policy", "show", "--tenant", name).out
    assert text.startswith(POLICIES)
    assert '@id("github-triage/read")' in text
    asked = ("policy", "explain", "--tenant", name, "--agent", "bot", "--action", READ[0], "--json")
    explained = shell.ok(*asked, "--resource", "github:repo/acme/shop").json
    assert "github-triage/read" in [policy["id"] for policy in explained["decided_by"]]
    twice = shell.nomos(*add)
    assert twice.code == NO, twice
    assert "has the policy github-triage/read already" in twice.err
    assert shell.ok("policy", "list", "--tenant", name, "--json").json["revision"] == 2
    shell.ok(*add, "--prefix", "again")
    # What stood before stays byte for byte, and so does what another prefix bears.
    both = shell.ok("policy", "show", "--tenant", name).out
    removed = shell.ok("policy", "pack", "remove", "github-triage", "--tenant", name, "--json").json
    assert (removed["revision"], removed["removed"]) == (4, added["added"])
    left = shell.ok("policy", "show", "--tenant", name).out
    assert left.startswith(POLICIES)
    assert left.endswith(both[both.rindex("// Pack github-triage") :])
    assert shell.nomos("policy", "pack", "remove", "github-triage", "--tenant", name).code == NO
    # A tenant without a set gets the pack alone.
    empty = shell.new("empty")
    shell.ok("tenant", "create", empty)
    first = ("policy", "pack", "add", "github-read-only", "--tenant", empty, "--set", "app=insights", *folders)
    assert shell.ok(*first, "--json").json["revision"] == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, USAGE), ("permit (principal", USAGE), ('permit (principal == Nobody::"x", action, resource);', USAGE)],
)
def test_policies_that_do_not_hold_are_not_put(shell: Shell, tenant: str, text: str | None, code: int) -> None:
    path = shell.path(shell.new("bad") + ".cedar")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    said = shell.nomos("policy", "put", path.name, "--tenant", tenant)
    assert (said.code, said.out) == (code, ""), said
    assert shell.ok("policy", "list", "--tenant", tenant, "--json").json["revision"] == 1


# --- authorize and call ---------------------------------------------------------------------------------------------


def test_exit_codes_say_allow_deny_and_a_human_first(shell: Shell, tenant: str) -> None:
    creds = ("--creds", f"{tenant}.creds")
    allowed = shell.ok("authorize", *READ, *creds, "--args", '{"state": "open"}')
    token = shell.ok("inspect", allowed.out.strip(), "--json")
    assert token.json["cmd"] == "/github/issues/list"
    assert token.json["signature_ok"] is True
    denied = shell.ok("authorize", *WRITE, *creds, "--args", '{"title": "x"}', "--json", code=NO).json
    assert (denied["schema"], denied["outcome"]) == ("nomos.authorize/1", "deny")
    human = shell.ok("authorize", *DELETE, *creds, "--json", code=HUMAN_FIRST).json
    assert human["outcome"] == "step_up"
    assert human["approval"].startswith("ap_")
    assert "triage-cleans-up" in [p["id"] for p in human["policies"]]


@pytest.mark.parametrize("given", ["{", "[]", '"x"', "{'a': 1}"])
def test_arguments_that_are_no_json_object_are_a_usage_error(shell: Shell, tenant: str, given: str) -> None:
    said = shell.nomos("authorize", *READ, "--creds", f"{tenant}.creds", "--args", given)
    assert (said.code, said.out) == (USAGE, "")
    assert "--args" in said.err


@pytest.mark.parametrize("ask", [("github:nope.x", READ[1]), (READ[0], "github:repo/acme"), (READ[0], "nonsense")])
def test_what_no_connector_has_is_refused(shell: Shell, tenant: str, ask: tuple[str, str]) -> None:
    said = shell.nomos("authorize", *ask, "--creds", f"{tenant}.creds")
    assert (said.code, said.out) == (NO, ""), said


def test_credentials_that_are_none_are_a_usage_error(shell: Shell, tenant: str) -> None:
    shell.path("none.creds").write_text("-----BEGIN", encoding="ascii")
    auditor = f"{shell.new('auditor')}.creds"
    shell.ok("auditor", "create", shell.new("ann"), "--tenant", tenant, "--creds", auditor)
    for name in ("missing.creds", "none.creds", auditor):
        said = shell.nomos("authorize", *READ, "--creds", name)
        assert (said.code, said.out) == (USAGE, ""), said


def test_a_call_prints_the_body_and_says_what_a_human_must_do(shell: Shell) -> None:
    name = shell.tenant()
    creds = ("--creds", f"{name}.creds")
    refused = shell.nomos("call", *READ, *creds)
    assert (refused.code, refused.out) == (NO, ""), "no connection yet"
    assert shell.nomos("connection", "add", "--tenant", name, "--connector", "github", "--name", "github",
                       "--token-file", "missing").code == USAGE  # fmt: skip
    added = shell.ok("connection", "add", "--tenant", name, "--connector", "github", "--name", "github",
                     "--token-file", "token", "--base-url", shell.origin, "--json")  # fmt: skip
    assert shell.token not in added.out + added.err
    assert "github" in shell.ok("connection", "list", "--tenant", name).out
    called = shell.ok("call", *READ, *creds)
    assert isinstance(json.loads(called.out), list)
    document = shell.ok("call", *READ, *creds, "--json").json
    assert (document["schema"], document["status"]) == ("nomos.call/1", 200)
    assert shell.token not in called.out + json.dumps(document)
    assert shell.nomos("call", *DELETE, *creds).code == HUMAN_FIRST


def test_a_bearer_is_replaced_shown_and_removed(shell: Shell) -> None:
    name = shell.tenant()
    here = ("--tenant", name)
    shell.path("wrong-token").write_text("not-the-token-" + secrets.token_hex(8), encoding="ascii")
    shell.ok("connection", "add", *here, "--connector", "github", "--name", "github", "--token-file", "wrong-token",
             "--base-url", shell.origin)  # fmt: skip
    called = shell.nomos("call", *READ, "--creds", f"{name}.creds", "--json")
    assert called.json["status"] == 401
    said = shell.ok("connection", "replace", *here, "github", "--token-file", "token")
    assert said.out == "connection github has another bearer\n"
    shell.ok("call", *READ, "--creds", f"{name}.creds")
    assert "github: bearer of github, ready" in shell.ok("connection", "show", *here, "github").out
    assert "revoke it at the provider too" in shell.ok("connection", "remove", *here, "github").out
    assert shell.ok("connection", "show", *here, "github", code=NO).out.startswith("github: bearer of github, removed")
    assert shell.nomos("call", *READ, "--creds", f"{name}.creds").code == NO
    for words in (["replace", "github", "--token-file", "token"], ["remove", "github"], ["renew", "github"],
                  ["show", "none"]):  # fmt: skip
        refused = shell.nomos("connection", *words, *here)
        assert (refused.code, refused.out) == (NO, ""), refused
        assert "not_found" in refused.err


def test_a_connection_to_a_host_or_to_files_is_added_with_what_it_needs(shell: Shell) -> None:
    here = ("--tenant", shell.tenant())
    key = asyncssh.generate_private_key("ssh-ed25519")
    shell.path("id").write_bytes(key.export_private_key())
    of_host = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
    shell.path("host.pub").write_bytes(of_host.strip() + b" root@build\n")
    host = ("--connector", "ssh", "--name", "build", "--host", "build.example.com", "--user", "deploy")
    added = shell.ok("connection", "add", *here, *host, "--host-key", "host.pub", "--root", "/data/app",
                     "--port", "2222", "--token-file", "id")  # fmt: skip
    assert added.out == "connection build to ssh stored, sealed\n"
    (shown,) = shell.ok("connection", "list", *here, "--json").json["connections"]
    assert (shown["method"], shown["host"]) == ("key", "build.example.com")
    assert (shown["ssh"]["user"], shown["ssh"]["port"], shown["ssh"]["roots"]) == ("deploy", 2222, ["/data/app"])
    said = shell.ok("connection", "show", *here, "build").out
    assert said.startswith("build: key of ssh, ready\n  host     build.example.com, as deploy, 1 pinned keys\n")
    assert "/data/app" in said
    assert "other host keys" in shell.ok("connection", "replace", *here, "build", "--host-key", "host.pub").out
    assert shell.nomos("connection", "replace", *here, "build").code == USAGE
    for words, says in ((("--token-file", "id"), "pinned key"), (("--host-key", "host.pub"), "has a credential"),
                        (("--host-key", "missing", "--token-file", "id"), "missing"),
                        (("--host-key", "host.pub", "--token-file", "token"), "Ed25519")):  # fmt: skip
        refused = shell.nomos("connection", "add", *here, *host, *words)
        assert refused.code != YES
        assert says in refused.err
    refused = shell.nomos("connection", "add", *here, "--connector", "files", "--name", "files", "--host", "work")
    assert refused.code == NO
    assert "no folder in this volume" in refused.err
    assert "it had" not in shell.ok("connection", "remove", *here, "build").out


def test_a_file_is_read_from_a_folder_of_the_tenant(shell: Shell) -> None:
    name = shell.tenant()
    here, creds = ("--tenant", name), ("--creds", f"{name}.creds")
    (shell.path("files") / name / "reports").mkdir(parents=True)
    (shell.path("files") / name / "reports" / "q4.md").write_text("Good.\n", encoding="utf-8")
    shell.path("of-files.cedar").write_text(
        '@id("reports") permit (principal, action, resource in Files::Directory::"work/reports");\n', encoding="utf-8"
    )
    shell.ok("policy", "put", "of-files.cedar", *here)
    added = shell.ok("connection", "add", *here, "--connector", "files", "--name", "files", "--host", "work")
    assert added.out == "connection files to files stored\n"
    assert shell.ok("call", "files:files.read", "files:file/work/reports/q4.md", *creds).out == "Good.\n"
    assert shell.nomos("call", "files:files.read", "files:file/work/q4.md", *creds).code == NO
    assert shell.ok("connection", "remove", *here, "files").out == "connection files is removed: it had no credential\n"


def test_a_file_is_sent_to_a_folder_of_the_tenant(shell: Shell) -> None:
    name = shell.tenant()
    here, creds = ("--tenant", name), ("--creds", f"{name}.creds")
    (shell.path("files") / name / "reports").mkdir(parents=True)
    shell.path("of-uploads.cedar").write_text(
        """@id("images") permit (principal, action, resource in Files::Directory::"work/reports")
        when { context.args has upload && context.args.upload.type == "image/png" };""",
        encoding="utf-8",
    )
    shell.ok("policy", "put", "of-uploads.cedar", *here)
    shell.ok("connection", "add", *here, "--connector", "files", "--name", "files", "--host", "work")
    data = secrets.token_bytes(700_001)
    shell.path("photo.png").write_bytes(data)
    create = ("call", "files:files.create", "files:file/work/reports/photo.png")
    assert shell.ok(*create, *creds, "--upload", "photo.png").json == {"bytes": len(data), "replaced": False}
    assert (shell.path("files") / name / "reports" / "photo.png").read_bytes() == data
    assert shell.nomos(*create, *creds, "--upload", "photo.png", "--media-type", "text/plain").code == NO
    assert shell.nomos("authorize", *create[1:], *creds, "--upload", "photo.png").code == YES
    shown = shell.ok(*create, "--upload", "upload=photo.png", "--dry-run")
    assert f"a content of {len(data)} bytes (image/png, SHA-256 " in shown.err
    shell.path("large.png").write_bytes(bytes(8_388_609))
    for words, says in ((("--upload", "missing.png"), "missing.png cannot be read"),
                        (("--upload", "large.png"), "CONTENT_BYTES_MAX"),
                        (("--upload", "photo.png", "--media-type", "Image"), "media type"),
                        (("--upload", "photo.png", "--args", '{"upload": 1}'), "and in --upload")):  # fmt: skip
        refused = shell.nomos(*create, *creds, *words)
        assert (refused.code != YES, refused.out) == (True, "")
        assert says in refused.err


def test_an_account_is_asked_for_by_a_link(shell: Shell) -> None:
    name = shell.tenant()
    here, github = ("--tenant", name), ("--connector", "github")
    refused = shell.nomos("connection", "connect", *here, *github, "--name", "work")
    assert refused.code == NO
    assert "nomos connection client" in refused.err
    secret = secrets.token_urlsafe(24)
    shell.path("client-secret").write_text(secret + "\n", encoding="ascii")
    for words in (["--client-id", "x"], [*github], ["--secret-file", "client-secret"]):
        assert shell.nomos("connection", "client", *here, *words).code == USAGE, words
    made = shell.ok("connection", "client", *here, *github, "--client-id", "ours", "--secret-file", "client-secret")
    redirect = shell.ready["connect_pages"] + "/connected"
    assert f"exactly: {redirect}" in made.out
    assert secret not in made.out + made.err
    listed = shell.ok("connection", "client", *here).out
    assert "ours (secret sealed)" in listed
    assert redirect in listed
    linked = shell.ok("connection", "connect", *here, *github, "--name", "work", "--json").json
    assert linked["link"].startswith(shell.ready["connect_pages"] + "/connect/" + name)
    with urllib.request.urlopen(linked["link"], timeout=10) as page:
        text = page.read().decode()
    assert name in text
    assert "github.com" in text
    waited = shell.nomos("connection", "connect", *here, *github, "--name", "work", "--wait", "0.1")
    assert (waited.code, waited.out) == (HUMAN_FIRST, "")
    assert "/connect/" in waited.err
    assert shell.ok("connection", "list", *here).out == ""
    unfit = shell.nomos("connection", "connect", *here, "--connector", "aws-s3", "--name", "x")
    assert unfit.code == NO
    assert "accounts are connected to discord, github" in unfit.err


def test_a_client_that_proves_itself_by_a_key_is_set_and_its_public_half_is_said(shell: Shell) -> None:
    here = ("--tenant", shell.tenant())
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    shell.path("client-key.pem").write_text(pem, encoding="ascii")
    words = ("connection", "client", *here, "--client-id", "ours", "--private-key-file", "client-key.pem")
    none = shell.nomos(*words, "--connector", "github")
    assert none.code == USAGE
    assert "takes signatures of no client" in none.err
    shell.path("both").write_text("a-secret-of-ours", encoding="ascii")
    assert shell.nomos(*words, "--connector", "tickets", "--secret-file", "both").code == USAGE
    made = shell.ok(*words, "--connector", "tickets", "--json")
    n = made.json["public_key"]["n"]
    assert int.from_bytes(base64.urlsafe_b64decode(n + "=="), "big") == key.public_key().public_numbers().n
    assert set(made.json["public_key"]) == {"kty", "n", "e", "kid", "alg", "use"}
    assert f'"n": "{n}"' in shell.ok(*words, "--connector", "tickets").out, "as it is registered at the provider"
    assert "tickets          ours (key sealed)" in shell.ok("connection", "client", *here).out


def test_a_client_for_every_tenant_is_set_listed_and_withdrawn(shell: Shell) -> None:
    here, shared = ("--tenant", shell.tenant()), ("connection", "shared-client")
    secret = secrets.token_urlsafe(24)
    shell.path("shared-secret").write_text(secret + "\n", encoding="ascii")
    for words in (["--client-id", "x"], ["--connector", "jira"], ["--withdraw"]):
        assert shell.nomos(*shared, *words).code == USAGE, words
    jira = ("--connector", "jira")
    assert shell.nomos("connection", "connect", *here, *jira, "--name", "work").code == NO
    made = shell.ok(*shared, *jira, "--client-id", "for-all", "--secret-file", "shared-secret")
    assert "tenants without a client at the provider of jira ask it as for-all" in made.out
    assert secret not in made.out + made.err
    assert "jira             for-all (secret sealed), 0 accounts of 0 tenants" in shell.ok(*shared).out
    listed = shell.ok("connection", "client", *here).out
    assert "jira             the installation's, where the tenant has none" in listed
    assert "for-all" not in listed
    linked = shell.ok("connection", "connect", *here, *jira, "--name", "work", "--json").json
    assert "/connect/" in linked["link"]
    assert "0 go on" in shell.ok(*shared, *jira, "--withdraw").out
    assert "0 tenants, withdrawn" in shell.ok(*shared).out
    assert shell.nomos("connection", "connect", *here, *jira, "--name", "more").code == NO


def test_an_account_is_connected_by_a_code_that_is_entered_elsewhere(shell: Shell) -> None:
    provider = GitHub("unused")
    try:
        name = shell.tenant()
        here = ("--tenant", name)
        shell.ok("connection", "client", *here, "--connector", "github", "--client-id", "ours", "--base-url",
                 provider.issuer)  # fmt: skip
        connect = ("connection", "connect", *here, "--connector", "github", "--name", "work", "--device")
        waited = shell.nomos(*connect, "--wait", "0.1")
        assert (waited.code, waited.out) == (HUMAN_FIRST, "")
        done = shell.ok(*connect, "--base-url", shell.origin)
        assert "WDJB-MJHT  at https://github.com/login/device" in done.err
        assert done.out == "connection work is connected\n"
        assert "work: account of github, ready" in shell.ok("connection", "show", *here, "work").out
        secret = provider.asked[-1][1]["device_code"]
        assert secret not in done.out + done.err
        provider.answers = ["access_denied"]
        refused = shell.nomos(*connect)
        assert (refused.code, refused.out) == (NO, "")
        assert "access_denied" in refused.err
    finally:
        provider.stop()
    assert shell.nomos("connection", "connect", *here, "--connector", "jira", "--name", "x", "--device").code == NO


def test_a_connection_with_a_host_of_its_own_and_one_of_a_cloud(shell: Shell) -> None:
    name = shell.tenant()
    here = ("--tenant", name)
    add = ("connection", "add", *here, "--connector", "http", "--name", "tickets", "--token-file", "token")
    assert shell.nomos(*add).code == USAGE, "a host is needed"
    shell.ok(*add, "--host", "api.tickets.example", "--auth", "header:x-api-key")
    federate = ("connection", "federate", *here, "--connector", "aws-sts", "--name", "sts")
    for words in ([], ["--aws-role", "x"], ["--aws-region", "eu-central-1"], ["--azure", "a", "b", "c"]):
        assert shell.nomos(*federate, "--host", "sts.eu-central-1.amazonaws.com", *words).code == USAGE, words
    role = "arn:aws:iam::123456789012:role/agents"
    made = shell.ok(*federate, "--host", "sts.eu-central-1.amazonaws.com", "--aws-role", role,
                    "--aws-region", "eu-central-1")  # fmt: skip
    for line in (shell.ready["connect_pages"], f"tenant:{name}:connection:sts", "sts.amazonaws.com"):
        assert line in made.out
    listed = shell.ok("connection", "list", *here, "--json").json["connections"]
    assert [(c["name"], c["method"], c["host"]) for c in listed] == [
        ("tickets", "bearer", "api.tickets.example"), ("sts", "federated", "sts.eu-central-1.amazonaws.com"),
    ]  # fmt: skip
    google = ("connection", "federate", *here, "--connector", "http", "--name", "google", "--host", "x.googleapis.com")
    account = "agents@acme-prod.iam.gserviceaccount.com"
    audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/agents/providers/nomos"
    pool = ("--gcp-audience", audience)
    assert shell.nomos(*google, "--gcp-service-account", account).code == USAGE, "without its pool"
    assert shell.nomos(*google, *pool, "--gcp-service-account", "agents@evil.example").code == USAGE
    made = shell.ok(
        *google, *pool, "--gcp-service-account", account, "--gcp-scope", "https://www.googleapis.com/auth/iam"
    )
    assert f"act as {account}" in made.out
    assert f"principal:{audience.partition('/providers')[0]}/subject/tenant:{name}:connection:google" in made.out
    lines = shell.ok("connection", "list", *here).out.splitlines()
    assert [line.rpartition("  as ")[2] for line in lines if "  as " in line] == [role, account]
    shown = shell.ok("connection", "show", *here, "google").out
    assert account in shown
    assert audience in shown
    assert "take the trust away" in shell.ok("connection", "remove", *here, "sts").out
    # what a cloud reads of us
    with urllib.request.urlopen(shell.ready["connect_pages"] + "/.well-known/openid-configuration", timeout=10) as page:
        discovered = json.loads(page.read())
    assert discovered["issuer"] == shell.ready["connect_pages"]
    with urllib.request.urlopen(discovered["jwks_uri"], timeout=10) as page:
        (key,) = json.loads(page.read())["keys"]
        assert page.headers["cache-control"] == "public, max-age=300"
    assert set(key) == {"kty", "n", "e", "kid", "alg", "use"}


def test_the_rotation_of_the_token_key_says_how_far_it_is(shell: Shell) -> None:
    shell.tenant()
    found = shell.ok("connection", "keys", "--json").json
    assert found["current"] >= 1
    assert found["other"] == 0


# --- approvals ------------------------------------------------------------------------------------------------------


def test_an_approval_from_the_request_to_its_single_use(shell: Shell) -> None:
    name = shell.tenant()
    passkey, out = f"{name}.passkey", f"{name}.cosigner"
    added = shell.ok("approver", "add", "ada", "--tenant", name, "--software-passkey", passkey, "--json").json
    assert (added["schema"], added["approver"]) == ("nomos.approver-add/1", "ada")
    assert stat.S_IMODE(shell.path(passkey).stat().st_mode) == 0o600
    approval = shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", code=HUMAN_FIRST).out.strip()
    waiting = shell.ok("approvals", "--tenant", name, "--json").json["approvals"]
    assert [a["approval"] for a in waiting] == [approval]
    approved = shell.ok("approve", approval, "--software-passkey", passkey, "--out", out)
    # The human has seen exactly what will run; the token alone is on standard output, and in the file.
    assert DELETE[0] in approved.err
    assert DELETE[1] in approved.err
    assert "triage-cleans-up" in approved.err
    assert shell.path(out).read_text(encoding="ascii") == approved.out
    assert stat.S_IMODE(shell.path(out).stat().st_mode) == 0o600
    assert base64.urlsafe_b64decode(approved.out.strip() + "==")
    assert shell.ok("approvals", "--tenant", name).out == ""
    use = ("authorize", *DELETE, "--creds", f"{name}.creds", "--cosigner", out)
    assert shell.nomos(*use).code == YES
    again = shell.nomos(*use)
    assert (again.code, again.out) == (NO, "")
    for words in (["approve", approval, "--software-passkey", passkey], ["cancel", approval]):
        said = shell.nomos(*words)
        assert (said.code, said.out) == (NO, ""), said


def test_a_passkey_that_an_operator_revokes_approves_nothing(shell: Shell) -> None:
    name = shell.tenant()
    of, passkey = ("--tenant", name), f"{name}.passkey"
    shell.ok("approver", "add", "ada", *of, "--software-passkey", passkey)
    approval = shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", code=HUMAN_FIRST).out.strip()
    (held,) = shell.ok("approver", "passkeys", "ada", *of, "--json").json["passkeys"]
    assert shell.ok("approver", "passkeys", "ada", *of).out == f"{held['passkey']}  on one device  software passkey\n"
    wrong = shell.nomos("approver", "revoke-passkey", "ada", "0" * 32, *of)
    assert (wrong.code, "no such passkey" in wrong.err) == (NO, True), wrong
    told = shell.ok("approver", "revoke-passkey", "ada", held["passkey"], *of).out
    assert "ada has no passkey left, and cannot approve" in told
    refused = shell.nomos("approve", approval, *of, "--software-passkey", passkey)
    assert (refused.code, refused.out) == (NO, ""), refused
    assert shell.ok("approver", "passkeys", "ada", *of).out == "ada has no passkey\n"


def test_people_of_the_groups_that_a_policy_names_must_approve(shell: Shell) -> None:
    name = shell.tenant()
    of = ("--tenant", name)
    asking = POLICIES.replace('@id("triage-cleans-up")', '@id("triage-cleans-up")\n@approvals("2")\n@approvers("ops")')
    shell.path("two.cedar").write_text(asking, encoding="utf-8")
    shell.ok("policy", "put", "two.cedar", *of)
    keys = {person: f"{name}-{person}.passkey" for person in ("ada", "ben", "cyd")}
    for person, passkey in keys.items():
        group = () if person == "cyd" else ("--group", "ops")
        shell.ok("approver", "add", person, *of, *group, "--software-passkey", passkey)
    assert shell.ok("approver", "list", *of).out.splitlines()[1] == "ben                      1 passkeys  ops"
    approval = shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", code=HUMAN_FIRST).out.strip()

    def approve(person: str) -> Said:
        return shell.nomos("approve", approval, *of, "--software-passkey", keys[person])

    other = approve("cyd")
    assert (other.code, "waits for people of the group ops" in other.err) == (NO, True), other
    assert "2 different people of the group ops must approve" in other.err
    first = approve("ada")
    assert (first.code, first.out) == (HUMAN_FIRST, ""), first
    waiting = shell.ok("approvals", *of, "--json").json["approvals"]
    assert [(one["signed"], one["missing"]) for one in waiting] == [(1, [{"group": "ops", "approvals": 1}])]
    assert approve("ada").code == NO, "one person counts once"
    # Who comes into the group counts, though it was asked before.
    shell.ok("approver", "groups", "cyd", "ops", *of)
    last = shell.ok("approve", approval, *of, "--software-passkey", keys["cyd"], "--out", f"{name}.cosigner")
    assert last.out
    shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", "--cosigner", f"{name}.cosigner")
    tail_until(shell, of, "stepup.consumed")
    shell.ok("audit", "export", *of, "--out", f"{name}.export")
    verified = shell.ok("verify", f"{name}.export", "--trust", shell.ready["trust"], *of, "--level", "2").out
    assert "2 passkey signatures: over exactly what was asked" in verified


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what it gets."""

    taken: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append((self.headers.get("nomos-signature", ""), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_channel_is_told_that_somebody_must_approve_and_cannot_approve(shell: Shell) -> None:
    name = shell.tenant()
    of = ("--tenant", name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/hook"
        assert shell.nomos("notify", "add", "ops", *of, "--webhook", "http://hooks.example.com/x").code == USAGE
        assert shell.nomos("notify", "add", "ops", *of).code == USAGE
        assert shell.nomos("notify", "add", "ops", *of, "--email", "ops@example.com").code == USAGE, "no mail server"
        made = shell.ok("notify", "add", "ops", *of, "--webhook", url, "--json").json
        assert shell.ok("notify", "list", *of).out == "ops                      webhook  everything\n"
        shell.ok("notify", "test", "ops", *of)
        assert b"test-of-this-channel" in Hook.taken.pop()[1]
        approval = shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", code=HUMAN_FIRST).out.strip()
        ended = tail_until(shell, of, "notify.ended")[-1]["record"]["event"]
        assert (ended["approval"], ended["channel"], ended["outcome"]) == (approval, "ops", "sent")
        ((signature, body),) = Hook.taken
        told = json.loads(body)
        assert (told["approval"], told["action"]) == (approval, DELETE[0])
        at = signature.partition("t=")[2].partition(",")[0]
        signed = hmac.new(made["secret"].encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        assert signature == f"t={at},v1={signed}"
        # Opening the page that it names approves nothing: it only asks who is there.
        with urllib.request.urlopen(told["url"], timeout=10) as page:
            assert b"Sign in" in page.read()
        assert shell.ok("approvals", *of, "--json").json["approvals"][0]["signed"] == 0
        # Where a channel leads is in no record.
        assert url not in json.dumps(records(shell.ok("audit", "tail", *of, "--json")))
        shell.ok("notify", "remove", "ops", *of)
        assert shell.nomos("notify", "test", "ops", *of).code == NO
    finally:
        server.shutdown()
        server.server_close()


def test_a_cancelled_approval_cannot_be_approved(shell: Shell) -> None:
    name = shell.tenant()
    shell.ok("approver", "add", "ada", "--tenant", name, "--software-passkey", f"{name}.passkey")
    approval = shell.ok("authorize", *DELETE, "--creds", f"{name}.creds", code=HUMAN_FIRST).out.strip()
    done = shell.ok("cancel", approval, "--why", "no longer needed", "--json").json
    assert (done["schema"], done["state"]) == ("nomos.cancel/1", "cancelled")
    assert shell.ok("approvals", "--tenant", name).out == ""
    assert shell.ok("approvals", "--tenant", name, "--all").out.endswith("  cancelled: no longer needed\n")
    said = shell.nomos("approve", approval, "--software-passkey", f"{name}.passkey", "--tenant", name)
    assert (said.code, said.out) == (NO, "")


def test_a_passkey_of_another_tenant_approves_nothing(shell: Shell) -> None:
    mine, other = shell.tenant(), shell.tenant()
    shell.ok("approver", "add", "eve", "--tenant", other, "--software-passkey", f"{other}.passkey")
    approval = shell.ok("authorize", *DELETE, "--creds", f"{mine}.creds", code=HUMAN_FIRST).out.strip()
    for extra in ([], ["--tenant", mine], ["--tenant", other]):
        said = shell.nomos("approve", approval, "--software-passkey", f"{other}.passkey", *extra)
        assert (said.code, said.out) == (NO, ""), said
    assert shell.nomos("cancel", approval, "--tenant", other).code == NO


def test_approving_needs_a_passkey_file_and_a_free_place_to_write(shell: Shell, tenant: str) -> None:
    approval = shell.ok("authorize", *DELETE, "--creds", f"{tenant}.creds", code=HUMAN_FIRST).out.strip()
    said = shell.nomos("approve", approval, "--software-passkey", "missing.passkey")
    assert said.code == USAGE
    assert "nomos: hint: nomos approver add" in said.err
    passkey = f"{shell.new('ada')}.passkey"
    shell.ok("approver", "add", shell.new("ada"), "--tenant", tenant, "--software-passkey", passkey)
    shell.path("taken").write_text("x", encoding="ascii")
    assert shell.nomos("approve", approval, "--software-passkey", passkey, "--out", "taken").code == USAGE
    assert shell.path("taken").read_text(encoding="ascii") == "x"
    # Refused before anything was signed: it still waits.
    waiting = shell.ok("approvals", "--tenant", tenant, "--json").json["approvals"]
    assert approval in [a["approval"] for a in waiting]
    for words in (["approve", "ap_x", "--software-passkey", passkey], ["cancel", "ap_x"]):
        assert shell.nomos(*words).code in (NO, USAGE)


def test_an_approver_without_a_passkey_is_added_but_names_are_given_once(shell: Shell, tenant: str) -> None:
    name = shell.new("bob")
    added = shell.ok("approver", "add", name, "--tenant", tenant).out
    assert "no passkey yet" in added
    said = shell.nomos("approver", "add", name, "--tenant", tenant, "--software-passkey", f"{name}.passkey")
    assert said.code == NO
    assert "conflict" in said.err
    nowhere = shell.nomos("approver", "add", name, "--tenant", tenant, "--software-passkey", "no/such/folder")
    assert nowhere.code == USAGE


def test_a_person_gets_a_link_to_enrol_and_the_newest_one_counts(shell: Shell, tenant: str) -> None:
    name, pages = shell.new("carol"), shell.ready["pages"]
    first = shell.ok("approver", "add", name, "--tenant", tenant, "--json").json["url"]
    linked = shell.ok("approver", "link", name, "--tenant", tenant).out
    second = linked.split()[-1]
    assert second.startswith(f"{pages}/enrol/{tenant}.sub-")
    assert "once, until" in linked
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(first, timeout=10)
    with urllib.request.urlopen(second, timeout=10) as page:
        assert f"<strong>{name}</strong>" in page.read().decode()
    assert "every session" in shell.ok("approver", "sign-out", name, "--tenant", tenant).out
    waiting = shell.ok("authorize", *DELETE, "--creds", f"{tenant}.creds", code=HUMAN_FIRST)
    assert f"{pages}/approvals/{waiting.out.strip()}" in waiting.err


def test_a_software_passkey_approves_in_development_only(shell: Shell, tenant: str, tmp_path: Path) -> None:
    context = json.loads(Path(shell.ready["context"]).read_text(encoding="utf-8"))
    path = tmp_path / "context.json"
    path.write_text(json.dumps({**context, "environment": "production"}), encoding="utf-8")
    for words in (["approver", "add", "carl", "--tenant", tenant], ["approve", "ap_x"]):
        said = shell.nomos(*words, "--software-passkey", "carl.passkey", "--context", str(path))
        assert said.code == USAGE, said
        assert "in the browser" in said.err
    assert not shell.path("carl.passkey").exists()


def test_a_passkey_signs_only_for_the_page_that_the_context_names(shell: Shell, tenant: str, tmp_path: Path) -> None:
    context = json.loads(Path(shell.ready["context"]).read_text(encoding="utf-8"))
    path = tmp_path / "context.json"
    path.write_text(json.dumps({**context, "expected_origin": "https://other.example"}), encoding="utf-8")
    name = shell.new("dora")
    said = shell.nomos("approver", "add", name, "--tenant", tenant, "--software-passkey", f"{name}.passkey",
                       "--context", str(path))  # fmt: skip
    assert said.code == USAGE
    assert "relying party" in said.err


# --- the log --------------------------------------------------------------------------------------------------------


def records(said: Said) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.out.splitlines()]


def tail_until(shell: Shell, words: list[str], kind: str) -> list[dict[str, Any]]:
    """What ``audit tail --json`` prints once a record of ``kind`` is projected."""
    end = time.monotonic() + 30
    while True:
        found = records(shell.ok("audit", "tail", *words, "--json"))
        if any(r["record"]["type"] == kind for r in found):
            return found
        assert time.monotonic() < end, f"no record {kind}"
        time.sleep(0.1)


def said_until(shell: Shell, words: list[str], text: str, *, times: int = 1) -> None:
    """Returns when ``audit tail`` prints ``text`` as often as that: a record is projected a moment after its answer."""
    end = time.monotonic() + 30
    while (found := shell.ok("audit", "tail", *words).out.count(text)) < times:
        assert time.monotonic() < end, f"{text} is said {found} times"
        time.sleep(0.1)
    assert found == times


def test_operator_and_auditor_tail_the_same_checked_records(shell: Shell) -> None:
    name = shell.tenant()
    shell.ok("auditor", "create", "ann", "--tenant", name, "--creds", f"{name}.auditor")
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    mine = tail_until(shell, ["--auditor-creds", f"{name}.auditor"], "ucan.minted")
    assert {r["schema"] for r in mine} == {"nomos.audit-tail/1"}
    assert [r["record"]["tseq"] for r in mine] == list(range(len(mine)))
    assert {r["record"]["tenant"] for r in mine} == {name}
    assert {"tenant.created", "policy.put", "authz.decision", "ucan.minted"} <= {r["record"]["type"] for r in mine}
    theirs = tail_until(shell, ["--tenant", name, "--from", "2"], "ucan.minted")
    assert theirs[: len(mine) - 2] == mine[2:]
    lines = shell.ok("audit", "tail", "--tenant", name).out
    assert f"agent:bot  allow {READ[0]} {READ[1]}" in lines


def test_tail_follows_until_it_is_interrupted(shell: Shell) -> None:
    name = shell.tenant()
    words = [sys.executable, "-m", "nomos.cli.main", "audit", "tail", "--tenant", name, "--follow", "--json"]

    def hear() -> None:
        # A suite that was started in the background ignores the signal, and its children would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        words,
        cwd=shell.folder,
        env=shell.env,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear,  # noqa: PLW1509 - no threads here
    ) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["record"]["type"] == "tenant.created"
            shell.ok("authorize", *READ, "--creds", f"{name}.creds")
            for line in process.stdout:
                if json.loads(line)["record"]["type"] == "authz.decision":
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def test_tail_says_whose_records_it_needs(shell: Shell, tenant: str) -> None:
    auditor = f"{shell.new('auditor')}.creds"
    shell.ok("auditor", "create", shell.new("ann"), "--tenant", tenant, "--creds", auditor)
    for words in (
        [],
        ["--auditor-creds", "missing.creds"],
        ["--auditor-creds", f"{tenant}.creds"],
        ["--auditor-creds", auditor, "--tenant", "another"],
        ["--tenant", tenant, "--from", "-1"],
    ):
        said = shell.nomos("audit", "tail", *words)
        assert (said.code, said.out) == (USAGE, ""), said


def test_an_export_verifies_anywhere_and_a_changed_one_does_not(shell: Shell, tmp_path: Path) -> None:
    name = shell.tenant()
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    tail_until(shell, ["--tenant", name], "ucan.minted")
    made = shell.ok("audit", "export", "--out", f"{name}.export", "--json").json
    assert (made["schema"], made["kind"], made["verdict"]) == ("nomos.audit-export/1", "log", "verified")
    assert made["records"] == made["size"] > 0
    trust = ("--trust", shell.ready["trust"])
    # A copy somewhere else, and no context: the files and the trust file are all that it takes.
    shutil.copytree(shell.path(f"{name}.export"), tmp_path / "copy")
    assert shell.nomos("verify", str(tmp_path / "copy"), *trust, XDG_STATE_HOME=str(tmp_path)).code == YES
    part = next((tmp_path / "copy").glob("day=*/part-000.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    said = shell.nomos("verify", str(tmp_path / "copy"), *trust, "--json")
    assert said.code == NO
    assert said.json["verdict"] == "tampered"
    taken = shell.nomos("audit", "export", "--out", f"{name}.export")
    assert (taken.code, taken.out) == (USAGE, "")


def test_a_tenants_bundle_holds_its_records_alone_and_verifies(shell: Shell) -> None:
    name = shell.tenant()
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    mine = tail_until(shell, ["--tenant", name], "ucan.minted")
    made = shell.ok("audit", "export", "--out", f"{name}.bundle", "--tenant", name, "--json").json
    assert (made["kind"], made["tenant"], made["verdict"]) == ("tenant", name, "verified")
    assert len(mine) <= made["records"] < made["size"]
    bundle = ("verify", f"{name}.bundle", "--trust", shell.ready["trust"])
    assert shell.nomos(*bundle, "--tenant", name).code == YES
    # Whose it is is part of the question, never taken from the files.
    assert shell.nomos(*bundle).code == CANNOT_TELL
    assert shell.nomos(*bundle, "--tenant", "another").code == CANNOT_TELL


def test_a_bundle_proves_where_it_ends(shell: Shell) -> None:
    name = shell.tenant()
    shell.ok("audit", "export", "--out", f"{name}.bundle", "--tenant", name)
    bundle = Path(shell.path(f"{name}.bundle"))
    proof = parse_head((bundle / "head.json").read_bytes())
    checkpoint = parse_checkpoint(parse_note((bundle / "checkpoint").read_bytes()).text)
    statement = check_head(proof, name, size=checkpoint.size, root=checkpoint.root)
    assert proof.leaf.n > 0
    assert statement.tenants.n > 1


def test_a_record_is_proven_by_its_number_and_a_receipt_by_counter_or_event(shell: Shell) -> None:
    name = shell.tenant()
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    tail_until(shell, ["--tenant", name], "ucan.minted")
    receipt = ("audit", "receipt", "--tenant", name)
    made = shell.ok(*receipt, "0", "--out", f"{name}.proof", "--json").json
    assert (made["tenant"], made["tseq"]) == (name, 0)
    kept = Path(shell.path(f"{name}.proof"))
    trust = parse_trust(Path(shell.ready["trust"]).read_bytes())
    record = kept.with_name(kept.name + ".record").read_bytes()
    assert verify_receipt(parse_receipt(kept.read_bytes()), record, trust).checkpoint.size == made["size"]
    assert shell.ok(*receipt, made["id"], "--out", f"{name}.same", "--json").json["seq"] == made["seq"]
    for words in ((), ("--tenant", name)):
        assert shell.ok("prove", str(made["seq"]), *words, "--json").json["record"] == record.decode()
    # Nothing is overwritten; what is not there, or another tenant's, is not found.
    assert shell.nomos(*receipt, "0", "--out", f"{name}.proof").code == USAGE
    for words in (["prove", "999999999"], ["prove", str(made["seq"]), "--tenant", shell.tenant()]):
        said = shell.nomos(*words)
        assert (said.code, said.out) == (NO, ""), said


def test_two_checkpoints_are_proven_to_continue_each_other_and_unsigned_sizes_are_refused(
    shell: Shell, tenant: str
) -> None:
    name = tenant
    made = [shell.ok("audit", "export", "--out", shell.new("export"), "--json").json["size"]]
    tail = ("audit", "tail", "--tenant", name, "--json")
    before = len(records(shell.ok(*tail)))
    shell.ok("authorize", *READ, "--creds", f"{name}.creds")
    end = time.monotonic() + 30
    while len(records(shell.ok(*tail))) == before:
        assert time.monotonic() < end, "the log did not grow"
    made.append(shell.ok("audit", "export", "--out", shell.new("export"), "--json").json["size"])
    low, high = made
    assert low < high
    between = ("prove", "--from", str(low), "--to", str(high))
    said = shell.ok(*between, "--out", f"{name}.consistency", "--json").json
    assert (said["from"], said["to"]) == (low, high)
    trust = ("--trust", shell.ready["trust"])
    assert shell.ok("verify", f"{name}.consistency", *trust, "--json").json["verdict"] == "verified"
    assert shell.ok("prove", "--from", str(low), "--tenant", name, "--json").json["to"] >= high
    # Nothing is overwritten; a size that nobody signed is refused with those next to it.
    assert shell.nomos(*between, "--out", f"{name}.consistency").code == USAGE
    missing = shell.nomos("prove", "--from", str(low), "--to", "999999999")
    assert missing.code == NO
    assert "no checkpoint of size 999999999 was signed" in missing.err
    assert "signed next to it: " in missing.err
    for words in (["3", "--from", "4"], ["--from", "9", "--to", "4"]):
        assert shell.nomos("prove", *words).code == USAGE, words


def test_no_segment_of_a_young_chain_goes(shell: Shell) -> None:
    said = shell.ok("audit", "retire")
    assert said.out == "no segment of the chain has ended\n"
    assert shell.ok("audit", "retire", "--json").json["segments"] == []
    wrong = shell.nomos("audit", "retire", "--retirer-creds", "absent.creds")
    assert (wrong.code, "absent.creds cannot be used" in wrong.err) == (USAGE, True), wrong


def test_a_new_key_is_proven_by_the_old_one_and_old_proofs_verify_after_it(shell: Shell, tenant: str) -> None:
    name = tenant
    shell.ok("audit", "export", "--out", f"{name}.before", "--json")
    shell.ok("audit", "receipt", "--tenant", name, "0", "--out", f"{name}.old")
    only = shell.ok("audit", "keys", "--json").json
    assert (len(only["lines"]), only["missing"], only["since"]) == (1, [], 0)
    old = Path(shell.ready["trust"]).read_text(encoding="utf-8")
    assert only["lines"][0] in old

    new = shell.ok("audit", "rotate-key", "--json").json
    since = new["since"]
    assert (len(new["lines"]), new["missing"]) == (2, new["lines"])
    assert new["lines"][0] == f"{only['lines'][0]} sizes:0-{since}"
    shell.ok("tenant", "create", shell.new("tenant"))
    # Under the old trust file the log can not be judged any more, and nothing is claimed.
    end = time.monotonic() + 30
    while shell.nomos("audit", "export", "--out", f"{name}.unjudged-{time.monotonic_ns()}").code != CANNOT_TELL:
        assert time.monotonic() < end, "the old trust file goes on to judge the log"
    # The auditor's way to the new key: the record of the change, under the checkpoint that both keys signed.
    shell.ok("audit", "keys", "--proofs", "turns")
    proof = shell.path(f"turns/key-{since}.tlog-proof")
    record = proof.with_name(proof.name + ".record").read_bytes()
    assert verify_receipt(parse_receipt(proof.read_bytes()), record, parse_trust(old.encode())).checkpoint.size == since
    assert new["key"] in record.decode()
    # Who rotated stands in the record, by the id behind which their name is sealed.
    actor = json.loads(record)["actor"]
    named = shell.ok("subject", "list", "--tenant", "_sys", "--json").json["subjects"]
    assert (actor["kind"], [one["name"] for one in named if one["id"] == actor["id"]]) == ("operator", ["admin"])

    lines = shell.ok("audit", "keys").out.splitlines()[:2]
    assert lines == new["lines"]
    Path(shell.ready["trust"]).write_text("\n".join([*lines, "quorum none", ""]), encoding="utf-8")
    trust = ("--trust", shell.ready["trust"])
    assert shell.ok("audit", "keys", "--json").json["missing"] == []
    assert shell.ok("verify", f"{name}.before", *trust, "--level", "2").code == YES
    policy = parse_trust(Path(shell.ready["trust"]).read_bytes())
    receipt = shell.path(f"{name}.old")
    verify_receipt(
        parse_receipt(receipt.read_bytes()), receipt.with_name(receipt.name + ".record").read_bytes(), policy
    )
    shell.ok("audit", "export", "--out", f"{name}.after")
    said = shell.ok("verify", f"{name}.after", *trust, "--json").json
    assert "1 changes of key: record, and checkpoint signed by both keys" in said["checked"]
    # A trust file that leads to no key of this log gets no lines.
    stranger = NoteSigner(said["origin"], secrets.token_bytes(32)).verifier_key
    Path(shell.ready["trust"]).write_text(f"log {stranger}\nquorum none\n", encoding="utf-8")
    refused = shell.nomos("audit", "keys")
    assert (refused.code, refused.out) == (NO, "")
    Path(shell.ready["trust"]).write_text("\n".join([*lines, "quorum none", ""]), encoding="utf-8")


def test_an_export_that_fails_leaves_nothing_behind(shell: Shell, tmp_path: Path) -> None:
    said = shell.nomos("audit", "export", "--tenant", "nowhere", "--out", str(tmp_path / "new" / "out"))
    assert said.code == NO
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("x", encoding="ascii")
    assert shell.nomos("audit", "export", "--out", str(tmp_path / "file")).code == USAGE
    assert shell.nomos("audit", "export", "--out", str(tmp_path / "file" / "below")).code == USAGE


def test_verify_without_files_is_a_usage_error(shell: Shell, tmp_path: Path) -> None:
    assert shell.nomos("verify", str(tmp_path / "none"), "--trust", shell.ready["trust"]).code == USAGE
    assert shell.nomos("verify", str(tmp_path), "--trust", str(tmp_path / "none")).code == USAGE
    assert shell.nomos("verify", str(tmp_path), "--trust", shell.ready["trust"]).code in (NO, CANNOT_TELL)


def made_records(tenant: str, number: int) -> list[tuple[bytes, bytes]]:
    """Linked records with the hash before each; between two of this tenant there is one of another."""
    made: list[tuple[bytes, bytes]] = []
    prev, last = bytes(range(32)), NO_HASH
    for tseq in range(number):
        record = canonical_bytes({
            "actor": {"id": "a", "kind": "system"}, "cause": "", "corr": "", "event": {"n": tseq}, "id": f"ev_{tseq}",
            "pc": {"id": "p", "n": tseq, "svc": "policy"}, "seq": 2 * tseq, "src": {"i": 0, "q": tseq, "s": "INTAKE"},
            "tenant": tenant, "tprev": last.hex(), "ts": "2026-11-22T10:00:00.000000Z", "tseq": tseq, "type": "t",
            "v": 1,
        })  # fmt: skip
        made.append((record, prev))
        last = link(prev, record)
        prev = link(last, b"a record of another tenant")
    return made


def test_a_tail_names_the_first_record_that_does_not_continue_the_chain() -> None:
    good = made_records("acme", 4)
    chain = TenantChain("acme", 0)
    for record, prev in good:
        chain.add(record, prev)
    assert chain.next == 4
    broken = {
        "a record is missing": [good[0], good[2]],
        "one comes twice": [good[0], good[0]],
        "a byte is changed": [(good[0][0].replace(b'"n":0', b'"n":9'), good[0][1]), good[1]],
        "the hash before one is another": [(good[0][0], bytes(32)), good[1]],
        "one is another tenant's": [good[0], (made_records("other", 2)[1][0], good[1][1])],
        "one is no record": [good[0], (b"{}", good[1][1])],
        "the hash has another length": [good[0], (good[1][0], b"x")],
    }
    for rows in broken.values():
        chain = TenantChain("acme", 0)
        chain.add(*rows[0])
        with pytest.raises(ChainBroken, match="record 1 of acme"):
            chain.add(*rows[1])


def test_a_tail_from_the_middle_takes_the_first_link_as_it_is_and_checks_the_next() -> None:
    good = made_records("acme", 3)
    chain = TenantChain("acme", 1)
    chain.add(*good[1])
    chain.add(*good[2])
    with pytest.raises(ChainBroken):
        TenantChain("acme", 0).add(*good[1])


# --- inspect, doctor, bench -----------------------------------------------------------------------------------------


def test_inspect_takes_a_token_a_file_or_standard_input(shell: Shell, tenant: str) -> None:
    token = shell.ok("authorize", *READ, "--creds", f"{tenant}.creds").out.strip()
    shell.path("token.ucan").write_text(token, encoding="ascii")
    for words, given in ((["inspect", token], ""), (["inspect", "token.ucan"], ""), (["inspect", "-"], token)):
        said = shell.nomos(*words, "--json", stdin=given)
        assert said.code == YES
        assert said.json["kind"] == "delegation"
    assert shell.nomos("inspect", "nonsense").code == USAGE


def test_another_operator_gets_credentials_without_their_name_in_them(shell: Shell, tenant: str) -> None:
    name, creds = shell.new("olga"), "olga.creds"
    made = shell.ok("operator", "create", name, "--creds", creds, "--json").json
    held = shell.path(creds)
    assert stat.S_IMODE(held.stat().st_mode) == 0o600
    assert name not in held.read_text(encoding="utf-8")
    as_olga = changed_context(shell, shell.folder, operator_creds=str(held))
    shell.ok("app", "create", "--tenant", tenant, "hers", *as_olga)
    said_until(shell, ["--tenant", tenant, "--names", *as_olga], f"operator:{made['subject']} ({name})")
    # Nothing is overwritten, a name is given once, and without the role's key nobody is made.
    assert shell.nomos("operator", "create", shell.new("olga"), "--creds", creds).code == USAGE
    assert shell.nomos("operator", "create", name, "--creds", "again.creds").code == NO
    lost = shell.nomos("operator", "create", shell.new("olga"), "--creds", "lost.creds", "--bus", str(shell.folder))
    assert (lost.code, shell.path("lost.creds").exists()) == (USAGE, False)
    for words in (["--json"], ["--auditor-creds", creds]):
        assert shell.nomos("audit", "tail", "--tenant", tenant, "--names", *words).code == USAGE
    assert not shell.path("again.creds").exists()


def test_the_pages_of_policies_lead_to_the_operators_sign_in(shell: Shell) -> None:
    policies = urlsplit(shell.ready["policy_pages"])
    connection = http.client.HTTPConnection("127.0.0.1", policies.port, timeout=10)
    connection.request("GET", "/", headers={"Host": policies.netloc})
    answer = connection.getresponse()
    target = answer.headers["location"]
    assert (answer.status, target.split("&")[0]) == (
        303, f"{shell.ready['pages']}/operator/sign-in?service=policy",
    )  # fmt: skip
    connection.close()
    pages = urlsplit(target)
    connection = http.client.HTTPConnection("127.0.0.1", pages.port, timeout=10)
    connection.request("GET", f"{pages.path}?{pages.query}", headers={"Host": pages.netloc})
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"pages of the service <strong>policy</strong>" in answer.read()
    connection.close()


def test_an_operator_gets_a_link_for_a_passkey_and_looks_after_sessions(shell: Shell) -> None:
    made = shell.ok("operator", "passkey", "--json").json
    assert "/operator/passkey/sub-" in made["url"]
    assert made["url"].split("/operator/")[0] == shell.ready["pages"]
    told = shell.ok("operator", "passkey").out.splitlines()
    assert "works once" in told[0]
    assert told[1] != made["url"]
    assert shell.ok("operator", "passkeys").out == "you have no passkey\n"
    assert shell.ok("operator", "sessions").out == "no session is open\n"
    assert shell.nomos("operator", "end", "0" * 32).code == NO
    assert shell.nomos("operator", "revoke", "AAAA").code == NO
    for word in ("end", "revoke", "create"):
        assert shell.nomos("operator", word).code == USAGE
    assert shell.nomos("operator", "create", shell.new("olga")).code == USAGE


def test_an_operator_of_one_tenant_works_in_it_alone(shell: Shell, tenant: str) -> None:
    name, creds = shell.new("tina"), "tina.creds"
    made = shell.ok("operator", "create", name, "--tenant", tenant, "--creds", creds, "--json").json
    assert made["tenant"] == tenant
    as_tina = changed_context(shell, shell.folder, operator_creds=str(shell.path(creds)))
    shell.ok("app", "create", "--tenant", tenant, "hers-too", *as_tina)
    # Names of operators are the installation's: she reads the ids of records only.
    said_until(shell, ["--tenant", tenant, "--names", *as_tina], f"operator:{made['subject']} (not known)")
    assert shell.nomos("tenant", "list", *as_tina).code != YES


def test_doctor_finds_a_healthy_installation(shell: Shell, tenant: str) -> None:
    said = shell.ok("doctor")
    assert said.out.splitlines()[-1] == "healthy"
    report = shell.ok("doctor", "--json").json
    assert (report["schema"], report["verdict"]) == ("nomos.doctor/1", "healthy")
    found = {c["name"]: c["state"] for c in report["checks"]}
    for name in ("bus", "service policy", "service audit", "store identity", "log", "stream INTAKE", "stream CHAIN"):
        assert found[name] == "ok", name
    assert found["environment"] == "warning"


def changed_context(shell: Shell, folder: Path, **changes: str) -> list[str]:
    context = json.loads(Path(shell.ready["context"]).read_text(encoding="utf-8"))
    path = folder / "context.json"
    path.write_text(json.dumps({**context, **changes}), encoding="utf-8")
    return ["--context", str(path)]


def states(said: Said) -> dict[str, str]:
    return {c["name"]: c["state"] for c in said.json["checks"]}


def test_doctor_finds_secrets_that_others_can_read(shell: Shell, tmp_path: Path) -> None:
    creds = tmp_path / "operator.creds"
    shutil.copy(shell.ready["operator_creds"], creds)
    creds.chmod(0o644)
    said = shell.nomos("doctor", "--json", *changed_context(shell, tmp_path, operator_creds=str(creds)))
    assert said.code == NO
    assert states(said)["secret files"] == "failed"


def test_doctor_finds_a_trust_file_that_does_not_fit_the_log(shell: Shell, tmp_path: Path) -> None:
    trust = tmp_path / "trust.txt"
    trust.write_text("quorum none\n", encoding="ascii")
    said = shell.nomos("doctor", "--json", *changed_context(shell, tmp_path, trust=str(trust)))
    assert said.code == NO
    assert states(said)["trust file"] == "failed"
    assert states(said)["log"] == "failed"
    trust.write_text("nonsense", encoding="ascii")
    assert shell.nomos("doctor", *changed_context(shell, tmp_path, trust=str(trust))).code == NO
    assert shell.nomos("doctor", *changed_context(shell, tmp_path, trust=str(tmp_path / "none"))).code == NO


def test_doctor_cannot_tell_where_no_bus_answers(shell: Shell, tmp_path: Path) -> None:
    said = shell.nomos("doctor", "--json", *changed_context(shell, tmp_path, bus_url="nats://127.0.0.1:1"))
    assert said.code == CANNOT_TELL
    assert said.json["verdict"] == "cannot tell"
    assert states(said)["bus"] == "unknown"


def test_doctor_judges_a_stream_by_its_configuration_and_its_room() -> None:
    chain = next(s for s in STREAMS if s.name == "CHAIN")
    config = {
        "discard": "new", "storage": "file", "deny_delete": True, "deny_purge": True, "num_replicas": 1,
        "max_bytes": 1000,
    }  # fmt: skip

    def judged(used: int = 10, *, synced: bool = True, **changes: object) -> State:
        found = {"config": {**config, **changes}, "state": {"bytes": used, "messages": 1}}
        return judge_stream(chain, found, synced=synced).state

    assert judged() is State.OK
    assert judge_stream(chain, None, synced=True).state is State.FAILED
    assert judged(800) is State.WARNING
    assert judged(960) is State.FAILED
    assert judged(synced=False) is State.FAILED
    assert judged(synced=False, num_replicas=3) is State.OK
    for changes in ({"discard": "old"}, {"storage": "memory"}, {"deny_purge": False}, {"max_bytes": -1}):
        assert judged(**changes) is State.FAILED, changes


def test_bench_measures_an_installation_of_its_own(shell: Shell) -> None:
    said = shell.ok("bench", "authorize", "--json", "--seconds", "0.5", "--in-flight", "2",
                    "--connectors", "connectors")  # fmt: skip
    report = said.json
    assert (report["schema"], report["name"]) == ("nomos.bench/1", "authorize")
    assert report["machine"]["processors"] >= 1
    assert [row["case"] for row in report["rows"]] == ["allow", "allow, all new"]
    for row in report["rows"]:
        assert row["in_flight"] == 2
        assert row["requests"] > 0
        assert row["errors"] == {}
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert {"policy", "minting", "audit", "nats-server", "postgres", "clients"} <= set(row["cpu_us"])


def test_bench_measures_what_the_broker_adds_to_a_call(shell: Shell) -> None:
    folders = ("--connectors", "connectors", "--bodies", str(ROOT / "tests" / "fixtures" / "github"))
    report = shell.ok("bench", "call", "--json", "--seconds", "0.5", "--in-flight", "2", *folders).json
    direct, call = report["rows"]
    assert (direct["case"], call["case"]) == ("direct", "call")
    for row in (direct, call):
        assert row["requests"] > 0
        assert row["errors"] == {}
    assert call["p50_ms"] > direct["p50_ms"]
    stages = call["stages_p50_ms"]
    assert list(stages) == ["authorize", "invoke", "checks", "mark", "attempt", "upstream", "sanitize", "end"]
    assert all(took > 0 for took in stages.values())
    assert sum(stages.values()) - stages["authorize"] - stages["invoke"] < stages["invoke"] * 1.5
    assert direct["stages_p50_ms"] == {}
    assert {"proxy", "sanitizer", "upstream"} <= set(call["cpu_us"])


def test_bench_measures_live_answers(shell: Shell) -> None:
    folders = ("--connectors", str(ROOT / "connectors"), "--bodies", str(ROOT / "tests" / "fixtures" / "github"))
    report = shell.ok("bench", "stream", "--json", "--seconds", "1", "--in-flight", "2", *folders).json
    cases = {row["case"]: row for row in report["rows"]}
    assert list(cases) == ["direct, paced", "broker, paced", "direct, full", "broker, full"]
    for row in cases.values():
        assert row["streams"] == 2
        assert row["errors"] == {}
        assert row["events_per_second"] > 0
        assert 0 < row["late_p50_ms"] <= row["late_p99_ms"]
    assert {"proxy", "sanitizer", "events", "reader"} <= set(cases["broker, full"]["cpu_us"])


def test_bench_measures_the_verifier(shell: Shell) -> None:
    report = shell.ok("bench", "verify", "--json", "--records", "300", "--connectors", "connectors").json
    assert (report["schema"], report["name"]) == ("nomos.bench/1", "verify")
    assert report["rows"]
    assert all(row["errors"] == {} for row in report["rows"])


def test_bench_says_which_measurements_exist(shell: Shell) -> None:
    said = shell.nomos("bench", "everything")
    assert (said.code, said.out) == (USAGE, "")
    assert "there is: audit, authorize, call, policy, sanitize, stream, verify" in said.err
    for text in ("0", "", "x", "1,,2", "-1", "9999"):
        with pytest.raises(Misconfigured):
            parse_in_flight(text)
    assert parse_in_flight("1,8,64") == [1, 8, 64]


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([], 0.5) == 0
    assert quantile([7], 0.99) == 7
    values = list(range(1, 101))
    assert quantile(values, 0.50) == 50
    assert quantile(values, 0.99) == 99
    assert quantile(values, 1.0) == 100


def test_a_service_that_is_not_installed_is_not_run(shell: Shell) -> None:
    said = shell.nomos("run", "nothing")
    assert (said.code, said.out) == (USAGE, "")
    assert "not installed" in said.err

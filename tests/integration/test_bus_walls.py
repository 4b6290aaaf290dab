"""The walls of the bus, on the real server: each attack is tried, and refused by the server itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg

from nomos.cli.retire import delete_segments
from nomos.creds import ACCOUNT, OPERATOR, USER, Credentials, Nkey, write_creds
from nomos.errors import Malformed, Misconfigured, Refused, Unavailable
from nomos_audit.segments import make_segment, segments
from nomos_audit.streams import Tail, append
from nomos_runtime import natsjwt, topology
from nomos_runtime.embedded.nats import EmbeddedNats
from nomos_runtime.natsjwt import AccountClaims, Permission, ScopedKey, Template
from nomos_runtime.provision import (
    Installation,
    TenantKeys,
    account_jwt_for_tenant,
    delete_account,
    issue_user,
    new_tenant_keys,
    provision_operator,
    push_account,
)
from nomos_runtime.topology import DOORS, SERVICES, STREAMS, USERS, Bounds

MIB = 1 << 20
BOUNDS = Bounds(
    intake_bytes=64 * MIB, chain_bytes=16 * MIB, audit_bytes=8 * MIB, checkpoint_bytes=MIB, nonce_bytes=8 * MIB
)
ANSWER_SECONDS = 5
#: Long enough for a message on loopback to arrive; only spent where the server must stay silent.
SILENCE_SECONDS = 0.3


@dataclass
class Session:
    """One connection, and what the server complained about on it."""

    client: Client
    complaints: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def settled(self) -> list[str]:
        # The server answers in order, so what it had to say about earlier messages is here before the second PONG.
        await self.client.flush()
        await self.client.flush()
        return self.complaints

    async def refused_publish(self, subject: str) -> bool:
        self.complaints.clear()
        await self.client.publish(subject, b"x")
        return any("violation for publish" in c for c in await self.settled())

    async def refused_subscribe(self, subject: str, queue: str = "") -> bool:
        self.complaints.clear()
        await self.client.subscribe(subject, queue=queue)
        return any("violation for subscription" in c for c in await self.settled())


async def connect(url: str, credentials: str, name: str) -> Session:
    client = Client()
    session = Session(client)

    async def complained(error: Exception) -> None:
        session.complaints.append(str(error).lower())

    async def closed() -> None:
        session.closed.set()

    await client.connect(
        url,
        user_credentials=RawCredentials(credentials),
        inbox_prefix=f"_INBOX.{name}".encode(),
        name=name,
        allow_reconnect=False,
        connect_timeout=ANSWER_SECONDS,
        error_cb=complained,
        closed_cb=closed,
    )
    return session


@dataclass
class Tenant:
    name: str
    keys: TenantKeys
    jwt: str


class World:
    """The server with its installation, and the connections of one test."""

    def __init__(self, server: EmbeddedNats, installation: Installation, stack: AsyncExitStack) -> None:
        self.server = server
        self.installation = installation
        self.operator = installation.operator_signing_key()
        self._stack = stack
        self._claims: Session | None = None

    async def as_service(self, user: str) -> Session:
        text = self.installation.creds_path(user).read_text()
        return await self.connect(text, user)

    async def connect(self, credentials: str, name: str) -> Session:
        session = await connect(self.server.url, credentials, name)
        self._stack.push_async_callback(session.client.close)
        return session

    async def push(self, token: str) -> None:
        if self._claims is None:
            self._claims = await self.as_service("claims")
        await push_account(self._claims.client, token)

    async def claims(self) -> Client:
        if self._claims is None:
            self._claims = await self.as_service("claims")
        return self._claims.client

    async def tenant(self, name: str, *, revocations: dict[str, int] | None = None) -> Tenant:
        keys = new_tenant_keys()
        tenant = Tenant(name, keys, self.tenant_jwt(name, keys, revocations))
        await self.push(tenant.jwt)
        return tenant

    def tenant_jwt(self, name: str, keys: TenantKeys, revocations: dict[str, int] | None = None) -> str:
        return account_jwt_for_tenant(
            tenant=name,
            account=keys.account,
            role_keys={r: k.public for r, k in keys.roles.items()},
            accounts=self.installation.accounts,
            operator=self.operator,
            issued_at=now(),
            revocations=revocations,
        )

    async def user(self, tenant: Tenant, name: str, role: str = "agent", *, expires_at: int = 0) -> Session:
        return await self.connect(credentials_of(tenant, name, role, expires_at=expires_at), name)

    async def with_all_rights(self, account_jwt: str, name: str) -> Session:
        """A user of an existing account who may publish and subscribe to everything: the worst insider it can have."""
        jwt, key, user = natsjwt.parse_jwt(account_jwt), Nkey.new(ACCOUNT), Nkey.new(USER)
        assert isinstance(jwt.nats, AccountClaims)
        everything = Permission(allow=(">",))
        template = Template(pub=everything, sub=everything, subs=-1, data=-1, payload=-1)
        scope = ScopedKey(key=key.public, role="everything", template=template, kind="user_scope")
        wider = msgspec.structs.replace(jwt.nats, signing_keys=(*jwt.nats.signing_keys, scope))
        await self.push(natsjwt.sign_jwt(wider, signer=self.operator, subject=jwt.sub, name=jwt.name, issued_at=now()))
        token = natsjwt.sign_jwt(
            natsjwt.UserClaims(issuer_account=jwt.sub), signer=key, subject=user.public, name=name, issued_at=now()
        )
        return await self.connect(blocks(token, user), name)

    async def serve(self, user: str, subject: str) -> tuple[Session, list[Msg]]:
        """``user`` answers ``subject`` in its queue group with the subject that it saw."""
        session, seen = await self.as_service(user), []

        async def answer(message: Msg) -> None:
            seen.append(message)
            await message.respond(message.subject.encode())

        await session.client.subscribe(subject, queue=user, cb=answer)
        assert await session.settled() == []
        return session, seen


def now() -> int:
    return int(time.time())


def blocks(token: str, user: Nkey) -> str:
    credentials = Credentials(
        servers=("nats://127.0.0.1:1",), role="service", name="x", tenant="", jwt=token, user=user
    )
    return credentials.nats_text()


def credentials_of(tenant: Tenant, name: str, role: str = "agent", *, expires_at: int = 0) -> str:
    user = Nkey.new(USER)
    token = issue_user(
        role=role,
        name=name,
        user_public_key=user.public,
        account=tenant.keys.account,
        signer=tenant.keys.roles[role],
        issued_at=now(),
        expires_at=expires_at,
    )
    return blocks(token, user)


async def make_streams(server: EmbeddedNats, installation: Installation) -> None:
    async with AsyncExitStack() as stack:
        world = World(server, installation, stack)
        for account in ("AUDIT", "PROXY"):
            provisioner = await world.as_service(f"{account.lower()}-provisioner")
            made = await topology.ensure_streams(provisioner.client, account, BOUNDS)
            assert set(made.values()) == {"created"}


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedNats, Installation]]:
    directory: Path = tmp_path_factory.mktemp("bus")
    server = EmbeddedNats(directory / "nats")
    installation = provision_operator(directory / "installation", servers=[server.url], issued_at=now())
    server.start(installation)
    try:
        asyncio.run(make_streams(server, installation))
        yield server, installation
    finally:
        server.stop()


@pytest.fixture
async def world(bus: tuple[EmbeddedNats, Installation]) -> AsyncIterator[World]:
    server, installation = bus
    async with AsyncExitStack() as stack:
        yield World(server, installation, stack)


async def ask(session: Session, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    reply = await session.client.request(subject, payload, timeout=ANSWER_SECONDS, headers=headers)
    return bytes(reply.data)


async def api(session: Session, subject: str, body: object = None) -> dict[str, object]:
    return msgspec.json.decode(await ask(session, subject, msgspec.json.encode(body)), type=dict[str, object])


# --- tenants and agents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "service", "role"),
    [
        ("authorize", "policy", "agent"),
        ("invoke", "proxy", "agent"),
        ("read.rp", "proxy", "agent"),
        ("stepup", "stepup", "agent"),
        ("audit", "audit", "auditor"),
    ],
)
async def test_the_server_stamps_the_tenant_into_each_request(world: World, verb: str, service: str, role: str) -> None:
    acme = await world.tenant("acme")
    await world.serve(service, f"tenant.*.req.{verb}.*")
    agent = await world.user(acme, "a1", role)
    assert await ask(agent, f"req.{verb}.a1") == f"tenant.{acme.keys.account}.req.{verb}.a1".encode()


async def test_an_agent_cannot_speak_or_listen_as_another(world: World) -> None:
    acme = await world.tenant("acme")
    agent = await world.user(acme, "a1")
    for verb in ("authorize", "invoke", "read.rp", "stepup"):
        assert not await agent.refused_publish(f"req.{verb}.a1")
        assert await agent.refused_publish(f"req.{verb}.a2")
    for subject in ("req.audit.a1", "_INBOX.a2.x", "_R_.x.y", "$JS.API.INFO", "$SYS.REQ.USER.INFO", "intake.batch"):
        assert await agent.refused_publish(subject), subject
    for subject in ("_INBOX.a2.>", "_INBOX.>", ">", "req.>", "req.authorize.a1"):
        assert await agent.refused_subscribe(subject), subject


async def test_an_auditor_can_only_ask_for_the_log(world: World) -> None:
    auditor = await world.user(await world.tenant("acme"), "eve", "auditor")
    assert not await auditor.refused_publish("req.audit.eve")
    for subject in ("req.authorize.eve", "req.invoke.eve", "req.read.rp.eve", "req.stepup.eve", "req.audit.other"):
        assert await auditor.refused_publish(subject), subject


async def test_a_tenant_cannot_name_another_tenant(world: World) -> None:
    acme, globex = await world.tenant("acme"), await world.tenant("globex")
    _, seen = await world.serve("policy", "tenant.*.req.authorize.*")
    assert await (await world.user(globex, "g1")).refused_publish(f"tenant.{acme.keys.account}.req.authorize.a1")
    insider = await world.with_all_rights(globex.jwt, "insider")
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(insider, f"tenant.{acme.keys.account}.req.authorize.a1")
    # Its own door stays its own: whatever it writes there comes with its own stamp.
    assert await ask(insider, "req.authorize.g1") == f"tenant.{globex.keys.account}.req.authorize.g1".encode()
    assert [m.subject for m in seen] == [f"tenant.{globex.keys.account}.req.authorize.g1"]


async def test_an_account_that_imports_another_tenants_token_gets_nobody(world: World) -> None:
    acme, evil = await world.tenant("acme"), await world.tenant("evil")
    _, seen = await world.serve("policy", "tenant.*.req.authorize.*")
    jwt = natsjwt.parse_jwt(evil.jwt)
    assert isinstance(jwt.nats, AccountClaims)
    stolen = natsjwt.Import(
        name="stolen",
        subject=f"tenant.{acme.keys.account}.req.authorize.*",
        account=world.installation.accounts["POLICY"],
        type="service",
        local_subject="stolen.*",
    )
    open_limits = msgspec.structs.replace(jwt.nats.limits, imports=-1)
    claims = msgspec.structs.replace(jwt.nats, imports=(*jwt.nats.imports, stolen), limits=open_limits)
    forged = natsjwt.sign_jwt(claims, signer=world.operator, subject=evil.keys.account, name="evil", issued_at=now())
    insider = await world.with_all_rights(forged, "insider")
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(insider, "stolen.a1")
    assert seen == []


async def test_an_account_without_an_activation_cannot_use_a_private_door(world: World) -> None:
    evil = await world.tenant("evil")
    _, seen = await world.serve("policy", "admin.policy.>")
    jwt = natsjwt.parse_jwt(evil.jwt)
    assert isinstance(jwt.nats, AccountClaims)
    owner = world.installation.accounts["POLICY"]
    for token in (
        "",
        natsjwt.sign_jwt(
            natsjwt.ActivationClaims(subject="admin.policy.>", kind="service"),
            signer=Nkey.new(ACCOUNT),
            subject=evil.keys.account,
            name="forged",
            issued_at=now(),
        ),
    ):
        door = natsjwt.Import(
            name="admin", subject="admin.policy.>", account=owner, type="service", local_subject="admin.>", token=token
        )
        open_limits = msgspec.structs.replace(jwt.nats.limits, imports=-1)
        claims = msgspec.structs.replace(jwt.nats, imports=(*jwt.nats.imports, door), limits=open_limits)
        forged = natsjwt.sign_jwt(
            claims, signer=world.operator, subject=evil.keys.account, name="evil", issued_at=now()
        )
        try:
            insider = await world.with_all_rights(forged, "insider")
        except Refused:
            continue
        with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
            await insider.client.request("admin.acme.activate.eve", b"", timeout=SILENCE_SECONDS)
    assert seen == []


async def test_another_tenant_that_listens_to_everything_hears_nothing(world: World) -> None:
    acme, globex = await world.tenant("acme"), await world.tenant("globex")
    await world.serve("policy", "tenant.*.req.authorize.*")
    insider = await world.with_all_rights(globex.jwt, "insider")
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    await insider.client.subscribe(">", cb=hear)
    await insider.settled()
    agent = await world.user(acme, "a1")
    for _ in range(5):
        await ask(agent, "req.authorize.a1")
    # The insider's own message is the proof that its subscription was alive all the while.
    await insider.client.publish("marker", b"")
    await asyncio.wait_for(_until(lambda: "marker" in heard), ANSWER_SECONDS)
    assert heard == ["marker"]


async def _until(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.005)


async def test_a_revoked_agent_is_disconnected_at_once_and_refused(world: World) -> None:
    acme = await world.tenant("acme")
    user = Nkey.new(USER)
    token = issue_user(
        role="agent",
        name="a1",
        user_public_key=user.public,
        account=acme.keys.account,
        signer=acme.keys.roles["agent"],
        issued_at=now(),
    )
    agent, other = await world.connect(blocks(token, user), "a1"), await world.user(acme, "a2")
    await world.push(natsjwt.with_revocations(acme.jwt, {user.public: now()}, operator=world.operator, issued_at=now()))
    await asyncio.wait_for(agent.closed.wait(), ANSWER_SECONDS)
    with pytest.raises(nats.errors.Error):
        await world.connect(blocks(token, user), "a1")
    assert not await other.refused_publish("req.authorize.a2")


async def test_an_agent_whose_credentials_end_is_disconnected_and_refused(world: World) -> None:
    acme = await world.tenant("acme")
    end = now() + 2
    text = credentials_of(acme, "a1", expires_at=end)
    agent = await world.connect(text, "a1")
    await asyncio.wait_for(agent.closed.wait(), ANSWER_SECONDS)
    # The server lets the last second count to its end.
    await asyncio.wait_for(_until(lambda: now() > end), ANSWER_SECONDS)
    with pytest.raises(nats.errors.Error):
        await world.connect(text, "a1")


async def test_a_deleted_tenant_is_disconnected_and_refused(world: World) -> None:
    acme = await world.tenant("acme")
    agent = await world.user(acme, "a1")
    await delete_account(await world.claims(), acme.keys.account, operator=world.operator, issued_at=now())
    await asyncio.wait_for(agent.closed.wait(), ANSWER_SECONDS)
    with pytest.raises(nats.errors.Error):
        await world.user(acme, "a2")


async def test_only_the_operators_signing_key_makes_or_deletes_accounts(world: World) -> None:
    claims, stranger = await world.claims(), Nkey.new(OPERATOR)
    keys, victim = new_tenant_keys(), await world.tenant("victim")
    forger = World(world.server, world.installation, AsyncExitStack())
    forger.operator = stranger
    await world.user(victim, "a1")
    # The server keeps what it is told and answers "updated"; but it looks at the signature before it believes it.
    await push_account(claims, forger.tenant_jwt("acme", keys))
    with pytest.raises(nats.errors.Error):
        await world.user(Tenant("acme", keys, ""), "a1")
    await push_account(claims, forger.tenant_jwt("victim", victim.keys, {"*": now() + 1_000}))
    await world.user(victim, "a2")
    with pytest.raises(Refused):
        await delete_account(claims, victim.keys.account, operator=stranger, issued_at=now())
    await world.user(victim, "a3")


async def test_a_signing_key_issues_users_of_its_one_role_and_account(world: World) -> None:
    acme, globex = await world.tenant("acme"), await world.tenant("globex")
    user, signer = Nkey.new(USER), acme.keys.roles["agent"]
    wide = natsjwt.UserClaims(
        issuer_account=acme.keys.account,
        pub=Permission(allow=(">",)),
        sub=Permission(allow=(">",)),
        subs=-1,
        data=-1,
        payload=-1,
    )
    for claims, key in (
        (wide, signer),  # rights of its own beside the role's
        (natsjwt.UserClaims(issuer_account=globex.keys.account), signer),  # another tenant's account
        (natsjwt.UserClaims(issuer_account=acme.keys.account, bearer_token=True), signer),  # no proof of its key
        (natsjwt.UserClaims(issuer_account=acme.keys.account), Nkey.new(ACCOUNT)),  # a key that nobody knows
        (natsjwt.UserClaims(issuer_account=world.installation.accounts["POLICY"]), signer),
    ):
        token = natsjwt.sign_jwt(claims, signer=key, subject=user.public, name="eve", issued_at=now())
        with pytest.raises(nats.errors.Error):
            await world.connect(blocks(token, user), "eve")


async def test_an_accounts_own_key_issues_no_user(world: World) -> None:
    account, user = Nkey.new(ACCOUNT), Nkey.new(USER)
    keys = msgspec.structs.replace(new_tenant_keys(), account=account.public)
    await world.push(world.tenant_jwt("acme", keys))
    token = natsjwt.sign_jwt(
        natsjwt.UserClaims(subs=-1, data=-1, payload=-1), signer=account, subject=user.public, name="e", issued_at=now()
    )
    with pytest.raises(nats.errors.Error):
        await world.connect(blocks(token, user), "e")


async def test_someone_elses_jwt_without_its_key_is_refused(world: World) -> None:
    acme = await world.tenant("acme")
    user = Nkey.new(USER)
    token = issue_user(
        role="agent",
        name="a1",
        user_public_key=user.public,
        account=acme.keys.account,
        signer=acme.keys.roles["agent"],
        issued_at=now(),
    )
    with pytest.raises(nats.errors.Error):
        await world.connect(blocks(token, Nkey.new(USER)), "a1")


# --- services -------------------------------------------------------------------------------------------------------


def matches(pattern: str, subject: str) -> bool:
    want, have = pattern.split("."), subject.split(".")
    for at, token in enumerate(want):
        if token == ">":
            return len(have) > at
        if at >= len(have) or token not in ("*", have[at]):
            return False
    return len(want) == len(have)


def example(subject: str) -> str:
    return subject.replace("{{account-subject()}}", "AX").replace("*", "x").replace(">", "x.y")


DANGERS = (
    "tenant.x.req.authorize.x",
    "intake.x.batch",
    "svc.mint.x",
    "svc.stepup.consume.x",
    "svc.feed.identity.x",
    "admin.policy.acme.activate.eve",
    "_INBOX.x.y",
    "_R_.x.y",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.ACCOUNT.x.CONNECT",
    *(f"$JS.API.STREAM.{v}.{s.name}" for v in ("DELETE", "PURGE", "UPDATE", "MSG.DELETE") for s in STREAMS),
)
EVERY_SUBJECT = sorted(
    {example(s) for u in USERS for s in u.publish} | {example(d.local) for d in DOORS} | {*DANGERS, "feed.x"}
)


@pytest.mark.parametrize("name", [u.name for u in USERS])
async def test_a_stolen_credential_publishes_what_its_row_says_and_nothing_else(world: World, name: str) -> None:
    user = next(u for u in USERS if u.name == name)
    own = world.installation.accounts[user.account]
    session = await world.as_service(name)
    for subject in EVERY_SUBJECT:
        allowed = any(matches(p.replace("{{account-subject()}}", own), subject) for p in user.publish)
        allowed = allowed and not any(matches(p, subject) for p in user.denied)
        if allowed and ("PURGE" in subject or "STREAM.DELETE" in subject):
            continue
        # The audit service's own journal subject is mapped by its account, and is allowed after the mapping.
        allowed = allowed or (name, subject) == ("audit", "intake.batch")
        assert await session.refused_publish(subject) != allowed, subject


@pytest.mark.parametrize("name", [u.name for u in USERS])
async def test_a_stolen_credential_hears_what_its_row_says_and_nothing_else(world: World, name: str) -> None:
    user = next(u for u in USERS if u.name == name)
    session = await world.as_service(name)
    for right in user.subscribe:
        subject, _, queue = right.partition(" ")
        assert not await session.refused_subscribe(subject, queue), right
        if queue:
            assert await session.refused_subscribe(subject), f"{subject} beside its queue"
            assert await session.refused_subscribe(subject, "wiretap"), f"{subject} in another queue"
    for other in USERS:
        for right in other.subscribe:
            subject, _, queue = right.partition(" ")
            if not any(matches(r.partition(" ")[0], subject) for r in user.subscribe):
                assert await session.refused_subscribe(subject, queue), right
    for subject in (">", "*", "tenant.>", "intake.>", "chain.>", "$JS.>", "_INBOX.>", "_R_.>"):
        assert await session.refused_subscribe(subject), subject


@pytest.mark.parametrize(
    "door", [d for d in DOORS if d.kind == "service" and d.owner != "AUDIT"], ids=lambda d: d.subject
)
async def test_each_door_leads_from_its_importers_to_its_owner(world: World, door: topology.Door) -> None:
    owner = door.owner.lower()
    await world.serve(owner, door.subject)
    for importer in door.importers:
        if importer not in {s.upper() for s in SERVICES}:
            continue
        caller = await world.as_service(importer.lower())
        assert await ask(caller, door.local) == door.seen_by(world.installation.accounts[importer]).encode()


async def test_a_service_asks_its_own_replicas_as_itself(world: World) -> None:
    session, seen = await world.serve("identity", "svc.feed.identity.*")
    assert await ask(session, "svc.feed.identity.self") == b"svc.feed.identity.self"
    assert len(seen) == 1


async def test_a_notification_reaches_the_declared_readers(world: World) -> None:
    reader, owner = await world.as_service("policy"), await world.as_service("identity")
    heard = await reader.client.subscribe("feed.identity")
    assert await reader.settled() == []
    await owner.client.publish("feed.identity", b"")
    assert (await heard.next_msg(timeout=ANSWER_SECONDS)).subject == "feed.identity"


async def test_a_service_answers_a_request_once(world: World) -> None:
    acme = await world.tenant("acme")
    service = await world.as_service("policy")
    requests = await service.client.subscribe("tenant.*.req.authorize.*", queue="policy")
    await service.settled()
    agent = await world.user(acme, "a1")
    asking = asyncio.ensure_future(ask(agent, "req.authorize.a1"))
    request = await requests.next_msg(timeout=ANSWER_SECONDS)
    await request.respond(b"once")
    assert await asking == b"once"
    await service.settled()
    assert await service.refused_publish(request.reply)


# --- operators ------------------------------------------------------------------------------------------------------


async def operator(world: World, name: str, role: str, tenant: str = "") -> Session:
    user = Nkey.new(USER)
    token = issue_user(
        role=role,
        name=name,
        user_public_key=user.public,
        account=world.installation.accounts["OPS"],
        signer=world.installation.role_key(role),
        issued_at=now(),
        tenant=tenant,
    )
    return await world.connect(blocks(token, user), name)


@pytest.mark.parametrize("service", SERVICES)
async def test_an_operator_reaches_each_service_under_its_own_name_only(world: World, service: str) -> None:
    await world.serve(service, f"admin.{service}.>")
    alice = await operator(world, "alice", "operator")
    assert await ask(alice, f"admin.{service}.acme.show.alice") == f"admin.{service}.acme.show.alice".encode()
    assert await alice.refused_publish(f"admin.{service}.acme.show.bob")
    assert await alice.refused_publish("req.authorize.alice")


async def test_a_tenant_operator_names_its_own_tenant_only(world: World) -> None:
    await world.serve("policy", "admin.policy.>")
    alice = await operator(world, "alice", "tenant-operator", "acme")
    assert await ask(alice, "admin.policy.acme.show.alice") == b"admin.policy.acme.show.alice"
    for subject in ("admin.policy.globex.show.alice", "admin.policy._.show.alice", "admin.policy.acme.show.bob"):
        assert await alice.refused_publish(subject), subject


async def test_a_tenant_operator_without_a_tenant_reaches_nothing(world: World) -> None:
    user = Nkey.new(USER)
    token = natsjwt.sign_jwt(
        natsjwt.UserClaims(issuer_account=world.installation.accounts["OPS"]),
        signer=world.installation.role_key("tenant-operator"),
        subject=user.public,
        name="alice",
        issued_at=now(),
    )
    try:
        alice = await world.connect(blocks(token, user), "alice")
    except nats.errors.Error:
        return
    for subject in ("admin.policy.acme.show.alice", "admin.policy._.show.alice", "admin.policy..show.alice"):
        assert await alice.refused_publish(subject), subject


# --- the journal and the log ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_the_server_stamps_the_emitter_into_the_journal(world: World, service: str) -> None:
    emitter, audit = await world.as_service(service), await world.as_service("audit")
    ack = msgspec.json.decode(await ask(emitter, "intake.batch", service.encode()))
    assert ack["stream"] == "INTAKE"
    found = await api(audit, "$JS.API.STREAM.MSG.GET.INTAKE", {"seq": ack["seq"]})
    message = found["message"]
    assert isinstance(message, dict)
    assert message["subject"] == f"intake.{world.installation.accounts[service.upper()]}.batch"


async def test_no_service_writes_the_journal_as_another(world: World) -> None:
    policy = await world.as_service("policy")
    assert await policy.refused_publish(f"intake.{world.installation.accounts['MINTING']}.batch")
    audit = await world.as_service("audit")
    assert await audit.refused_publish(f"intake.{world.installation.accounts['POLICY']}.batch")


async def test_a_batch_that_is_sent_twice_is_stored_once(world: World) -> None:
    policy = await world.as_service("policy")
    headers = {"Nats-Msg-Id": f"policy-{time.time_ns()}:0"}
    first = msgspec.json.decode(await ask(policy, "intake.batch", b"x", headers))
    again = msgspec.json.decode(await ask(policy, "intake.batch", b"x", headers))
    assert again["duplicate"] is True
    assert again["seq"] == first["seq"]


async def test_only_the_expected_head_is_appended_to_the_chain(world: World) -> None:
    audit = await world.as_service("audit")
    info = await api(audit, "$JS.API.STREAM.INFO.CHAIN")
    state = info["state"]
    assert isinstance(state, dict)
    expected = {"Nats-Expected-Last-Sequence": str(state["last_seq"])}
    assert "error" not in msgspec.json.decode(await ask(audit, "chain.0", b"block", expected))
    lost = msgspec.json.decode(await ask(audit, "chain.0", b"other", expected))
    assert lost["error"]["err_code"] == 10071


async def test_the_chain_rolls_with_the_rights_of_its_writer_and_the_retirer_alone_deletes(world: World) -> None:
    audit = await world.as_service("audit")
    name = await make_segment(audit.client, "CHAIN", 4711)
    assert await append(audit.client, "chain.4711", b"block", expected_last=4710) == 4711
    assert (await segments(audit.client))[-1] == (name, 4711, 4711)
    tail = Tail(audit.client, name, 4710)
    assert [(one.seq, one.payload) for one in await tail.take(5)] == [(4711, b"block")]
    await tail.close()
    config = (await api(audit, f"$JS.API.STREAM.INFO.{name}"))["config"]
    assert isinstance(config, dict)
    assert config["deny_delete"]
    assert config["deny_purge"]
    creds = str(world.installation.creds_path("audit-retirer"))
    with pytest.raises(Malformed, match="no segment"):
        await delete_segments(world.server.url, creds, ["INTAKE"])
    for name in ("INTAKE", "AUDIT", "CHECKPOINT"):
        retirer = await world.as_service("audit-retirer")
        assert await retirer.refused_publish(f"$JS.API.STREAM.DELETE.{name}")
    assert await audit.refused_publish("$JS.API.STREAM.DELETE.CHAIN-4711")
    await delete_segments(world.server.url, creds, ["CHAIN-4711"])
    assert "error" in await api(audit, "$JS.API.STREAM.INFO.CHAIN-4711")
    # Given again: it is gone already.
    with pytest.raises(Unavailable, match="was not deleted"):
        await delete_segments(world.server.url, creds, ["CHAIN-4711"])
    with pytest.raises(Misconfigured, match="cannot be used"):
        await delete_segments(world.server.url, creds + ".absent", ["CHAIN-4711"])


@pytest.mark.parametrize("stream", [s.name for s in STREAMS if s.keep_forever])
async def test_even_with_all_rights_nothing_is_taken_out_of_what_is_kept_forever(world: World, stream: str) -> None:
    insider = await world.with_all_rights(world.installation.account_jwts["AUDIT"], "insider")
    subject = next(s.subject for s in STREAMS if s.name == stream)
    ack = msgspec.json.decode(await ask(insider, subject, b"kept"))
    for verb, body in (("PURGE", None), ("MSG.DELETE", {"seq": ack["seq"]})):
        assert "error" in await api(insider, f"$JS.API.STREAM.{verb}.{stream}", body)
    found = await api(insider, f"$JS.API.STREAM.INFO.{stream}")
    config = found["config"]
    assert isinstance(config, dict)
    for flag in ("deny_delete", "deny_purge"):
        assert "error" in await api(insider, f"$JS.API.STREAM.UPDATE.{stream}", config | {flag: False})
    assert "message" in await api(insider, f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": ack["seq"]})
    await world.push(world.installation.account_jwts["AUDIT"])


async def test_a_nonce_is_used_once_by_any_number_at_once(world: World) -> None:
    proxy = await world.as_service("proxy")
    subject = f"nonce.n{time.time_ns()}"
    headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": "60s"}
    answers = await asyncio.gather(*(ask(proxy, subject, b"", headers) for _ in range(50)))
    assert sum("error" not in msgspec.json.decode(a) for a in answers) == 1


async def test_a_nonce_is_used_once_even_by_a_publisher_that_expects_nothing(world: World) -> None:
    proxy = await world.as_service("proxy")
    subject = f"nonce.n{time.time_ns()}"
    answers = [msgspec.json.decode(await ask(proxy, subject, b"")) for _ in range(2)]
    assert ["error" in a for a in answers] == [False, True]


async def test_streams_are_ensured_again_without_a_change_and_never_loosened(world: World) -> None:
    provisioner = await world.as_service("audit-provisioner")
    again = await topology.ensure_streams(provisioner.client, "AUDIT", BOUNDS)
    assert set(again.values()) == {"unchanged"}
    more = msgspec.structs.replace(BOUNDS, checkpoint_bytes=2 * MIB)
    assert (await topology.ensure_streams(provisioner.client, "AUDIT", more))["CHECKPOINT"] == "updated"
    with pytest.raises(Misconfigured):
        await topology.ensure_streams(provisioner.client, "AUDIT", BOUNDS)


async def test_a_credentials_file_connects_as_it_is(world: World, tmp_path: Path) -> None:
    acme = await world.tenant("acme")
    user = Nkey.new(USER)
    token = issue_user(
        role="agent",
        name="a1",
        user_public_key=user.public,
        account=acme.keys.account,
        signer=acme.keys.roles["agent"],
        issued_at=now(),
    )
    credentials = Credentials(
        servers=(world.server.url,),
        role="agent",
        name="a1",
        tenant="acme",
        jwt=token,
        user=user,
        agent_seed=bytes(32),
    )
    write_creds(tmp_path / "a1.creds", credentials)
    client = await nats.connect(world.server.url, user_credentials=str(tmp_path / "a1.creds"))
    await client.close()

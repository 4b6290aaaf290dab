"""What the service accepts, an auditor can verify from the log alone; what was changed afterwards is found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import events as kernel
from nomos.errors import BadSignature, Malformed, NomosError
from nomos.log.approvals import RACE_SECONDS, Approvals, read_approvals
from nomos.log.assertion import Assertion, verify_assertion
from nomos.log.record import canonical_bytes, format_ts, parse_record
from nomos.log.report import Tally
from nomos.servicemessages import Quorum
from nomos_stepup.approvercommands import EnrolPasskey, OfferEnrolment, RemoveApprover, RevokePasskey, SetGroups
from nomos_stepup.approvers import decide_approver
from nomos_stepup.base64url import b64url
from nomos_stepup.domain import Cancel, Consume, Deny, Expire, decide, evolve
from nomos_stepup.events import PasskeyEnrolled, to_record
from nomos_stepup.responses import parse_assertion, parse_registration
from nomos_stepup.webauthn import verify_registration

from .conftest import BE, BS, ED, UP, UV, Authenticator, Stage

REQUEST = "rq_" + "7" * 32


def parts_of(response: dict[str, Any], authenticator: Authenticator) -> Assertion:

    parsed = parse_assertion(response)
    return Assertion(
        authenticator.cose,
        parsed.client_data_json,
        parsed.authenticator_data,
        parsed.signature,
        "approve.example.test",
    )


CHALLENGE = hashlib.sha256(b"a challenge").digest()


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_what_the_library_accepts_is_accepted(stage: Stage, algorithm: str) -> None:
    authenticator = Authenticator(algorithm)
    for more in ({}, {"flags": UP | UV | BE | BS}, {"flags": UP | UV | ED, "extensions": b"\xa0"}, {"unknown": 1}):
        approver = stage.approver(authenticator)
        response = authenticator.sign(CHALLENGE, **more)  # type: ignore[arg-type]
        if "flags" not in more:
            stage.assertion(approver, response, CHALLENGE)
        assert verify_assertion(parts_of(response, authenticator)) == CHALLENGE
    sub = authenticator.sign(CHALLENGE, origin="https://eu.approve.example.test")
    assert verify_assertion(parts_of(sub, authenticator)) == CHALLENGE


@pytest.mark.parametrize(
    "more",
    [
        {"flags": UP},
        {"flags": UV},
        {"flags": 0},
        {"kind": "webauthn.create"},
        {"origin": "https://evil.example"},
        {"origin": "https://approve.example.test.evil.example"},
        {"origin": "https://xapprove.example.test"},
        {"origin": "https://["},
        {"crossOrigin": True},
        {"crossOrigin": "false"},
        {"topOrigin": "https://evil.example"},
        {"rp_id": "evil.example"},
    ],
)
def test_what_the_service_refuses_is_refused_offline(stage: Stage, more: dict[str, Any]) -> None:
    authenticator = Authenticator()
    approver = stage.approver(authenticator)
    response = authenticator.sign(CHALLENGE, **more)
    with pytest.raises(NomosError):
        stage.assertion(approver, response, CHALLENGE)
    with pytest.raises((BadSignature, Malformed)):
        verify_assertion(parts_of(response, authenticator))


@pytest.mark.parametrize(
    "client_data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"type":"webauthn.get"}',
        b'{"type":"webauthn.get","challenge":"AA=","origin":"https://approve.example.test"}',
        b'{"type":"webauthn.get","challenge":"AA","challenge":"AB","origin":"https://approve.example.test"}',
        b'{"type":"webauthn.get","challenge":NaN,"origin":"https://approve.example.test"}',
        b'{"type":"webauthn.get","challenge":"' + b"A" * 5_000 + b'","origin":"https://approve.example.test"}',
        b"[" * 3_000,
    ],
)
def test_client_data_of_another_form_is_refused(client_data: bytes) -> None:
    authenticator = Authenticator()
    response = authenticator.sign(CHALLENGE, client_data=client_data or b" ")
    with pytest.raises((BadSignature, Malformed)):
        verify_assertion(parts_of(response, authenticator))


@pytest.mark.parametrize("part", ["public_key", "client_data", "authenticator_data", "signature"])
def test_one_bit_in_any_byte_is_found(part: str) -> None:
    authenticator = Authenticator()
    right = parts_of(authenticator.sign(CHALLENGE), authenticator)
    octets = getattr(right, part)
    for at in range(len(octets)):
        for bit in (0, 7):
            changed = bytearray(octets)
            changed[at] ^= 1 << bit
            with pytest.raises((BadSignature, Malformed)):
                verify_assertion(right._replace(**{part: bytes(changed)}))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_key_or_malformed(octets: bytes) -> None:
    with pytest.raises((BadSignature, Malformed)):
        verify_assertion(Assertion(octets, b"{}", bytes(40), b"", "a"))
    right = Assertion(octets, RIGHT.client_data, RIGHT.authenticator_data, RIGHT.signature, RIGHT.rp_id)
    with pytest.raises((BadSignature, Malformed)):
        verify_assertion(right)


_SIGNER = Authenticator()
RIGHT = parts_of(_SIGNER.sign(CHALLENGE), _SIGNER)


class Log:
    """Records as the services write them, in order."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.now = 1_800_000_000_000_000

    def add(
        self, kind: str, event: dict[str, Any], *, tenant: str = "acme", svc: str = "stepup", corr: str = ""
    ) -> None:
        seq = len(self.objects)
        self.objects.append(
            {
                "actor": {"id": "x", "kind": "system"},
                "cause": "",
                "corr": corr,
                "event": orjson.loads(orjson.dumps(event)),
                "id": f"ev_{seq}",
                "pc": {"id": "p", "n": seq, "svc": svc},
                "seq": seq,
                "src": {"i": 0, "q": seq + 1, "s": "INTAKE"},
                "tenant": tenant,
                "tprev": "0" * 64,
                "ts": format_ts(self.now),
                "tseq": seq,
                "type": kind,
                "v": 1,
            }
        )

    def judge(self) -> tuple[str | None, int | None, Tally]:
        encoded = [canonical_bytes(one) for one in self.objects]
        for one in encoded:
            parse_record(one)
        found = read_approvals(enumerate(encoded))
        approvals, tally = Approvals(), Tally()
        wrong = approvals.take(found)
        approvals.tell(tally)
        if wrong is not None:
            return wrong[2], wrong[1], tally
        if found.bad is not None:
            return found.bad[1], found.bad[0], tally
        return None, None, tally


class Story:
    """An approver enrols, an agent asks, the approver signs, the agent uses it, policy counts on it."""

    def __init__(
        self,
        stage: Stage,
        *,
        needed: int = 1,
        people: tuple[str, ...] = ("ada",),
        groups: dict[str, tuple[str, ...]] | None = None,
        **asked: Any,
    ) -> None:
        self.stage = stage
        self.log = Log()
        self.keys = {name: Authenticator() for name in people}
        self.approvers: dict[str, Any] = {}
        for name, key in self.keys.items():
            self.approvers[name] = self._enrol(name, key)
        for name, some in (groups or {}).items():
            self.group(name, *some)
        self.approval = stage.approval(needed=needed, **asked)
        for event in decide(None, stage.opening(needed=needed, **asked)):
            self.say(event)

    def group(self, name: str, *groups: str) -> None:
        command = SetGroups(groups=groups, now=self.stage.NOW)
        for event in decide_approver(self.approvers[name], command):
            self.say(event)
        self.approvers[name] = self.stage.then_approver(self.approvers[name], command)

    def _enrol(self, name: str, key: Authenticator) -> Any:
        stage = self.stage
        approver = stage.approver(id=name)
        challenge = hashlib.sha256(f"{name}0".encode()).digest()
        offer = OfferEnrolment(challenge=challenge, expires_at=stage.NOW + 600, now=stage.NOW)
        approver = stage.then_approver(approver, offer)
        response = stage_registration(stage, key, challenge)
        for event in decide_approver(
            approver, EnrolPasskey(registration=response, label="key", is_taken=False, now=stage.NOW)
        ):
            self.say(event)
        return stage.then_approver(
            approver, EnrolPasskey(registration=response, label="key", is_taken=False, now=stage.NOW)
        )

    def say(self, event: Any) -> None:
        kind, payload = to_record(event)
        self.log.add(kind, payload)

    def does(self, command: Any) -> None:
        for event in decide(self.approval, command):
            self.approval = evolve(self.approval, event)
            self.say(event)

    def sign(self, name: str = "ada") -> None:
        self.does(self.stage.approve(self.approval, self.approvers[name], self.keys[name]))

    def use(self) -> None:
        self.does(
            Consume(
                tenant="acme",
                agent="site-bot",
                connection="github",
                digest=self.stage.DIGEST,
                request=REQUEST,
                now=self.stage.NOW + 2,
            )
        )

    def decision(self, *, cosigned: bool = True, svc: str = "policy", **request: object) -> None:
        right = {"agent": "site-bot", "connection": "github", "digest": self.stage.DIGEST.hex(), "cosigned": cosigned}
        self.log.add(kernel.DECISION_MADE, {"request": {**right, **request}}, svc=svc, corr=REQUEST)

    def whole(self) -> Story:
        self.sign()
        self.use()
        self.decision()
        return self


def stage_registration(stage: Stage, key: Authenticator, challenge: bytes) -> Any:

    return verify_registration(parse_registration(key.register(challenge)), challenge=challenge, party=stage.party)


def test_a_whole_story_is_proven(stage: Stage) -> None:
    wrong, _, tally = Story(stage).whole().log.judge()
    assert wrong is None
    (told,) = tally.checked
    assert told.startswith(
        "1 passkey signatures: over exactly what was asked, by keys enrolled before; 1 approvals used"
    )


def test_two_of_two_people_are_proven(stage: Stage) -> None:
    story = Story(stage, needed=2, people=("ada", "ben"))
    story.sign("ada")
    story.sign("ben")
    story.use()
    story.decision()
    assert story.log.judge()[0] is None


FINANCE = {"v": 2, "quorums": (Quorum(approvals=1, group="finance"), Quorum(approvals=1, group="legal"))}


def _grouped(stage: Stage) -> Story:
    groups = {"ada": ("finance",), "ben": ("legal", "ops"), "eve": ("finance",)}
    story = Story(stage, people=("ada", "ben", "eve"), groups=groups, **FINANCE)
    story.sign("ada")
    story.sign("ben")
    story.use()
    story.decision()
    return story


def test_people_of_the_groups_that_were_asked_are_proven(stage: Stage) -> None:
    assert _grouped(stage).log.judge()[0] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: _of(log, "approver.grouped").update(groups=["ops"]), "for a group that the approver is not in"),
        (lambda log: _drop(log, "approver.grouped"), "for a group that the approver is not in"),
        (lambda log: _of(log, "stepup.approved").update(groups=[]), "the number of signatures that are missing"),
        (lambda log: _of(log, "stepup.approved").update(groups=["finance", "legal"]), "that the approver is not in"),
        (lambda log: _of(log, "stepup.approved").update(groups=[1]), "are no texts"),
        (
            lambda log: _of(log, "stepup.requested")["request"]["quorums"].pop(),
            "the passkey signed another request than the recorded one",
        ),
    ],
)
def test_a_group_that_was_not_asked_or_is_not_the_signers_is_found(
    stage: Stage, change: Callable[[Log], Any], said: str
) -> None:
    story = _grouped(stage)
    change(story.log)
    wrong, _, _ = story.log.judge()
    assert wrong is not None
    assert said in wrong


def test_an_approval_that_lacks_a_group_cannot_be_used(stage: Stage) -> None:
    story = Story(stage, people=("ada", "ben"), groups={"ada": ("finance",), "ben": ("legal",)}, **FINANCE)
    story.sign("ada")
    story.log.add("stepup.consumed", {"approval": story.approval.id, "agent": "site-bot", "request": REQUEST,
                                      "at": stage.NOW + 2})  # fmt: skip
    assert story.log.judge()[0] == "an approval is used while 1 signatures are missing"


def test_who_left_the_group_a_moment_ago_may_have_signed_for_it(stage: Stage) -> None:
    story = Story(stage, groups={"ada": ("finance",)}, v=2, quorums=(Quorum(approvals=1, group="finance"),))
    signs = stage.approve(story.approval, story.approvers["ada"], story.keys["ada"])
    story.group("ada", "ops")
    story.does(signs)
    assert story.log.judge()[0] is None


@pytest.mark.parametrize(
    "end",
    [
        lambda s: Deny(approver=s.approvers["ada"], reason="", now=s.stage.NOW + 1),
        lambda s: Expire(now=s.stage.NOW + 901),
        lambda s: Cancel(tenant="acme", by_kind="agent", by="site-bot", reason="", now=s.stage.NOW + 1),
    ],
)
def test_an_approval_that_ends_otherwise_is_proven_and_cannot_be_used(
    stage: Stage, end: Callable[[Story], Any]
) -> None:
    story = Story(stage)
    story.does(end(story))
    assert story.log.judge()[0] is None
    story.decision()
    assert story.log.judge()[0] == "a decision counts on a person's approval, and none was used for exactly its request"


def _of(log: Log, kind: str) -> dict[str, Any]:
    return next(one["event"] for one in log.objects if one["type"] == kind)


def _swap(log: Log, first: str, second: str) -> None:
    places = {one["type"]: at for at, one in enumerate(log.objects)}
    one, other = log.objects[places[first]], log.objects[places[second]]
    one["type"], other["type"] = other["type"], one["type"]
    one["event"], other["event"] = other["event"], one["event"]


def _drop(log: Log, kind: str) -> None:
    log.objects = [one for one in log.objects if one["type"] != kind]
    for seq, one in enumerate(log.objects):
        one["seq"] = seq


CHANGES: dict[str, tuple[Callable[[Log], Any], str]] = {
    "another resource was asked": (
        lambda log: _of(log, "stepup.requested")["request"].update(resource="github:repo/acme/other"),
        "the passkey signed another request",
    ),
    "fewer people were needed": (
        lambda log: _of(log, "stepup.requested")["request"].update(needed=2),
        "the passkey signed another request",
    ),
    "another text was read": (
        lambda log: _of(log, "stepup.requested").update(args_text='{"x": 1}'),
        "the text that people read",
    ),
    "another salt": (
        lambda log: _of(log, "stepup.requested").update(salt=b64url(b"t" * 32)),
        "the passkey signed another request",
    ),
    "a short salt": (lambda log: _of(log, "stepup.requested").update(salt="AA"), "expected a salt"),
    "another tenant's": (
        lambda log: _of(log, "stepup.requested")["request"].update(tenant="globex"),
        "of another approval or tenant",
    ),
    "a member less": (
        lambda log: (
            _of(log, "stepup.requested")["request"].pop("digest", None)
            or _of(log, "stepup.requested")["request"].pop("agent")
        ),
        "lacks a member",
    ),
    "a key nobody enrolled": (lambda log: _drop(log, "passkey.enrolled"), "was not enrolled by this approver"),
    "enrolled afterwards": (
        lambda log: _swap(log, "passkey.enrolled", "stepup.approved"),
        "a signature releases an approval that does not wait",
    ),
    "another's key": (
        lambda log: _of(log, "passkey.enrolled").update(approver="mallory"),
        "was not enrolled by this approver",
    ),
    "who asks signs": (
        lambda log: (
            _of(log, "passkey.enrolled").update(approver="site-bot"),
            _of(log, "stepup.approved").update(approver="site-bot"),
        ),
        "who asks has approved",
    ),
    "signed too late": (lambda log: _of(log, "stepup.approved").update(at=Stage.NOW + 900), "signed after its time"),
    "missing is wrong": (lambda log: _of(log, "stepup.approved").update(missing=1), "number of signatures"),
    "nobody signed": (lambda log: _drop(log, "stepup.approved"), "is used while 1 signatures are missing"),
    "nobody asked": (lambda log: _drop(log, "stepup.requested"), "a signature releases an approval that does not wait"),
    "used too late": (lambda log: _of(log, "stepup.consumed").update(at=Stage.NOW + 900), "is used after its time"),
    "used by another agent": (lambda log: _of(log, "stepup.consumed").update(agent="eve"), "used by another agent"),
    "used for another request": (
        lambda log: _of(log, "stepup.consumed").update(request="rq_0"),
        "none was used for exactly its request",
    ),
    "never used": (lambda log: _drop(log, "stepup.consumed"), "none was used for exactly its request"),
    "decided before": (
        lambda log: _swap(log, "stepup.consumed", "authz.decision"),
        "said by another service",
    ),
    "another digest decided": (
        lambda log: _of(log, "authz.decision")["request"].update(digest="0" * 64),
        "none was used for exactly its request",
    ),
    "said by minting": (
        lambda log: next(o for o in log.objects if o["type"] == "stepup.approved")["pc"].update(svc="minting"),
        "said by another service",
    ),
    "decided by the proxy": (
        lambda log: next(o for o in log.objects if o["type"] == "authz.decision")["pc"].update(svc="proxy"),
        "said by another service",
    ),
    "another signature": (
        lambda log: _of(log, "stepup.approved").update(signature=b64url(b"0" * 70)),
        "signature does not verify",
    ),
    "padded": (lambda log: _of(log, "stepup.approved").update(signature="AA=="), "not base64url"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_an_approval_is_found(stage: Stage, name: str) -> None:
    story = Story(stage).whole()
    change, said = CHANGES[name]
    change(story.log)
    wrong, seq, _ = story.log.judge()
    assert wrong is not None
    assert said in wrong
    assert seq is not None


def test_a_decision_twice_on_one_approval_is_found(stage: Stage) -> None:
    story = Story(stage).whole()
    story.decision()
    assert story.log.judge()[:2] == (
        "a decision counts on a person's approval, and none was used for exactly its request",
        len(story.log.objects) - 1,
    )


def test_a_revoked_key_and_a_removed_approver_sign_nothing(stage: Stage) -> None:
    for command in (RevokePasskey, RemoveApprover):
        story = Story(stage)
        approver = story.approvers["ada"]
        credential = story.keys["ada"].credential_id
        more = {"credential_id": credential} if command is RevokePasskey else {}
        for event in decide_approver(approver, command(now=stage.NOW, **more)):
            story.say(event)
        story.log.now += (RACE_SECONDS + 1) * 1_000_000
        story.sign()
        assert story.log.judge()[0] == "the passkey that signed was not enrolled by this approver, or not any more"


def test_a_right_that_is_taken_away_while_a_signature_is_judged_is_no_fault_of_the_log(stage: Stage) -> None:
    for command in (RevokePasskey, RemoveApprover):
        story = Story(stage)
        more = {"credential_id": story.keys["ada"].credential_id} if command is RevokePasskey else {}
        for event in decide_approver(story.approvers["ada"], command(now=stage.NOW, **more)):
            story.say(event)
        story.log.now += RACE_SECONDS * 1_000_000
        story.sign()
        assert story.log.judge()[0] is None


def test_a_request_id_that_an_agent_gives_twice_is_no_fault(stage: Stage) -> None:
    first = Story(stage)
    first.sign()
    first.use()
    second = Story.__new__(Story)
    second.__dict__.update(first.__dict__)
    second.approval = stage.approval(approval="ap_" + "9" * 32)
    for event in decide(None, stage.opening(approval="ap_" + "9" * 32)):
        second.say(event)
    second.sign()
    second.use()
    second.decision()
    second.decision()
    assert second.log.judge()[0] is None


def test_what_an_agent_writes_into_its_claims_is_no_approval(stage: Stage) -> None:
    story = Story(stage)
    story.decision(cosigned=False, claims={"cosigned": True})
    story.log.add(kernel.DECISION_MADE, {"request": {"claims": {"cosigned": True}}}, svc="policy")
    assert story.log.judge()[0] is None


def test_enrolled_events_are_what_the_service_writes() -> None:
    kind, payload = to_record(
        PasskeyEnrolled(
            approver="sub-1",
            credential_id="AA",
            public_key="AA",
            sign_count=0,
            aaguid="",
            label="key",
            backup_eligible=False,
            at=1,
        )
    )
    assert (kind, payload["public_key"]) == (kernel.PASSKEY_ENROLLED, "AA")

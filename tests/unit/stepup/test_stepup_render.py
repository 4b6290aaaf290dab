from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed, MalformedRecord
from nomos.keys import SigningKey
from nomos.messages import PolicyRef
from nomos.servicemessages import OpenApproval
from nomos.ucan.delegation import parse_delegation
from nomos_stepup.challenge import ReasonPolicy, args_text_of, text_sha256
from nomos_stepup.cosigner import COSIGNATURE_SECONDS_MAX, command_of, mint_cosignature
from nomos_stepup.domain import Consume, Expire, decide
from nomos_stepup.opening import prepare
from nomos_stepup.render import clean, is_hidden, render


def shown(stage: Any, args: dict[str, object], **changes: Any) -> str:
    text = args_text_of(args)
    return render(stage.request(args_text_sha256=text_sha256(text), **changes), text).text


def test_the_human_sees_who_what_why_with_which_arguments_and_until_when(stage: Any) -> None:
    request = stage.request(behalf="grace", needed=2)
    assert render(request, args_text_of(stage.ARGS)).text == (
        "site-bot wants to run github:repos.delete on github:repo/acme/site\n"
        "\n"
        "Who asks      agent site-bot of app support\n"
        "On behalf of  tenant acme, grace\n"
        "Action        github:repos.delete (destroys something, perhaps for good)\n"
        "Resource      github:repo/acme/site\n"
        "Connection    github\n"
        "Why           policy destructive-needs-human: Deleting needs a human.\n"
        "Approvals     2 different people must approve\n"
        "Asked at      2027-01-15 08:00:00 UTC\n"
        "Valid until   2027-01-15 08:15:00 UTC\n"
        "Approval      ap_11111111111111111111111111111111\n"
        "\n"
        "Arguments, as they will be sent:\n"
        "  {\n"
        '    "delete_branch": true,\n'
        '    "note": "old site"\n'
        "  }\n"
    )


def test_arguments_that_the_request_does_not_bind_are_not_shown(stage: Any) -> None:
    with pytest.raises(MalformedRecord):
        render(stage.request(), args_text_of({"delete_branch": False}))


def test_an_argument_that_names_bytes_says_that_they_are_not_shown(stage: Any) -> None:
    named = {"sha256": "0" * 64, "bytes": 12_345, "type": "image/png"}
    note = (
        "Note: up\u27e8U+202E\u27e9load is 12345 bytes (image/png) that are not shown; only those of this SHA-256 are"
    )
    assert note in shown(stage, {"up\u202eload": named, "key": "a.png"})
    for other in ({**named, "bytes": "12345"}, {**named, "more": 1}, "text", [named]):
        assert "not shown" not in shown(stage, {"upload": other})


@given(st.text(max_size=60))
def test_cleaned_text_shows_every_character_and_stays_distinct(text: str) -> None:
    cleaned = clean(text)
    assert not any(is_hidden(character) for character in cleaned)
    assert "\n" not in cleaned
    restored = re.sub("⟨U[+]([0-9A-F]{4,6})⟩", lambda mark: chr(int(mark[1], 16)), cleaned)
    assert restored == text
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "character",
    "\u200b\u200d\u2060\u202e\u2066\u061c\u00ad\ufeff\u034f\u115f\u3164\uffa0\ufe0f\u180e\u2800\u2028\u00a0\u0000\u001b\u007f\u0085"
    "\U000e0041\U000e0100\ue000",
    ids=lambda character: f"U+{ord(character):04X}",
)
def test_invisible_and_reordering_characters_are_written_out(stage: Any, character: str) -> None:
    text = shown(stage, {"note": f"a{character}b"}, policies=(ReasonPolicy(id=f"p{character}", description="x"),))
    assert character not in text
    assert f"policy p⟨U+{ord(character):04X}⟩" in text
    assert "hidden character" in text


def test_content_cannot_imitate_the_mark_of_a_hidden_character(stage: Any) -> None:
    assert clean("⟨U+202E⟩") == "⟨U+27E8⟩U+202E⟨U+27E9⟩"


def test_a_line_break_in_an_argument_cannot_begin_a_line(stage: Any) -> None:
    text = shown(stage, {"note": "x\nValid until   2099-01-01"})
    assert sum(line.startswith("Valid until") for line in text.split("\n")) == 1
    assert '"note": "x\\nValid until   2099-01-01"' in text


def test_marks_piled_on_one_letter_are_written_out() -> None:
    assert clean("a" + "\u0301" * 5) == "a" + "\u0301" * 3 + "⟨U+0301⟩" * 2


def test_plain_text_of_many_languages_is_left_alone() -> None:
    for text in ("Grüße", "日本語", "Ελλάδα", "हिन्दी", "emoji 🙂", "العربية", "naïve — “quoted”"):
        assert clean(text) == text


def test_right_to_left_text_is_noted(stage: Any) -> None:
    assert "right-to-left" in shown(stage, {"note": "שלום"})
    assert "Note" not in shown(stage, {"note": "hello"})


def message(stage: Any, **changes: Any) -> OpenApproval:
    request = stage.request()
    right = OpenApproval(
        v=1,
        tenant="acme",
        agent="site-bot",
        agent_did=request.agent_did,
        app="support",
        request=request.request,
        action=request.action,
        risk="destructive",
        resource=request.resource,
        connection="github",
        args=stage.ARGS,
        digest=stage.DIGEST,
        decision=request.decision,
        revision=7,
        policy_set="5" * 64,
        policies=[PolicyRef(id="destructive-needs-human", description="Deleting needs a human.")],
    )
    return msgspec.structs.replace(right, **changes)


def prepared(stage: Any, **changes: Any) -> Any:
    approval = stage.request().approval
    return prepare(message(stage, **changes), approval=approval, salt=b"s" * 32, now=stage.NOW, pending_of_agent=0)


def test_policys_message_becomes_the_request_that_is_stored(stage: Any) -> None:
    assert prepared(stage).request == stage.request()
    assert decide(None, prepared(stage))


@pytest.mark.parametrize(
    "change",
    [
        {"digest": bytes(32)},
        {"args": {"delete_branch": False}},
        {"resource": "github:repo/acme/other"},
        {"risk": "none"},
        {"agent": "No Slug"},
        {"agent_did": "did:key:z"},
        {"policies": [PolicyRef(id="p" * 300)]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_message_whose_digest_or_names_do_not_fit_is_refused(stage: Any, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        prepared(stage, **change)


def approved(stage: Any) -> Any:
    authenticator = stage.Authenticator()
    state = stage.approval()
    return stage.then(state, stage.approve(state, stage.approver(authenticator), authenticator))


def test_an_approval_gives_a_cosigner_delegation_for_exactly_its_request(stage: Any) -> None:
    key, state = SigningKey(bytes(range(32))), approved(stage)
    delegation = parse_delegation(mint_cosignature(state, key, nonce=b"n" * 12, now=stage.NOW + 5))
    delegation.check_signature()
    assert delegation.issuer == delegation.subject == key.did
    assert delegation.audience == state.request.agent_did
    assert delegation.command == "/github/repos/delete" == command_of("github:repos.delete")
    assert delegation.expires_at == stage.NOW + 5 + COSIGNATURE_SECONDS_MAX
    assert delegation.meta == {"approval": state.id}
    assert delegation.envelope.payload["pol"] == [
        ["==", ".resource", "github:repo/acme/site"],
        ["==", ".digest", stage.DIGEST],
    ]


def test_a_cosigner_delegation_cannot_outlive_its_approval(stage: Any) -> None:
    key, state = SigningKey(bytes(range(32))), approved(stage)
    end = state.request.expires_at
    delegation = parse_delegation(mint_cosignature(state, key, nonce=b"n" * 12, now=end - 10))
    assert delegation.expires_at == end - 1
    with pytest.raises(Exception, match="over") as refusal:
        mint_cosignature(state, key, nonce=b"n" * 12, now=end)
    assert refusal.value.code == "expired"  # type: ignore[attr-defined]


def test_only_an_approved_and_unused_approval_gives_a_cosigner_delegation(stage: Any) -> None:
    key = SigningKey(bytes(range(32)))
    pending = stage.approval()
    expired = stage.then(pending, Expire(now=pending.request.expires_at))
    command = Consume(
        tenant="acme", agent="site-bot", connection="github", digest=stage.DIGEST, request="rq_1", now=stage.NOW + 2
    )
    spent = stage.then(approved(stage), command)
    for state, code in ((pending, "refused"), (expired, "refused"), (spent, "replayed")):
        with pytest.raises(Exception, match="approval") as refusal:
            mint_cosignature(state, key, nonce=b"n" * 12, now=stage.NOW + 3)
        assert refusal.value.code == code  # type: ignore[attr-defined]

"""One signature over a deed does one thing, also where two uses of it meet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import nomos_stepup.ceremonies as module
from nomos.errors import ApprovalRefused, Conflict
from nomos_stepup.approvercommands import OfferEnrolment, RaiseCounter, RevokePasskey
from nomos_stepup.approvers import Approver, decide_approver, evolve_approver
from nomos_stepup.ceremonies import Ceremonies
from nomos_stepup.facts import VerifiedAssertion


class Store:
    """An approver's history in memory."""

    def __init__(self, state: Approver) -> None:
        self.state = state
        self.done: list[Any] = []

    async def decide_approver(self, tenant: str, subject: str, command: Any, actor: Any, corr: str) -> Approver:
        for event in decide_approver(self.state, command):
            self.state = evolve_approver(self.state, event)
            self.done.append(command)
        return self.state


@pytest.mark.parametrize("counter", [0, 7])
async def test_two_uses_of_one_signature_at_the_same_moment_do_one_thing(
    stage: Any, monkeypatch: pytest.MonkeyPatch, counter: int
) -> None:
    first, second = stage.Authenticator(), stage.Authenticator()
    person: Approver = stage.approver(first, second)
    passkey = person.passkeys[0]
    verified = msgspec.convert(
        {
            **dict.fromkeys(("challenge", "client_data_json", "authenticator_data", "signature"), b""),
            "credential_id": passkey.credential_id,
            "public_key": passkey.public_key,
            "sign_count": counter,
            "rp_id": "",
        },
        VerifiedAssertion,
    )
    monkeypatch.setattr(module, "parse_assertion", lambda response: verified)
    monkeypatch.setattr(module, "verify_assertion", lambda *_, **__: verified)
    store: Any = Store(person)
    nothing: Any = None
    ceremonies = Ceremonies(nothing, store, nothing)
    # Both have loaded the same state, and have found the deed to be for it.
    given: Any = {"challenge": b"", "response": {}, "corr": ""}
    await ceremonies.offer(person, seconds=60, **given)
    with pytest.raises(Conflict if counter == 0 else ApprovalRefused):
        await ceremonies.offer(person, seconds=60, **given)
    with pytest.raises(Conflict if counter == 0 else ApprovalRefused):
        await ceremonies.remove(person, person.passkeys[1], **given)
    kinds = [type(one) for one in store.done]
    assert kinds == [*([RaiseCounter] if counter else []), OfferEnrolment]
    assert RevokePasskey not in kinds

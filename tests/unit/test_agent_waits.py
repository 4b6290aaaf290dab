"""An agent that waits for a human: it asks at a measured pace, and goes on when the service comes back."""

from __future__ import annotations

from typing import Any

import pytest

import nomos.agent as module
from nomos.agent import APPROVAL_PAUSE_SECONDS, Agent, ApprovalEnded, StepUpRequired
from nomos.errors import NomosError, Refused, Unavailable
from nomos.keys import SigningKey
from nomos.messages import ApprovalStatus

STEP_UP = StepUpRequired(decision="dc_1", approval="ap_1", expires_at=2_000_000_000)


def _status(state: str, cosigner: bytes | None = None) -> ApprovalStatus:
    return ApprovalStatus(approval="ap_1", state=state, expires_at=2_000_000_000, cosigner=cosigner)


class Line:
    """The bus, with answers that were written down; it answers each at once."""

    credentials = type("Names", (), {"name": "bot"})

    def __init__(self, *answers: ApprovalStatus | NomosError) -> None:
        self.answers = list(answers)

    async def ask(self, *_: object) -> ApprovalStatus:
        answer = self.answers.pop(0)
        if isinstance(answer, NomosError):
            raise answer
        return answer


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, and a clock that moves by them alone."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(module, "pause", pause)
    monkeypatch.setattr(module, "now_ms", lambda: 1_000 + int(sum(pauses) * 1_000))
    return pauses


def _agent(*answers: ApprovalStatus | NomosError) -> Agent:
    line: Any = Line(*answers)
    return Agent(line, SigningKey(bytes(range(32))))


async def test_an_answer_that_comes_early_is_not_asked_for_again_at_once(pauses: list[float]) -> None:
    agent = _agent(_status("pending"), _status("pending"), _status("approved", b"cosigner"))
    assert await agent.wait_for(STEP_UP, 60) == b"cosigner"
    assert pauses == [APPROVAL_PAUSE_SECONDS] * 2


async def test_a_wait_goes_on_when_the_service_was_away(pauses: list[float]) -> None:
    agent = _agent(Unavailable("nobody answers"), _status("approved", b"cosigner"))
    assert await agent.wait_for(STEP_UP, 60) == b"cosigner"
    assert pauses == [APPROVAL_PAUSE_SECONDS]


async def test_a_wait_ends_with_its_time_whether_the_service_is_there_or_not(pauses: list[float]) -> None:
    with pytest.raises(Unavailable):
        await _agent(*[Unavailable("nobody answers")] * 9).wait_for(STEP_UP, 3)
    with pytest.raises(ApprovalEnded, match="still pending"):
        await _agent(*[_status("pending")] * 9).wait_for(STEP_UP, 3)


async def test_a_refusal_ends_a_wait_at_once(pauses: list[float]) -> None:
    with pytest.raises(Refused):
        await _agent(Refused("no")).wait_for(STEP_UP, 60)
    assert not pauses

"""The main job over real servers: ask, get a delegation for exactly one request, use it once, get a cleaned answer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.errors import NomosError
from nomos.messages import Failure


async def test_an_allowed_call_returns_the_cleaned_body_and_says_what_was_removed(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    done = await bot.agent.call("github:issues.get", "github:repo/acme/clean", {"issue_number": 13})
    assert isinstance(done, Allowed)
    assert done.status == 200
    assert scene.SECRET.encode() not in done.body
    assert not any(0xE0000 <= ord(c) <= 0xE007F for c in done.body.decode())
    assert sum(int(str(r["count"])) for r in done.removed) >= 2
    assert [p.id for p in done.policies] == ["read-issues"]
    kinds = [e.type for e in await scene.events(tenant) if e.type.split(".")[0] in ("authz", "ucan", "proxy")]
    assert kinds[-4:] == ["authz.decision", "ucan.minted", "proxy.attempted", "proxy.finished"]

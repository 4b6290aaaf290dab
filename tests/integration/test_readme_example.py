"""The README's Python example, run as it stands, by a user who has copied it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from nomos.creds import write_creds

README = Path(__file__).parents[2] / "README.md"


async def _run(folder: Path, code: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_readmes_example_runs_as_it_stands(scene: Any, tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    tenant = await scene.tenant()
    bot = await scene.agent(tenant, connect=False)
    write_creds(tmp_path / "issue-bot.creds", bot.credentials)
    status, out, err = await _run(tmp_path, code)
    assert (status, err) == (0, "")
    assert "'number': 13" in out
    assert scene.SECRET not in out
    status, out, err = await _run(
        tmp_path, code.replace("github:issues.list", "github:labels.list").replace('{"state": "open"}', "{}")
    )
    assert (status, out.split(":")[0]) == (0, "denied")

"""Runs one command on a host: words in, exit status and output out.

SSH carries a command as one string, which the user's login shell reads. The string is made here and nowhere else: each
word is quoted, also where it looks harmless (``time`` is a word of bash's own, ``=ls`` a path in zsh), so that no word
is more than one word and none is read as syntax. A backslash never stands in single quotes, where fish would read it.
No terminal, no environment, no forwarding.

Source: RFC 4254, section 6.5; POSIX.1-2024, Shell Command Language, 2.2.2.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import asyncssh

from nomos.errors import UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.files.answers import check_size, told
from nomos_proxy.files.asked import Asked
from nomos_proxy.ssh.dial import WINDOW_BYTES

#: Bytes of a command's standard output and of its errors, each.
OUTPUT_BYTES_MAX: Final = 262_144
_PIECE_BYTES: Final = 65_536
_RUNS: Final = re.compile(r"[^'\\]+|'+|\\+")


async def run(connection: asyncssh.SSHClientConnection, asked: Asked, body_bytes_max: int) -> UpstreamResponse:
    """Runs a command to its end.

    Raises:
        UnknownOutcome: it wrote more than it may, or the host does not say how it ended: it was cut off.
        AnswerRefused: its output does not fit an answer.
        asyncssh.Error, OSError: the connection ended.
    """
    process = await connection.create_process(
        command_line(asked.argv), encoding=None, window=WINDOW_BYTES, request_pty=False, env=None, send_env=None
    )
    process.stdin.write(asked.stdin)
    process.stdin.write_eof()
    output, errors = await _outputs(process)
    # both ends were seen; what follows is how it ended, or the end of the connection
    await process.wait_closed()
    if process.exit_status is None:
        raise UnknownOutcome("the host does not say how the command ended")
    signal = process.exit_signal
    answer = told(
        200,
        {
            "exit_status": process.exit_status if signal is None else None,
            "exit_signal": None if signal is None else str(signal[0]),
            "stdout": output.decode("utf-8", "replace"),
            "stderr": errors.decode("utf-8", "replace"),
            "is_exact": _is_text(output) and _is_text(errors),
        },
    )
    check_size(len(answer.body), body_bytes_max)
    return answer


def command_line(argv: tuple[str, ...]) -> str:
    """The one string that a POSIX shell, zsh or fish reads as exactly these words."""
    return " ".join(_quoted(word) for word in argv)


def _quoted(word: str) -> str:
    """A word in quotes: single ones around everything but themselves and backslashes, which stand in double ones."""
    pieces = []
    for run in _RUNS.findall(word):
        if run.startswith("'"):
            pieces.append(f'"{run}"')
        elif run.startswith("\\"):
            pieces.append('"' + run * 2 + '"')
        else:
            pieces.append(f"'{run}'")
    return "".join(pieces) or "''"


async def _outputs(process: asyncssh.SSHClientProcess[bytes]) -> tuple[bytes, bytes]:
    """Standard output and errors, read side by side: a command that fills one while we read the other would hang."""
    try:
        async with asyncio.TaskGroup() as tasks:
            out = tasks.create_task(_output(process.stdout))
            err = tasks.create_task(_output(process.stderr))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return out.result(), err.result()


async def _output(stream: asyncssh.SSHReader[bytes]) -> bytes:
    received = bytearray()
    while piece := await stream.read(_PIECE_BYTES):
        received += piece
        if len(received) > OUTPUT_BYTES_MAX:
            raise UnknownOutcome(
                f"the command writes more than output_bytes_max, which is {OUTPUT_BYTES_MAX}; it was cut off"
            )
    return bytes(received)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True

"""Becomes a server that dies with its parent. Run as a script; imports the standard library only.

    python -I -S _launch.py PARENT_PID SIGNAL IDENTITY SLACK_NS COMMAND [ARGUMENT ...]

1. IDENTITY ``user`` stays who it is. ``unroot`` is for root, under which Postgres refuses to run: it enters a user
   namespace where root's files belong to an ordinary user. Where the kernel does not allow that, it exits with
   status 77. ``UID:GID`` changes to that user.
2. On Linux the kernel is told to send SIGNAL when the parent ends. This comes after 1: a change of identity clears it.
3. Where SLACK_NS is not 0, timers may be late by so many nanoseconds (prctl(2), PR_SET_TIMERSLACK).
4. If the parent has ended meanwhile, it exits; else it becomes COMMAND, with the same process id.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29
EXIT_NO_NAMESPACE = 77


def _unroot() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    ordinary = next(p for p in pwd.getpwall() if p.pw_uid != 0 and p.pw_gid != 0)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        sys.exit(EXIT_NO_NAMESPACE)
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{ordinary.pw_uid} {uid} 1"),
            ("gid_map", f"{ordinary.pw_gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
    except OSError:
        sys.exit(EXIT_NO_NAMESPACE)


def main(parent: int, signal: int, identity: str, slack_ns: int, command: list[str]) -> None:
    """Does what the module says; does not return."""
    if identity == "unroot":
        _unroot()
    elif identity != "user":
        uid, gid = identity.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal)
        if slack_ns:
            libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns))
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # the point of this script; no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])

"""Processor time of processes, from ``/proc`` (proc(5)): what a request costs, whoever else uses the machine.

Linux only. Times are in clock ticks of 10 ms as a rule, so they mean something over seconds, not over one request.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from nomos.errors import Misconfigured

_PROC: Final = Path("/proc")
#: Of the fields behind the name in ``/proc/<pid>/stat``: parent; user and system time, of itself and of ended children.
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14


def _fields(pid: int | str) -> list[str]:
    # The name stands in brackets and may hold spaces and brackets itself.
    return (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def _seconds(fields: list[str], *columns: int) -> float:
    return sum(int(fields[column]) for column in columns) / os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """User and system time of one process so far, seconds.

    Raises:
        Misconfigured: the system has no ``/proc``, or the process is gone.
    """
    try:
        return _seconds(_fields(pid), _USER, _SYSTEM)
    except (OSError, IndexError, ValueError) as e:
        raise Misconfigured(f"the processor time of process {pid} cannot be read", cause=repr(e)) from e


def family_seconds(parent: int) -> float:
    """Time of a process and its children, those that have ended included, seconds. Grandchildren are not looked for."""
    total = 0.0
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = _fields(folder.name)
            if folder.name == str(parent):
                total += _seconds(fields, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM)
            elif int(fields[_PARENT]) == parent:
                total += _seconds(fields, _USER, _SYSTEM)
        except (OSError, IndexError, ValueError):
            # Ended while we looked.
            continue
    return total


def all_seconds(processes: Mapping[str, int], families: Mapping[str, int]) -> dict[str, float]:
    """Time by name, of single processes and of processes with their children."""
    found = {name: processor_seconds(pid) for name, pid in processes.items()}
    return found | {name: family_seconds(pid) for name, pid in families.items()}


def machine(folder: Path) -> dict[str, object]:
    """What a reader needs to judge the figures; ``storage`` is the file system of ``folder`` (memory syncs free)."""
    return {
        "processor": _first(_lines("/proc/cpuinfo"), "model name") or platform.processor(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "storage": _filesystem(folder.resolve()),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _first(lines: Iterable[str], name: str) -> str:
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _filesystem(folder: Path) -> str:
    mounts = [line.split() for line in _lines("/proc/mounts")]
    under = [m for m in mounts if len(m) > 2 and folder.is_relative_to(m[1])]
    return max(under, key=lambda m: len(m[1]))[2] if under else "unknown"

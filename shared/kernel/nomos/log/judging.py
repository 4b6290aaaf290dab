"""Running the judge over all row groups of an export, in this process or in several.

Decides only where the work is done; the outcome comes in the order of files and groups, whatever finished first, and
memory holds a bounded number of groups.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self

from nomos.errors import Malformed, Refused
from nomos.log.group import GroupSummary, judge_group
from nomos.log.parts import Part, load_reader
from nomos.log.report import Verdict

#: Groups that wait for each process, so that none is idle and few are held.
_AHEAD: Final = 4


class GroupTask(NamedTuple):
    """One row group to judge. ``name`` is the part's relative name."""

    directory: Path
    name: str
    group: int
    with_prev: bool
    sizes: tuple[int, ...]
    cuts: tuple[int, ...]
    level: int


class GroupFailed(Refused):
    """A row group, or its whole file, that cannot be read as the format says."""

    code: ClassVar[str] = "group_failed"

    def __init__(self, verdict: Verdict, reason: str, name: str, group: int | None) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.name = name
        self.group = group


class _Failure(NamedTuple):
    """The outcome of a task that failed; crosses the border between processes as a plain value."""

    verdict: Verdict
    reason: str


#: Takes the records of one group after the other: fresh memory for each would cost more than reading them.
_records = bytearray()


def _judge(task: GroupTask) -> GroupSummary | _Failure:
    try:
        with Part(task.directory / task.name, with_prev=task.with_prev) as part:
            rows = part.read(task.group, _records)
    except FileNotFoundError:
        return _Failure(Verdict.INCOMPLETE, "the file is missing")
    except Malformed as error:
        return _Failure(Verdict.TAMPERED, error.detail)
    # A row group makes a hundred thousand objects without a cycle among them; looking for cycles would cost a tenth.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return judge_group(rows, sizes=task.sizes, cuts=task.cuts, level=task.level)
    finally:
        if collecting:
            gc.enable()


def _tasks(
    directory: Path, names: Iterable[str], *, with_prev: bool, sizes: tuple[int, ...], cuts: tuple[int, ...], level: int
) -> Iterator[GroupTask]:
    for name in names:
        try:
            with Part(directory / name, with_prev=with_prev) as part:
                groups = part.groups
        except FileNotFoundError:
            raise GroupFailed(Verdict.INCOMPLETE, "the file is missing", name, None) from None
        except Malformed as error:
            raise GroupFailed(Verdict.TAMPERED, error.detail, name, None) from None
        for group in range(groups):
            yield GroupTask(directory, name, group, with_prev, sizes, cuts, level)


def _finished(task: GroupTask, outcome: GroupSummary | _Failure) -> tuple[GroupTask, GroupSummary]:
    if isinstance(outcome, _Failure):
        raise GroupFailed(outcome.verdict, outcome.reason, task.name, task.group)
    return task, outcome


class Judges:
    """The processes that judge. Use ``with Judges(workers) as judges``; 1 means this process alone.

    They start at once, and load the reader of Parquet beside what must be read before the first group. Forked where
    this process has one thread, as the command has before it reads Parquet; else spawned, since a fork would copy the
    locks of other threads.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(workers, mp_context=get_context("fork" if _is_alone() else "spawn"))
            for _ in range(workers):
                self._pool.submit(load_reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, tasks: Iterator[GroupTask]) -> Iterator[tuple[GroupTask, GroupSummary]]:
        """Judges these groups and gives the summaries in their order.

        Raises:
            GroupFailed: when its turn comes, for a group that cannot be read.
        """
        if self._pool is None:
            for task in tasks:
                yield _finished(task, _judge(task))
            return
        waiting: deque[tuple[GroupTask, Future[GroupSummary | _Failure]]] = deque()
        for task in tasks:
            waiting.append((task, self._pool.submit(_judge, task)))
            if len(waiting) >= self.workers * _AHEAD:
                done, future = waiting.popleft()
                yield _finished(done, future.result())
        while waiting:
            done, future = waiting.popleft()
            yield _finished(done, future.result())


def _is_alone() -> bool:
    """Whether this process has one thread, also of those that Python does not know."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def judge_all(
    directory: Path,
    names: Iterable[str],
    *,
    with_prev: bool,
    sizes: tuple[int, ...],
    cuts: tuple[int, ...] = (),
    level: int,
    judges: Judges,
) -> Iterator[tuple[GroupTask, GroupSummary]]:
    """Judges all row groups of the named parts and gives the summaries in order.

    Args:
        directory: the export.
        names: relative names of parts, in order.
        with_prev: whether the parts have the column ``prev``.
        sizes: the checkpoint sizes, rising.
        cuts: the positions of statements of heads, rising.
        level: 1 or 2.
        judges: the processes that judge.

    Raises:
        GroupFailed: when its turn comes, for a group that cannot be read.
    """
    tasks = _tasks(directory, names, with_prev=with_prev, sizes=sizes, cuts=cuts, level=level)
    yield from judges.run(tasks)

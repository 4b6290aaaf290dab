"""The stages of calls: medians of what was kept, and a new beginning once they are told."""

from __future__ import annotations

from typing import Any

from nomos_proxy import stages as stages_module
from nomos_proxy.stages import STAGES, Stages, Watch


def watch(*laps: float) -> Watch:
    made = Watch()
    made.laps = list(laps)
    return made


async def told(stages: Stages) -> dict[str, Any]:
    by: Any = None
    return await stages.tell(by, by)


async def test_the_median_of_each_stage_is_told_once() -> None:
    stages = Stages()
    for number in (1, 2, 9):
        stages.keep(watch(*(number * (place + 1) / 1e6 for place in range(len(STAGES)))))
    assert await told(stages) == {"calls": 3, "p50_us": {name: 2 * (place + 1) for place, name in enumerate(STAGES)}}
    assert await told(stages) == {"calls": 0, "p50_us": dict.fromkeys(STAGES, 0)}


async def test_no_more_calls_are_kept_than_the_limit() -> None:
    stages = Stages()
    for _ in range(stages_module.CALLS_MAX + 5):
        stages.keep(watch(*[0.0] * len(STAGES)))
    assert (await told(stages))["calls"] == stages_module.CALLS_MAX


def test_a_watch_measures_from_one_lap_to_the_next() -> None:
    measured = Watch()
    for _ in STAGES:
        measured.lap()
    assert len(measured.laps) == len(STAGES)
    assert all(lap >= 0 for lap in measured.laps)

"""Volumes of tenants, links that are swapped in while calls run, and bounds of calls at once."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nomos.catalogue import OutgoingRequest
from nomos.errors import Misconfigured, NotFound, PathRefused, UnknownOutcome, UpstreamFailed
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.exchange import Limits
from nomos_proxy.files import calls
from nomos_proxy.files.asked import read_asked
from nomos_proxy.files.beneath import opened_top
from nomos_proxy.files.calls import LocalFiles
from nomos_proxy.files.local import perform
from nomos_proxy.files.volumes import Place, parse_volumes
from nomos_proxy.places import Places
from nomos_proxy.pool import PoolFull

#: Calls of one kind while names change places; and at most so many, until one was refused and one was not.
TRIES, TRIES_MAX = 1_500, 20_000
RENAME_EXCHANGE = 2


# --- volumes -----------------------------------------------------------------------------------------------------
def test_a_volume_has_a_folder_for_each_tenant_or_is_one_tenant_s(tmp_path: Path) -> None:
    for name in ("agents", "agents/acme", "reports", "connectors"):
        (tmp_path / name).mkdir()
    text = f"work={tmp_path}/agents, acme/reports={tmp_path}/reports"
    volumes = parse_volumes(text, [str(tmp_path / "connectors")])
    assert volumes.find("acme", "work") == Place(base=f"{tmp_path}/agents", folder="acme")
    assert volumes.find("acme", "reports") == Place(base=f"{tmp_path}/reports", folder="")
    for tenant, volume in (("beta", "reports"), ("acme", "other"), ("", "reports")):
        with pytest.raises(NotFound, match="no such volume"):
            volumes.find(tenant, volume)
    volumes.check("acme", "work")
    with pytest.raises(NotFound, match="no folder"):
        volumes.check("beta", "work")


def test_where_nothing_is_named_there_are_no_files() -> None:
    with pytest.raises(NotFound):
        parse_volumes("", []).find("acme", "work")


@pytest.mark.parametrize(
    "text",
    [
        "work", "work=", "work=relative", "work=/", "work=/.", "work=/usr/..", "Work={a}", "../x={a}", "a/b/c={a}",
        "/work={a}", "work={a}/none", "work={a}/file", "work={a},work={b}", "one={a},two={a}", "one={a},two={a}/inner",
        "one={a}/inner,acme/two={a}", "one={a},two={link}", "one={connectors}", "one={connectors}/..", "one={a}/lower",
        "one={creds}/..",
    ],
)  # fmt: skip
def test_a_volume_that_could_be_another_s_stops_the_process(tmp_path: Path, text: str) -> None:
    for name in ("a", "a/inner", "b", "connectors", "a/lower"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link").symlink_to("a/inner")
    # as a filesystem that ignores case would have it
    (tmp_path / "a" / "LOWER").symlink_to("lower")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "proxy.creds").touch()
    places = {name: str(tmp_path / name) for name in ("a", "b", "connectors", "link")}
    places["creds"] = str(tmp_path / "keys" / "proxy.creds")
    assert parse_volumes("one={a}/inner,two={b}".format(**places), [places["connectors"], "", places["creds"]])
    with pytest.raises(Misconfigured, match="files_volumes"):
        parse_volumes(text.format(**places), [places["connectors"], "", places["creds"]])


def test_there_is_a_limit_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomos_proxy.files.volumes.VOLUMES_MAX", 1)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(Misconfigured, match="volumes_max is 1"):
        parse_volumes(f"a={tmp_path}/a,b={tmp_path}/b", [str(tmp_path / "c")])


# --- links that come while a call runs ------------------------------------------------------------------------------
@contextmanager
def flipping(one: Path, other: Path) -> Iterator[None]:
    """Two names change places without a pause, each exchange at once and whole."""
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    done = threading.Event()
    at_fdcwd = -100

    def flip() -> None:
        while not done.is_set():
            assert exchange(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), RENAME_EXCHANGE) == 0

    thread = threading.Thread(target=flip)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with a directory and a link of the same content's names, and a place outside that the link leads to."""
    for name in ("volume/real/deep", "outside/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "volume" / "real" / "f").write_text("inside")
    (tmp_path / "volume" / "real" / "deep" / "f").write_text("inside")
    (tmp_path / "outside" / "f").write_text("OUTSIDE")
    (tmp_path / "outside" / "deep" / "f").write_text("OUTSIDE")
    return tmp_path / "volume"


def ask(fd: int, method: str, path: str, body: bytes | None = None) -> UpstreamResponse | None:
    try:
        return perform(fd, read_asked("file", OutgoingRequest(method=method, path=path, body=body)), 10_000)  # type: ignore[arg-type]
    except PathRefused:
        return None


def ask_often(fd: int, method: str, path: str, body: bytes | None = None, tries: int = TRIES) -> list[bytes]:
    """The bodies of what was answered, none of it from outside; some calls are refused."""
    found: list[bytes] = []
    refused = 0
    for number in range(TRIES_MAX):
        answer = ask(fd, method, path, body)
        refused += answer is None
        if answer is not None:
            assert b"OUTSIDE" not in answer.body
            found.append(answer.body)
        if number >= tries and refused and found:
            return found
    raise AssertionError(f"of {TRIES_MAX} calls {refused} were refused")


def outside(volume: Path) -> dict[str, str | None]:
    root = volume.parent / "outside"
    return {str(one.relative_to(root)): one.read_text() if one.is_file() else None for one in root.rglob("*")}


@pytest.mark.parametrize("path", ["/read/real/f", "/read/real/deep/f", "/list/real", "/stat/real/f"])
def test_not_one_byte_from_outside_is_read_while_a_directory_and_a_link_change_places(volume: Path, path: str) -> None:
    (volume / "link").symlink_to("../outside")
    with opened_top(str(volume), "") as fd, flipping(volume / "real", volume / "link"):
        got = ask_often(fd, "GET", path)
    if path.startswith("/stat"):
        assert all(b'"size":6' in body for body in got)


def test_not_one_byte_from_outside_is_read_while_a_file_and_a_link_change_places(volume: Path) -> None:
    (volume / "link").symlink_to("../outside/f")
    (volume / "f").write_text("inside")
    with opened_top(str(volume), "") as fd, flipping(volume / "f", volume / "link"):
        got = ask_often(fd, "GET", "/read/f")
    assert set(got) == {b"inside"}


def test_a_tenant_s_folder_that_goes_away_meanwhile_is_a_failure_and_no_answer(volume: Path) -> None:
    (volume / "file").write_text("a file")
    opened = 0
    with flipping(volume / "real", volume / "file"):
        for _ in range(TRIES):
            with suppress(UpstreamFailed, PathRefused), opened_top(str(volume), "real"):
                opened += 1
    assert opened


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/write/real/f", b'{"text":"new"}'),
        ("PUT", "/write/real/fresh", b'{"text":"new"}'),
        ("POST", "/append/real/f", b'{"text":"+"}'),
        ("POST", "/create/real/made", b'{"text":"new"}'),
        ("POST", "/mkdir/real/made", None),
        ("DELETE", "/delete/real/f", None),
        ("DELETE", "/rmdir/real/deep", None),
        ("POST", "/move/real/f", b'{"to":"real/g"}'),
        ("POST", "/move/g", b'{"to":"real/g"}'),
    ],
)
def test_nothing_outside_is_changed_while_a_directory_and_a_link_change_places(
    volume: Path, method: str, path: str, body: bytes | None
) -> None:
    (volume / "link").symlink_to("../outside")
    (volume / "g").write_text("g")
    before = outside(volume)
    with opened_top(str(volume), "") as fd, flipping(volume / "real", volume / "link"):
        ask_often(fd, method, path, body, tries=TRIES // 5)
    assert outside(volume) == before


# --- calls at once ---------------------------------------------------------------------------------------------------
@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every call about the tenant ``slow`` waits, as one of a hanging mount does."""
    go, really = threading.Event(), calls.perform

    def waiting(top: int, asked: calls.Asked, limit: int) -> UpstreamResponse:
        if asked.path[0] == "hangs":
            go.wait(20)
        return really(top, asked, limit)

    monkeypatch.setattr(calls, "perform", waiting)
    yield go
    go.set()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LocalFiles]:
    for name in ("agents/slow", "agents/quick", "connectors"):
        (tmp_path / name).mkdir(parents=True)
    for tenant in ("slow", "quick"):
        for name in ("f", "hangs"):
            (tmp_path / "agents" / tenant / name).write_text(tenant)
    made = LocalFiles(parse_volumes(f"work={tmp_path}/agents", [str(tmp_path / "connectors")]))
    yield made
    made.close()


READ = OutgoingRequest(method="GET", path="/read/f", host="work")
HANGS = OutgoingRequest(method="GET", path="/read/hangs", host="work")


async def test_each_tenant_reads_its_own_folder(files: LocalFiles) -> None:
    for tenant in ("slow", "quick"):
        assert (await files.call(tenant, "work", READ, Limits())).body == tenant.encode()
    with pytest.raises(NotFound):
        await files.call("slow", "other", READ, Limits())


async def test_a_tenant_whose_files_hang_holds_up_no_other(files: LocalFiles, held: threading.Event) -> None:
    short = Limits(total_seconds=0.3)
    many = [asyncio.create_task(files.call("slow", "work", HANGS, short)) for _ in range(20)]
    ends = await asyncio.gather(*many, return_exceptions=True)
    assert sum(isinstance(one, UnknownOutcome) for one in ends) == calls.THREADS_OF_TENANT_MAX
    assert sum(isinstance(one, PoolFull) for one in ends) == 20 - calls.THREADS_OF_TENANT_MAX
    # what hangs keeps its places, also after its callers have gone
    with pytest.raises(PoolFull):
        await files.call("slow", "work", READ, short)
    assert (await files.call("quick", "work", READ, Limits())).body == b"quick"
    held.set()
    assert (await files.call("slow", "work", READ, Limits())).body == b"slow"


async def test_a_caller_that_gives_up_leaves_no_place_taken(files: LocalFiles, held: threading.Event) -> None:
    waiting = [asyncio.create_task(files.call("slow", "work", HANGS, Limits())) for _ in range(12)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    held.set()
    many = [files.call("slow", "work", READ, Limits()) for _ in range(40)]
    assert {one.body for one in await asyncio.gather(*many)} == {b"slow"}
    assert files._places.is_empty


async def test_all_tenants_together_have_a_bound_too(files: LocalFiles, held: threading.Event) -> None:
    files._places = Places("calls about files", places=2, per_tenant=2)
    short = Limits(total_seconds=0.3)
    hanging = [asyncio.create_task(files.call("slow", "work", HANGS, short)) for _ in range(2)]
    await asyncio.gather(*hanging, return_exceptions=True)
    with pytest.raises(PoolFull, match="too many calls about files"):
        await files.call("quick", "work", READ, short)
    held.set()
    assert (await files.call("quick", "work", READ, Limits())).body == b"quick"

"""Operations on a real directory: what is done, what the filesystem's no becomes, and what is refused."""

from __future__ import annotations

import base64
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest, build_request, load_catalogue
from nomos.errors import LimitExceeded, Malformed, NomosError, NotCovered, PathRefused, UpstreamFailed
from nomos_proxy.answer import AnswerRefused, UpstreamResponse
from nomos_proxy.files import answers, local
from nomos_proxy.files.asked import read_asked
from nomos_proxy.files.beneath import opened_top
from nomos_proxy.files.local import perform

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
LIMIT = 100_000
Do = Callable[..., UpstreamResponse]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A volume, with something beside it that nobody may see."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("outside")
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def do(top: Path) -> Iterator[Do]:
    with opened_top(str(top), "") as fd:

        def call(action: str, path: str = "", /, limit: int = LIMIT, **args: object) -> UpstreamResponse:
            found = CATALOGUE.action(f"files:{action}")
            resource = CATALOGUE.parse_resource(f"files:{found.resource_type.kind}/work{'/' if path else ''}{path}")
            return perform(fd, read_asked("file", build_request(found, resource, args)), limit)

        yield call


def told(answer: UpstreamResponse) -> dict[str, object]:
    return msgspec.json.decode(answer.body, type=dict[str, object])


def test_a_file_is_created_read_written_added_to_moved_and_deleted(do: Do, top: Path) -> None:
    assert do("directories.create", "a").status == 201
    assert do("files.create", "a/x.txt", text="fünf\n").status == 201
    read = do("files.read", "a/x.txt")
    assert (read.status, read.body, dict(read.headers)["content-type"]) == (
        200, "fünf\n".encode(), "text/plain; charset=utf-8",
    )  # fmt: skip
    os.chmod(top / "a" / "x.txt", 0o640)
    assert told(do("files.write", "a/x.txt", base64=base64.b64encode(b"six").decode())) == {
        "bytes": 3,
        "replaced": True,
    }
    assert stat.S_IMODE((top / "a" / "x.txt").stat().st_mode) == 0o640
    assert told(do("files.append", "a/x.txt", text="+7")) == {"bytes": 2, "size": 5}
    assert told(do("files.stat", "a/x.txt"))["size"] == 5
    assert do("files.write", "a/new.json", text="{}").status == 201
    assert dict(do("files.read", "a/new.json").headers)["content-type"] == "application/json"
    listed = told(do("directories.list", "a"))
    assert [(one["name"], one["type"], one["size"]) for one in listed["entries"]] == [  # type: ignore[attr-defined]
        ("new.json", "file", 2), ("x.txt", "file", 5),
    ]  # fmt: skip
    assert told(do("volumes.list"))["entries"][0]["name"] == "a"  # type: ignore[index]
    assert do("files.move", "a/x.txt", to="y.txt").status == 200
    assert (top / "y.txt").read_bytes() == b"six+7"
    assert do("files.delete", "y.txt").status == 200
    assert do("files.delete", "a/new.json").status == 200
    assert do("directories.delete", "a").status == 200
    assert list(top.iterdir()) == []


@pytest.mark.parametrize(
    ("action", "path", "args", "status", "word"),
    [
        ("files.read", "none", {}, 404, "not_found"),
        ("files.read", "d/none/x", {}, 404, "not_found"),
        ("files.read", "d", {}, 409, "is_a_directory"),
        ("files.read", "f/x", {}, 409, "not_a_directory"),
        ("files.stat", "none", {}, 404, "not_found"),
        ("directories.list", "f", {}, 409, "not_a_directory"),
        ("directories.list", "none", {}, 404, "not_found"),
        ("files.create", "f", {"text": "x"}, 409, "exists"),
        ("files.create", "d", {"text": "x"}, 409, "exists"),
        ("files.create", "none/x", {"text": "x"}, 404, "not_found"),
        ("files.create", "n" * 254 + "ü", {"text": "x"}, 400, "name_too_long"),
        ("files.write", "d", {"text": "x"}, 409, "is_a_directory"),
        ("files.append", "none", {"text": "x"}, 404, "not_found"),
        ("directories.create", "d", {}, 409, "exists"),
        ("directories.create", "f", {}, 409, "exists"),
        ("directories.delete", "d", {}, 409, "not_empty"),
        ("directories.delete", "f", {}, 409, "not_a_directory"),
        ("files.delete", "d", {}, 409, "is_a_directory"),
        ("files.delete", "none", {}, 404, "not_found"),
        ("files.move", "f", {"to": "d/g"}, 409, "exists"),
        ("files.move", "f", {"to": "none/g"}, 404, "not_found"),
        ("files.move", "d", {"to": "e"}, 409, "is_a_directory"),
        ("files.move", "none", {"to": "e"}, 404, "not_found"),
    ],
)
def test_a_no_of_the_filesystem_is_an_answer_and_changes_nothing(
    do: Do, top: Path, action: str, path: str, args: dict[str, object], status: int, word: str
) -> None:
    (top / "d").mkdir()
    (top / "d" / "g").write_text("g")
    (top / "f").write_text("f")
    answer = do(action, path, **args)
    assert (answer.status, told(answer)["error"]) == (status, word)
    left = {str(one.relative_to(top)): one.read_text() if one.is_file() else None for one in top.rglob("*")}
    assert left == {"d": None, "d/g": "g", "f": "f"}


ALL = [
    ("files.read", {}), ("files.stat", {}), ("files.create", {"text": "x"}), ("files.write", {"text": "x"}),
    ("files.append", {"text": "x"}), ("files.delete", {}), ("files.move", {"to": "moved"}),
    ("directories.list", {}), ("directories.create", {}), ("directories.delete", {}),
]  # fmt: skip


@pytest.mark.parametrize(("action", "args"), ALL, ids=[name for name, _ in ALL])
def test_no_link_is_followed_wherever_it_stands(do: Do, top: Path, action: str, args: dict[str, object]) -> None:
    """As the last name, as a directory on the way, to a file, to a directory, inside the volume and outside."""
    (top / "in").mkdir()
    (top / "in" / "secret.txt").write_text("inside")
    for name, target in {
        "out": "../outside", "out-file": "../outside/secret.txt", "in-link": "in", "in-file": "in/secret.txt",
        "absolute": str(top.parent / "outside"), "dangling": "nothing", "loop": "loop",
    }.items():  # fmt: skip
        (top / name).symlink_to(target)
    for path in ("out/secret.txt", "out", "out-file", "in-link/secret.txt", "in-link", "in-file", "absolute/secret.txt",
                 "dangling", "dangling/x", "loop", "loop/x", "out/new", "in-link/new"):  # fmt: skip
        with pytest.raises(PathRefused):
            do(action, path, **args)
    assert (top.parent / "outside" / "secret.txt").read_text() == "outside"
    assert (top / "in" / "secret.txt").read_text() == "inside"
    assert sorted(one.name for one in (top.parent / "outside").iterdir()) == ["secret.txt"]


def test_nothing_is_moved_over_a_link_or_to_one(do: Do, top: Path) -> None:
    (top / "f").write_text("f")
    (top / "out").symlink_to("../outside")
    for to in ("out/f", "out"):
        with pytest.raises(PathRefused):
            do("files.move", "f", to=to)
    assert sorted(one.name for one in (top.parent / "outside").iterdir()) == ["secret.txt"]


def test_a_link_is_shown_as_one_and_not_what_it_leads_to(do: Do, top: Path) -> None:
    (top / "out").symlink_to("../outside/secret.txt")
    (entry,) = told(do("volumes.list"))["entries"]  # type: ignore[misc]
    assert (entry["name"], entry["type"], entry["size"]) == ("out", "link", 0)  # type: ignore[index]


@pytest.mark.parametrize("action", [name for name, _ in ALL if name.startswith("files.") and name != "files.stat"])
def test_what_is_neither_file_nor_directory_is_refused_and_not_opened(do: Do, top: Path, action: str) -> None:
    os.mkfifo(top / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(top / "sock"))
    try:
        for name in ("pipe", "sock"):
            args = dict(ALL)[action]
            if action == "files.create":
                assert do(action, name, **args).status == 409
                continue
            with pytest.raises(PathRefused, match="neither a file nor a directory"):
                do(action, name, **args)
            assert told(do("files.stat", name))["type"] == "other"
    finally:
        listening.close()
    assert (top / "pipe").is_fifo()


def test_a_device_is_refused(do: Do, top: Path) -> None:
    try:
        os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs a right that this user does not have")
    for action in ("files.read", "files.write", "files.append", "files.delete"):
        with pytest.raises(PathRefused):
            do(action, "null", **dict(ALL)[action])


def test_a_file_with_a_second_name_is_neither_read_nor_changed_in_place(do: Do, top: Path) -> None:
    os.link(top.parent / "outside" / "secret.txt", top / "second")
    for action in ("files.read", "files.append"):
        with pytest.raises(PathRefused, match="second name"):
            do(action, "second", **dict(ALL)[action])
    # a new file takes the name; the other name keeps what it had
    assert do("files.write", "second", text="mine").status == 200
    assert (top.parent / "outside" / "secret.txt").read_text() == "outside"
    assert do("files.read", "second").body == b"mine"


def test_a_file_may_be_as_large_as_an_answer_and_no_larger(do: Do, top: Path) -> None:
    (top / "fits").write_bytes(b"x" * 1000)
    (top / "over").write_bytes(b"x" * 1001)
    assert len(do("files.read", "fits", limit=1000).body) == 1000
    with pytest.raises(AnswerRefused, match="body_bytes_max, which is 1000"):
        do("files.read", "over", limit=1000)


def test_a_file_that_says_it_is_empty_and_is_not_is_bounded_all_the_same() -> None:
    with opened_top("/proc/self", "") as fd:
        asked = read_asked("file", OutgoingRequest(method="GET", path="/read/environ"))
        with pytest.raises(AnswerRefused, match="body_bytes_max"):
            perform(fd, asked, 3)


def test_a_directory_with_too_many_entries_is_not_listed(do: Do, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(6):
        (top / f"f{n}").touch()
    monkeypatch.setattr(answers, "ENTRIES_MAX", 6)
    assert len(told(do("volumes.list"))["entries"]) == 6  # type: ignore[arg-type]
    (top / "f6").touch()
    with pytest.raises(AnswerRefused, match="entries_max, which is 6"):
        do("volumes.list")
    with pytest.raises(AnswerRefused, match="body_bytes_max"):
        monkeypatch.setattr(answers, "ENTRIES_MAX", 100)
        do("volumes.list", limit=100)


def test_names_that_nobody_can_ask_for_are_counted_and_not_shown(do: Do, top: Path) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"c\\d", b"e?f", b".nomos-left", b"%2e%2e", "．．".encode()):
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).touch()
    (top / "plain").touch()
    listed = told(do("volumes.list"))
    assert [one["name"] for one in listed["entries"]] == ["plain"]  # type: ignore[attr-defined]
    assert listed["left_out"] == 6


def test_a_file_is_not_added_to_beyond_its_limit(do: Do, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "FILE_BYTES_MAX", 4)
    (top / "f").write_text("abc")
    assert do("files.append", "f", text="d").status == 200
    answer = do("files.append", "f", text="e")
    assert (answer.status, told(answer)["error"]) == (413, "too_large")
    assert "file_bytes_max" in str(told(answer)["message"])
    assert (top / "f").read_text() == "abcd"


def test_a_write_that_fails_leaves_the_old_content_and_nothing_unfinished(do: Do, top: Path) -> None:
    (top / "f").write_text("old")
    import resource
    import signal

    # a limit of this process on the size of files: a real failure in the middle of a write
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        for action, name in (("files.write", "f"), ("files.create", "new")):
            answer = do(action, name, text="x" * 100)
            assert (answer.status, told(answer)["error"]) == (413, "too_large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)
    assert {one.name: one.read_text() for one in top.iterdir()} == {"f": "old"}


def test_what_is_asked_is_read_from_the_request_alone() -> None:
    asked = read_asked("file", OutgoingRequest(method="POST", path="/move/a/b%20c", body=b'{"to":"d/e"}'))
    assert (asked.operation, asked.path, asked.to) == ("move", ("a", "b c"), ("d", "e"))
    wrong = [
        OutgoingRequest(method="GET", path="/explode/a"),
        OutgoingRequest(method="POST", path="/read/a"),
        OutgoingRequest(method="GET", path="/read"),
        OutgoingRequest(method="GET", path="/top/a"),
        OutgoingRequest(method="POST", path="/run", body=b'{"argv":["id"]}'),
        OutgoingRequest(method="GET", path="/read/a", query=(("x", "y"),)),
    ]
    for request in wrong:
        with pytest.raises(NotCovered):
            read_asked("file", request)
    for path in ("a//b", "a/", "a/../b", "%2e%2e/b", "a/%2E%2E", "a%2Fb", "a%00b", "a\\b", "%C3%BC%", "a/.", "a%5Cb"):
        with pytest.raises(NomosError):
            read_asked("file", OutgoingRequest(method="GET", path=f"/read/{path}"))
    for to in ("../x", "a/../b", "/etc/passwd", "a//b", "", ".", "a/%2e%2e/b", "a\0b"):
        with pytest.raises(NomosError):
            read_asked("file", OutgoingRequest(method="POST", path="/move/a", body=msgspec.json.encode({"to": to})))
    with pytest.raises(LimitExceeded):
        read_asked("file", OutgoingRequest(method="GET", path="/read/" + "/".join("a" * 33)))
    for name in (".nomos-", ".nomos-x"):
        with pytest.raises(PathRefused):
            read_asked("file", OutgoingRequest(method="GET", path=f"/read/a/{name}"))
        with pytest.raises(PathRefused):
            read_asked("file", OutgoingRequest(method="POST", path="/move/a", body=msgspec.json.encode({"to": name})))


@pytest.mark.parametrize("body", [b"{}", b'{"text":"a","base64":"YQ=="}', b'{"base64":"YQ"}', b'{"base64":"Y Q="}'])
def test_content_is_one_of_text_and_base64(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_asked("file", OutgoingRequest(method="PUT", path="/write/a", body=body))


@given(path=st.text(max_size=60))
def test_any_path_is_read_as_names_or_refused(path: str) -> None:
    try:
        asked = read_asked("file", OutgoingRequest(method="GET", path=f"/read/{path}"))
    except NomosError:
        return
    assert asked.path
    assert not any("/" in name or "\0" in name or name in ("", ".", "..") for name in asked.path)


def test_a_volume_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UpstreamFailed, match="the volume is not there"), opened_top(str(tmp_path / "none"), ""):
        pass
    with pytest.raises(UpstreamFailed, match="no folder"), opened_top(str(tmp_path), "acme"):
        pass
    (tmp_path / "real").mkdir()
    (tmp_path / "acme").symlink_to("real")
    with pytest.raises(PathRefused, match="a link"), opened_top(str(tmp_path), "acme"):
        pass
    (tmp_path / "beta").write_text("a file")
    with pytest.raises(UpstreamFailed, match="no folder"), opened_top(str(tmp_path), "beta"):
        pass

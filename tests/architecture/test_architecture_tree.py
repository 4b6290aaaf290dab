"""The tree says nothing about the machine or the network on which it was written, and needs neither."""

import re
import tomllib
from pathlib import Path

# Put together from parts, so that this file does not find itself.
REGISTRIES = (
    "py" + "pi",
    "python" + "hosted",
    "npm" + "js",
    "yarn" + "pkg",
    "deb" + "ian",
    "crates" + r"\.io",
    "golang" + r"\.org",
)
REGISTRY = re.compile(
    r"(?i)\b[a-z]+://[^\s\"'>)]*(?:"
    + "|".join(REGISTRIES)
    + r")|(?:extra-)?index"
    + r"-url|find"
    + r"-links|\"resolved\":"
)
#: Where people and machines keep their own things.
FOLDERS = ("root", "home", "work", "farm", "srv", "tmp", "opt", "mnt", "Users")
ABSOLUTE = re.compile(r"(?:^|[\s\"'=(`,:\[])/(?:" + "|".join(FOLDERS) + r")(?=/|$|[\s\"'`,)\]])", re.MULTILINE)
SHEBANG = "#!/usr/bin/env bash"
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;]+)")


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def found_in(tracked: list[Path], root: Path, pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked:
        content = text_of(path)
        if content is not None and (match := pattern.search(content)):
            line = content.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(root)}:{line}: {match.group().strip()}")
    return found


def test_no_file_names_a_package_registry(tracked: list[Path], root: Path) -> None:
    assert found_in(tracked, root, REGISTRY) == []


def test_no_file_names_a_folder_of_somebodys_machine(tracked: list[Path], root: Path) -> None:
    assert found_in(tracked, root, ABSOLUTE) == []


def test_the_searches_find_what_they_are_for() -> None:
    assert REGISTRY.search("see https://files." + "python" + "hosted.org/x")
    assert REGISTRY.search("--index" + "-url x")
    assert not REGISTRY.search("https://c2sp.org/tlog-policy")
    for text in ("cd /" + "work/main", 'Path("/' + 'tmp/x")', "/" + "home/me\n"):
        assert ABSOLUTE.search(text), text
    for text in ("shared/work/x", "https://host/" + "home", "a/" + "tmp/b", "/repos/acme/site"):
        assert not ABSOLUTE.search(text), text


def test_no_lock_of_addresses_is_in_the_tree(tracked: list[Path]) -> None:
    assert {path.name for path in tracked}.isdisjoint({"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json"})


def test_every_locked_requirement_has_a_version_and_hashes(root: Path) -> None:
    for path in sorted(root.glob("requirements/*.txt")):
        entries = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        assert entries, path.name
        for entry in entries:
            assert REQUIREMENT.match(entry), f"{path.name}: {entry[:60]}"
            assert "--hash=sha256:" in entry, f"{path.name}: {entry[:60]}"


def test_locks_agree_on_every_version(root: Path) -> None:
    def versions(name: str) -> dict[str, str]:
        text = (root / "requirements" / name).read_text(encoding="utf-8")
        found = [match for line in text.splitlines() if (match := REQUIREMENT.match(line))]
        return {match["name"]: match["version"] for match in found}

    run, test = versions("run.txt"), versions("test.txt")
    assert run.items() <= test.items()


def test_what_members_need_is_in_the_lock(root: Path) -> None:
    locked = {
        match["name"].lower()
        for line in (root / "requirements" / "run.txt").read_text(encoding="utf-8").splitlines()
        if (match := REQUIREMENT.match(line))
    }
    for path in root.glob("*/*/pyproject.toml"):
        for wanted in tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]:
            name = re.split(r"[<>=!\[; ]", wanted, maxsplit=1)[0].lower()
            assert name.startswith("nomos-") or name in locked, f"{path.parent.name} needs {name}"


def test_the_licence_is_apache_2_everywhere(root: Path) -> None:
    licence = (root / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "Version 2.0" in (root / "NOTICE").read_text(encoding="utf-8")
    for path in root.glob("*/*/pyproject.toml"):
        assert tomllib.loads(path.read_text(encoding="utf-8"))["project"]["license"] == "Apache-2.0", path.parent.name


def test_continuous_integration_runs_only_what_the_readme_tells_a_user(root: Path) -> None:
    lines = (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[0] == SHEBANG
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[:2] == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."']
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert {"make check", "make test"} <= set(commands[2:])
    assert commands[-1] == "make test", "the runner's closing line must be the last"
    for command in commands[2:]:
        assert command in readme, command

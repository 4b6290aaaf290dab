"""The documents speak of things that exist: commands, targets, tests, files, headings."""

import contextlib
import io
import re
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from nomos.cli import help as help_topics
from nomos.cli.main import build_parser
from nomos.cli.output import Exit
from nomos.cli.plugins import plugin_of

ROOT = Path(__file__).resolve().parents[2]
HEADINGS = ("May", "Must never", "Subjects", "State", "Keys", "Trusted because")
DECISIONS = sorted(path.name for path in ROOT.glob("docs/adr/*.md"))
TEST_NAME = re.compile(r"\btest_[a-z0-9_]+\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
#: A line of a code block that begins with one of our commands; what follows two spaces is a remark.
COMMAND = re.compile(r"^(?:    |\$ |    \$ )(?P<command>(?:nomos|make) (?:\S| (?! ))+)", re.MULTILINE)
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "services/*/README.md",
        "infra/**/*.md",
        "shared/kernel/nomos/cli/topics/*.md",
    )
    for path in ROOT.glob(pattern)
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands_in(text: str) -> list[str]:
    blocks = re.sub(r"^```[a-z]*\n(.*?)^```", lambda m: re.sub(r"(?m)^", "    ", m[1]), text, flags=re.M | re.S)
    return [match["command"].strip() for match in COMMAND.finditer(blocks)]


def targets() -> set[str]:
    """Targets of the Makefile that are meant to be called."""
    declared = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert declared
    return set(declared[1].split())


def is_understood(command: str) -> bool:
    """Whether the command line takes it; nothing runs."""
    words = shlex.split(command, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    if words[0] == "make":
        return all(word in targets() or "=" in word for word in words[1:])
    plugin = plugin_of(words[1:])
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            build_parser(plugin).parse_args(words[1:])
        except SystemExit:
            return False
    return True


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_in_the_documents_is_one_that_nomos_takes(name: str) -> None:
    assert [command for command in commands_in(read(name)) if not is_understood(command)] == []


def test_commands_are_found_and_judged() -> None:
    text = "    make demo      a remark\n\n    nomos key list --tenant acme    another\n    nomos key lost\n"
    found = commands_in(text)
    assert found == ["make demo", "nomos key list --tenant acme", "nomos key lost"]
    assert [is_understood(command) for command in found] == [True, True, False]
    assert not is_understood("make love")


def test_the_readme_shows_its_two_commands_and_a_denied_call() -> None:
    commands = commands_in(read("README.md"))
    assert commands[:2] == ["make demo", "make test"]
    assert "denied" in read("README.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_between_documents_leads_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    local = [link for link in LINK.findall(read(name)) if "://" not in link]
    assert [link for link in local if not (folder / link).exists()] == []


def test_every_service_says_what_it_may_and_why_it_is_trusted(services: list[str]) -> None:
    missing = []
    for service in services:
        path = ROOT / "services" / service / "README.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        missing += [f"{service}: {h}" for h in HEADINGS if not re.search(rf"^(?:## |\*\*){h}\b", text, re.MULTILINE)]
    assert missing == []


def threats() -> list[str]:
    """The lines of THREATS.md that state a threat: list items above "Not answered"."""
    answered = read("THREATS.md").partition("\n## Not answered")[0]
    return [item.replace("\n", " ") for item in re.findall(r"^\* (.*(?:\n  .*)*)", answered, re.MULTILINE)]


def test_every_threat_names_its_test() -> None:
    lines = threats()
    assert lines
    assert [line for line in lines if not TEST_NAME.search(line)] == []


def test_every_test_that_threats_name_exists(test_names: set[str]) -> None:
    assert set(TEST_NAME.findall(read("THREATS.md"))) - test_names == set()


@pytest.mark.parametrize("name", DECISIONS)
def test_every_decision_record_says_what_was_decided_and_what_it_costs(name: str) -> None:
    text = read(f"docs/adr/{name}")
    assert text.startswith(f"# {name[:4]}: ")
    assert re.search(r"^Status: (accepted|superseded)", text, re.MULTILINE)
    assert re.search(r"^## (Context|Question)$", text, re.MULTILINE)
    assert "\n## Decision\n" in text
    assert "\n## Consequences\n" in text


def test_decision_records_are_numbered_once() -> None:
    numbers = [name[:4] for name in DECISIONS]
    assert len(numbers) == len(set(numbers))


def test_every_help_topic_has_its_text() -> None:
    folder = ROOT / "shared" / "kernel" / "nomos" / "cli" / "topics"
    assert {path.stem for path in folder.glob("*.md")} == set(help_topics.TOPICS)
    for topic in help_topics.TOPICS:
        assert help_topics.text(topic).startswith("# ")


def test_help_lists_its_topics_and_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_topics.help_topic(Namespace(topic="", json=False)) == Exit.YES
    assert len(capsys.readouterr().out.splitlines()) == len(help_topics.TOPICS)
    assert help_topics.help_topic(Namespace(topic="verify", json=False)) == Exit.YES
    assert capsys.readouterr().out == help_topics.text("verify")


def test_make_without_a_target_explains_the_targets() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {f"make {target}" for target in ("demo", "test", "up", "check", "bench", "lock")} <= {
        command.strip() for command in re.findall(r"make [a-z]+", said)
    }

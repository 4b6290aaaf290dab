"""``nomos help TOPIC``: explanations that are longer than ``--help``. The texts are package data, one file for each."""

from __future__ import annotations

from argparse import Namespace
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from nomos.cli.output import Exit, result
from nomos.errors import Misconfigured

#: The topics, in the order in which a newcomer needs them.
TOPICS: Final = ("start", "policies", "step-up", "connections", "tokens", "verify", "witness", "people", "exit-codes")
_SUFFIX: Final = ".md"
_TITLE: Final = "# "


def help_topic(args: Namespace) -> int:
    """Prints one topic, or the list of topics.

    Raises:
        Misconfigured: there is no such topic.
    """
    if not args.topic:
        titles = {name: title(name) for name in TOPICS}
        lines = [f"nomos help {name:<12} {about}" for name, about in titles.items()]
        result(args, "help", {"topics": titles}, lines)
        return Exit.YES
    if args.topic not in TOPICS:
        raise Misconfigured(f"there is no topic {args.topic}", hint="topics: " + ", ".join(TOPICS))
    content = text(args.topic)
    result(args, "help", {"topic": args.topic, "text": content}, [content.rstrip("\n")])
    return Exit.YES


def text(topic: str) -> str:
    """The text of one of :data:`TOPICS`."""
    return _folder().joinpath(topic + _SUFFIX).read_text(encoding="utf-8")


def title(topic: str) -> str:
    """The first line of the text, without its mark."""
    return text(topic).partition("\n")[0].removeprefix(_TITLE)


def _folder() -> Traversable:
    return files("nomos.cli").joinpath("topics")

"""A policy text as blocks, one for each policy, and edits of it that change what they name and nothing else.

The text is the source of truth: a model is read from it, and an edit writes into it. Where an edit changes a part of a
policy (its annotations, its head, one condition), that part is written anew and every other byte of the text stays.
Comments inside a part that is written anew stand above it then; no edit of a policy loses one.

Rules of an edit: it names the text that it began from by hash; the text that comes out is parsed again, and must be
what was asked for: the edited policy means what the model says, node for node, and each other policy stands as it was.
A difference is a refusal, whatever its cause.

Pure. Leaves schema, ids and annotations' rules to ``policyset``, which compiles whatever is put in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from nomos.errors import Conflict, LimitExceeded, MalformedPolicy, NotFound
from nomos_policy.guard import Fragment, comments, split_policies, tokens
from nomos_policy.policyset import text_sha256
from nomos_policy.visual.meaning import write_est
from nomos_policy.visual.model import Condition, Model, opaque_parts
from nomos_policy.visual.reading import Est, annotation_places, est_of_text, read_est
from nomos_policy.visual.writing import write_annotations, write_condition, write_head, write_policy

_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_EFFECTS: Final = frozenset({"permit", "forbid"})
_CLAUSES: Final = frozenset({"when", "unless"})


class Block(Struct, frozen=True, kw_only=True):
    """One policy of a text.

    Attributes:
        id: its ``@id``; empty where it has none or cannot be read.
        line: of its first token, from 1.
        offset: of its first token in the text, in characters.
        text: up to and with its semicolon.
        model: what a form shows; None for a policy that no form can show.
        reason: why there is no model.
        opaque: the texts of the parts of its conditions that only stand as text.
    """

    id: str
    line: int
    offset: int
    text: str
    model: Model | None
    reason: str = ""
    opaque: tuple[str, ...] = ()


class Document(Struct, frozen=True, kw_only=True):
    """A policy text and its blocks. ``sha256`` of the text names it in an edit."""

    text: str
    sha256: str
    blocks: tuple[Block, ...]

    def block(self, policy: str) -> Block:
        """The block of one policy.

        Raises:
            NotFound: there is none of that id, or more than one.
        """
        found = [one for one in self.blocks if one.id == policy]
        if len(found) != 1:
            raise NotFound(f"the text has {'no policy' if not found else 'more than one policy'} {policy[:64]!r}")
        return found[0]


def read_document(text: str) -> Document:
    """Cuts a text into blocks.

    Args:
        text: Cedar policies.

    Raises:
        MalformedPolicy, LimitExceeded: the text cannot be cut into policies (``guard.split_policies``).
    """
    # Lines as the lexer counts them: by line feeds alone.
    starts = [0, *(at + 1 for at, one in enumerate(text) if one == "\n")]
    blocks = tuple(_block(one, starts[one.line - 1] + one.column - 1) for one in split_policies(text))
    return Document(text=text, sha256=text_sha256(text), blocks=blocks)


def replace(document: Document, policy: str, model: Model, *, sha256: str) -> str:
    """The text with one policy edited.

    Args:
        document: the text as it is now.
        policy: the id of the policy to edit; the model may bear another.
        model: what it becomes.
        sha256: of the text that the editor saw.

    Returns:
        The new text; the same text where the model says what the policy says already.

    Raises:
        Conflict: the text has changed since.
        NotFound: it has no such policy.
        MalformedPolicy, LimitExceeded: no text says what the model says.
    """
    block = _current(document, policy, sha256)
    if block.model is None:
        raise MalformedPolicy(f"the policy {policy} can only be edited as text: {block.reason}")
    new = _rewritten(block, block.model, model)
    text = document.text[: block.offset] + new + document.text[block.offset + len(block.text) :]
    before = [one.text for one in document.blocks]
    at = document.blocks.index(block)
    _check(text, [*before[:at], model, *before[at + 1 :]])
    return text


def add(document: Document, model: Model, *, sha256: str) -> str:
    """The text with a policy more, at its end.

    Raises:
        Conflict: the text has changed since.
        MalformedPolicy, LimitExceeded: no text says what the model says.
    """
    _check_current(document, sha256)
    kept = document.text
    gap = "" if not kept.strip() else "\n" if kept.endswith("\n") else "\n\n"
    text = f"{kept}{gap}{write_policy(model)}\n"
    _check(text, [*(one.text for one in document.blocks), model])
    return text


def rewrite(document: Document, policy: str, text: str, *, sha256: str) -> str:
    """The text with another text in one policy's place.

    Args:
        document: the text as it is now.
        policy: the id of the policy.
        text: of exactly one policy, with its comments.
        sha256: of the text that the editor saw.

    Raises:
        Conflict: the text has changed since.
        NotFound: it has no such policy.
        MalformedPolicy, LimitExceeded: it is not one policy.
    """
    block = _current(document, policy, sha256)
    fragments = split_policies(text)
    if len(fragments) != 1:
        raise MalformedPolicy(f"expected one policy, got {len(fragments)}")
    # A comment at the end must not take what follows into it.
    new = text.strip() + ("" if text.strip().endswith(fragments[0].text) else "\n")
    whole = document.text[: block.offset] + new + document.text[block.offset + len(block.text) :]
    before = [one.text for one in document.blocks]
    at = document.blocks.index(block)
    _check(whole, [*before[:at], fragments[0].text, *before[at + 1 :]])
    return whole


def remove(document: Document, policy: str, *, sha256: str) -> str:
    """The text without one policy, and without the line end behind it. Comments above it stay.

    Raises:
        Conflict: the text has changed since.
        NotFound: it has no such policy.
    """
    block = _current(document, policy, sha256)
    rest = document.text[block.offset + len(block.text) :]
    text = document.text[: block.offset] + rest.removeprefix("\n")
    _check(text, [one.text for one in document.blocks if one is not block])
    return text


def _block(fragment: Fragment, offset: int) -> Block:
    try:
        est = est_of_text(fragment.text)
        model = read_est(est, [name for name, _ in annotation_places(fragment.text)])
    except (MalformedPolicy, LimitExceeded) as error:
        return Block(id="", line=fragment.line, offset=offset, text=fragment.text, model=None, reason=error.detail)
    opaque = tuple(text for one in model.conditions for text in opaque_parts(one.body))
    return Block(id=model.id, line=fragment.line, offset=offset, text=fragment.text, model=model, opaque=opaque)


def _current(document: Document, policy: str, sha256: str) -> Block:
    _check_current(document, sha256)
    return document.block(policy)


def _check_current(document: Document, sha256: str) -> None:
    if sha256 != document.sha256:
        raise Conflict("the policies have changed since this edit began", hint="begin from the newest text")


# --- one policy -------------------------------------------------------------------------------------------------------


class _Places(Struct, frozen=True):
    """Where the parts of a policy stand in its text: the head, then each condition, from and to."""

    head: tuple[int, int]
    conditions: tuple[tuple[int, int], ...]


def _rewritten(block: Block, old: Model, new: Model) -> str:
    """The policy's text with what differs written anew."""
    text, places = block.text, _places(block.text)
    edits: list[tuple[int, int, str]] = []
    if old.annotations != new.annotations:
        edits.append((0, places.head[0], write_annotations(new) + "\n" if new.annotations else ""))
    if (old.effect, old.principal, old.action, old.resource) != (
        new.effect, new.principal, new.action, new.resource
    ):  # fmt: skip
        edits.append((*places.head, write_head(new)))
    if len(old.conditions) == len(new.conditions):
        pairs = zip(places.conditions, old.conditions, new.conditions, strict=True)
        edits += [(*place, write_condition(after)) for place, before, after in pairs if before != after]
    else:
        end = text.rindex(";")
        edits.append((places.head[1], end, _joined(new.conditions)))
    for start, stop, written in sorted(edits, reverse=True):
        kept = "".join(f"{comment}\n" for comment, at in comments(text[start:stop]))
        # What ends in a comment must not take what follows into it, and a comment begins a line of its own.
        above = f"\n{kept}" if kept and start and text[start - 1] != "\n" else kept
        text = text[:start] + above + (written.lstrip("\n") if above.endswith("\n") else written) + text[stop:]
    return text


def _joined(conditions: Sequence[Condition]) -> str:
    return "".join(f"\n{write_condition(one)}" for one in conditions)


def _places(text: str) -> _Places:
    """Where the parts stand. The text is one policy: its brackets match, and each word is where the grammar has it."""
    head: tuple[int, int] | None = None
    found: list[tuple[int, int]] = []
    depth = 0
    start: int | None = None
    for token, offset in tokens(text):
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth == 0 and start is not None:
                if head is None:
                    head = (start, offset + 1)
                else:
                    found.append((start, offset + 1))
                start = None
        elif depth == 0 and token in (_EFFECTS if head is None else _CLAUSES):
            # An annotation may be called so too, without a value; the word that follows it takes its place.
            start = offset
    if head is None:
        raise MalformedPolicy("the text is not one policy")
    return _Places(head, tuple(found))


# --- what came out ----------------------------------------------------------------------------------------------------


def _check(text: str, wanted: Sequence[str | Model]) -> None:
    """Refuses a text that is not what was asked for: each policy as it stood, or what its model says.

    Raises:
        MalformedPolicy: it is another.
    """
    found = split_policies(text)
    if len(found) != len(wanted):
        raise MalformedPolicy(f"the text would have {len(found)} policies instead of {len(wanted)}")
    for fragment, one in zip(found, wanted, strict=True):
        if isinstance(one, str):
            is_same = fragment.text == one
        else:
            is_same = _told(est_of_text(fragment.text)) == _told(write_est(one))
        if not is_same:
            raise MalformedPolicy(f"the policy at line {fragment.line} would not mean what the form says")


def _told(est: Est) -> dict[str, object]:
    """A policy's JSON form for comparison: no annotations are the same as none written."""
    return {**est, "annotations": est.get("annotations") or {}}

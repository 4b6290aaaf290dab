"""The conditions of one policy in its own words: each ``when`` and ``unless``, a ``when`` cut at its ``&&``.

A ``when`` holds if each of its parts holds, so a part that does not hold is why the policy does not apply. An
``unless`` is kept whole: it holds if its body does not. A body with ``||`` or ``if`` outside brackets is kept whole
too, because ``&&`` binds tighter than both.

Takes text that the engine has parsed (``policy.parse_policy``), so its brackets match.

Pure. Source: Cedar policy language, "Policy grammar" (Condition, Expr, Or, And).
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from nomos_policy.guard import tokens

_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_NOT_CUT: Final = frozenset({"||", "if"})
_AND: Final = "&&"
_END: Final = "}"
_KINDS: Final[dict[str, Literal["when", "unless"]]] = {"when": "when", "unless": "unless"}


class Clause(Struct, frozen=True, kw_only=True):
    """One condition, or one part of a ``when``.

    Attributes:
        kind: ``when`` or ``unless``.
        text: its body, comments and line ends as single blanks.
        offset: of its first character in the policy's text.
    """

    kind: Literal["when", "unless"]
    text: str
    offset: int

    @property
    def permit(self) -> str:
        """A policy that applies to any request for which this condition holds."""
        return f"permit(principal, action, resource) {self.kind} {{ {self.text} }};"


def clauses_of(text: str) -> tuple[Clause, ...]:
    """The conditions of a policy, in order.

    Args:
        text: of one policy, from :attr:`nomos_policy.policy.Policy.text` or ``effective_text``.
    """
    found: list[Clause] = []
    depth = 0
    kind: Literal["when", "unless"] | None = None
    body: list[tuple[str, int]] = []
    for token, offset in tokens(text):
        if token in _CLOSING:
            depth -= 1
            if depth == 0 and token == _END and kind is not None:
                found += _cut(text, kind, body, offset)
                kind = None
                continue
        if depth == 0 and token in _KINDS:
            # Also an annotation of that name; the clause's own word, which must follow, takes its place.
            kind, body = _KINDS[token], []
        elif kind is not None and depth > 0:
            # The depth inside the clause's own braces is 1.
            body.append((token if depth == 1 else "", offset))
        if token in _OPENING:
            depth += 1
    return tuple(found)


def _cut(text: str, kind: Literal["when", "unless"], body: list[tuple[str, int]], end: int) -> list[Clause]:
    cuts: list[int] = []
    if kind == "when" and not any(token in _NOT_CUT for token, _ in body):
        cuts = [offset for token, offset in body if token == _AND]
    starts = [body[0][1], *(offset + len(_AND) for offset in cuts)] if body else []
    parts = []
    for start, stop in zip(starts, [*cuts, end], strict=True) if body else ():
        inside = [offset for _, offset in body if start <= offset < stop]
        parts.append(Clause(kind=kind, text=_told(text[inside[0] : stop]), offset=inside[0]))
    return parts


def _told(text: str) -> str:
    """The text with each run of blanks and comments as one blank; strings as they are."""
    told: list[str] = []
    end = 0
    for raw, offset in tokens(text, raw=True):
        if told and offset > end:
            told.append(" ")
        told.append(raw)
        end = offset + len(raw)
    return "".join(told)

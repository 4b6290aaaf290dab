"""Classes of personal data that an operator may have removed from answers. What they are: docs/sanitizer.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

from nomos.errors import Malformed

PiiClass = Literal["card", "iban", "email", "phone"]
PII_CLASSES: Final[tuple[PiiClass, ...]] = get_args(PiiClass)


def parse_classes(names: Iterable[str]) -> frozenset[PiiClass]:
    """The classes of these names.

    Raises:
        Malformed: a name that is none.
    """
    wanted = set(names)
    if wanted - set(PII_CLASSES):
        raise Malformed("unknown class of personal data", hint=f"there are {', '.join(PII_CLASSES)}")
    return frozenset(name for name in PII_CLASSES if name in wanted)

"""Renders pages: Jinja, every value escaped, every unknown name an error.

Templates of a service extend ``layout.html`` of this package and lie beside the service's pages.
"""

from __future__ import annotations

import re
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nomos_web.assets import Assets

#: How stepup writes out a character that a screen would hide.
_WRITTEN_OUT: Final = re.compile(r"(⟨U\+[0-9A-F]{4,6}⟩)")


class Templates:
    """The templates of one package over those of this one."""

    def __init__(self, package: str, assets: Assets) -> None:
        """Prepares rendering.

        Args:
            package: has a folder ``templates``.
            assets: where ``layout.html`` finds stylesheet and script.
        """
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package), PackageLoader("nomos_web")]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["asset"] = assets.__getitem__
        self._environment.filters["marked"] = marked

    def render(self, name: str, /, **values: object) -> str:
        """The page ``name`` with ``values``, each escaped where it stands."""
        return self._environment.get_template(name).render(**values)


def marked(text: str) -> Markup:
    """``text``, escaped, with every written-out character set apart, so that nobody reads over it."""
    parts = _WRITTEN_OUT.split(text)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )

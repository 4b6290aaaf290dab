"""Static files: one stylesheet, one script, one image, each under a name that holds the hash of its content.

A name is looked up in a table that is made once; no path of a request ever reaches the file system. A file that
changes has another name, so a browser may keep it for ever.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Final

import msgspec
from starlette.responses import Response

from nomos.errors import NotFound

FOLDER: Final = "static"
PREFIX: Final = "/static/"
_HASH_CHARS: Final = 16
_KEEP: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """One static file. ``name`` holds the hash of ``content``; ``integrity`` is for the element that loads it."""

    name: str
    content: bytes
    media_type: str
    integrity: str

    @property
    def path(self) -> str:
        """Where it is served."""
        return PREFIX + self.name


class Assets:
    """The static files of this package."""

    def __init__(self) -> None:
        self._by_source: dict[str, Asset] = {}
        for entry in sorted(files("nomos_web").joinpath(FOLDER).iterdir(), key=lambda e: e.name):
            stem, dot, ending = entry.name.rpartition(".")
            if dot + ending in _TYPES:
                self._by_source[entry.name] = _asset(stem, dot + ending, entry.read_bytes())
        self._by_name = {asset.name: asset for asset in self._by_source.values()}

    def __getitem__(self, source: str) -> Asset:
        """The file that is called ``source`` in the package."""
        return self._by_source[source]

    def response(self, name: str) -> Response:
        """The answer to a request for ``name``.

        Raises:
            NotFound: there is no such file, or it has changed.
        """
        asset = self._by_name.get(name)
        if asset is None:
            raise NotFound("there is no such file")
        return Response(asset.content, media_type=asset.media_type, headers={"cache-control": _KEEP})


def _asset(stem: str, ending: str, content: bytes) -> Asset:
    named = f"{stem}.{hashlib.sha256(content).hexdigest()[:_HASH_CHARS]}{ending}"
    integrity = "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode("ascii")
    return Asset(name=named, content=content, media_type=_TYPES[ending], integrity=integrity)

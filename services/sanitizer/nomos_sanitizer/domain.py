"""The sanitizer: takes an upstream answer and gives back one without secrets and invisible characters.

Decides when an answer is clean (every byte of it was scanned and nothing fired), how often it is scanned (until a pass
finds nothing; what does not settle is refused), what happens to headers, and what the report says. Leaves the search to
:mod:`nomos_sanitizer.scrub`. No IO, clock or randomness; nothing outlives a call but the compiled rules.

Trusted / not trusted: an attacker who controls the upstream writes what is scanned here. He can at most have his own
answer redacted or refused; he cannot make the injected credential pass in a form that :mod:`credentials` lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from nomos.errors import ResponseRefused
from nomos_sanitizer import bodies, plain
from nomos_sanitizer.bodies import Places
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.edits import Found, marker_for
from nomos_sanitizer.injections import Injections, load_markers
from nomos_sanitizer.lexed import Lexed
from nomos_sanitizer.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX, PASSES_MAX
from nomos_sanitizer.matching import Matcher
from nomos_sanitizer.media import UTF_8, MediaType, parse_media_type
from nomos_sanitizer.report import Report, tally
from nomos_sanitizer.rules import Rule
from nomos_sanitizer.scrub import PLAIN, Options, Scrubber
from nomos_sanitizer.stream import Stream
from nomos_sanitizer.structure import is_harmless, names_secret
from nomos_sanitizer.tree import NAMED_RULE

Headers = tuple[tuple[str, str], ...]

#: Fields that describe the bytes that came, not those that leave (RFC 9110 section 8.6, RFC 9530).
_ABOUT_BYTES: Final = frozenset({"content-length", "content-md5", "digest", "content-digest", "repr-digest"})
#: Fields whose value is a secret by definition, beside those whose name says so.
_SECRET_FIELDS: Final = frozenset({"set-cookie", "set-cookie2", "cookie", "authorization", "proxy-authorization"})
_CONTENT_ENCODING: Final = "content-encoding"
_IDENTITY: Final = frozenset({"", "identity"})


class Sanitized(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that may be shown to the agent, and what was taken out of it."""

    body: bytes
    headers: Headers
    report: Report


class Sanitizer:
    """The compiled rule set. Build one per process; calls may come from many threads at once.

    Args:
        matcher: the compiled rules.
        injections: the compiled markers of what is noted.
    """

    def __init__(self, matcher: Matcher, injections: Injections) -> None:
        self._matcher = matcher
        self._injections = injections

    @classmethod
    def from_rules(cls, rules: Sequence[Rule]) -> Sanitizer:
        """Compiles a rule set (a second or two) and the shipped markers of injection."""
        return cls(Matcher(rules), Injections(load_markers()))

    def sanitize(
        self,
        body: bytes,
        *,
        content_type: str,
        headers: Sequence[tuple[str, str]],
        credentials: Sequence[bytes],
        options: Options = PLAIN,
    ) -> Sanitized:
        """Removes secrets and invisible characters from an answer, and notes what may be addressed to a model.

        Args:
            body: the body, decompressed, at most ``BODY_BYTES_MAX`` bytes.
            content_type: value of the Content-Type field, or empty.
            headers: the header fields that are to reach the agent. ``Content-Type`` may be among them.
            credentials: what the broker injected into the request: the token itself, without ``Bearer`` or ``Basic``.
            options: what the tenant's operator and the installation decide.

        Returns:
            The answer that may leave. A body on which nothing fired is returned byte for byte; any other JSON body is
            written anew. Fields that describe the old bytes are left out if the body changed.

        Raises:
            ResponseRefused: the answer cannot be made safe: not text, over a limit, or it does not settle.
            LimitExceeded: a credential of a length, or a number of credentials, that cannot be searched for.
        """
        needles = Needles(credentials)
        if len(body) > BODY_BYTES_MAX:
            raise ResponseRefused(f"answer is over {BODY_BYTES_MAX} bytes")
        media = parse_media_type(content_type)
        kept, places = self._clean_headers(headers, needles, options)
        known: set[str] = set()
        if media.codec == UTF_8:
            scrubber = Scrubber(self._matcher, needles, Budget(len(body)), options, known)
            came = Lexed(body)
            if plain.is_clean(came, media, self._matcher, scrubber):
                return Sanitized(body=body, headers=kept, report=tally(places, self._noted(came, media)))
        cleaned, body_places = self._settle(body, media, needles, options, known)
        if cleaned != body:
            kept = tuple(field for field in kept if field[0].lower() not in _ABOUT_BYTES)
        report = tally([*body_places, *places], self._noted(Lexed(cleaned), media))
        return Sanitized(body=cleaned, headers=kept, report=report)

    def stream(self, *, content_type: str, credentials: Sequence[bytes] = (), options: Options = PLAIN) -> Stream:
        """A body that is sanitized while it arrives; arguments and refusals as :class:`Stream`."""
        return Stream(
            self._matcher, self._injections, content_type=content_type, credentials=credentials, options=options
        )

    def _noted(self, cleaned: Lexed, media: MediaType) -> Places:
        """What is said about the body that leaves, beside what was removed from it."""
        if media.codec == UTF_8 and plain.is_document(cleaned, media):
            # What a string with escapes says does not show in the bytes.
            if not self._injections.fires(cleaned.data, *cleaned.escaped):
                return []
        elif not self._injections.may_fire(cleaned.data):
            return []
        return bodies.note(bodies.read(cleaned.data, media), media, self._injections)

    def _settle(
        self, body: bytes, media: MediaType, needles: Needles, options: Options, known: set[str]
    ) -> tuple[bytes, Places]:
        text = bodies.read(body, media)
        all_places: Places = []
        for _ in range(PASSES_MAX):
            scrubber = Scrubber(self._matcher, needles, Budget(len(body)), options, known)
            text, places = bodies.clean(text, media, scrubber)
            if not places:
                break
            all_places += places
        else:
            raise ResponseRefused("answer still holds secrets after the last pass")
        cleaned = bodies.write(text, media)
        # The last word, independent of every parser above.
        if needles.remain(cleaned):
            raise ResponseRefused("answer holds the credential in a place that cannot be redacted")
        return cleaned, all_places

    def _clean_headers(
        self, headers: Sequence[tuple[str, str]], needles: Needles, options: Options
    ) -> tuple[Headers, Places]:
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADERS_MAX or size > HEADER_BYTES_MAX:
            raise ResponseRefused("header fields are over the limit")
        kept: list[tuple[str, str]] = []
        places: Places = []
        joined = "\0".join(part for field in headers for part in field).encode("utf-8", "surrogatepass")
        # The separator is a control character, for which the gate of invisible characters fires; a line feed is not.
        quiet = (
            not self._matcher.fired(joined.replace(b"\0", b"\n"))
            and not needles.remain(joined)
            and not self._matcher.pii.fired(joined, options.pii)
        )
        for name, value in headers:
            lowered = name.lower()
            if lowered == _CONTENT_ENCODING and value.strip().lower() not in _IDENTITY:
                raise ResponseRefused("body is still in a content encoding")
            if (lowered in _SECRET_FIELDS or names_secret(name)) and not self._is_shown(value):
                kept.append((name, marker_for(NAMED_RULE)))
                mark = options.fingerprint(value.encode("utf-8", "surrogatepass"))
                places.append((f"header:{lowered}", Found("structural-key", NAMED_RULE, 1, mark)))
            elif quiet:
                kept.append((name, value))
            else:
                field, found = self._clean_field(name, value, needles, options)
                kept += field
                places += found
        return tuple(kept), places

    def _is_shown(self, value: str) -> bool:
        return value == marker_for(NAMED_RULE) or is_harmless(value)

    def _clean_field(
        self, name: str, value: str, needles: Needles, options: Options
    ) -> tuple[list[tuple[str, str]], Places]:
        _, in_name = self._settle_field(name, needles, options)
        if in_name:
            # A marker is no field name (RFC 9110 section 5.1), so the whole field goes.
            return [], [("header", found) for found in in_name]
        cleaned, removed = self._settle_field(value, needles, options)
        return [(name, cleaned)], [(f"header:{name.lower()}", found) for found in removed]

    def _settle_field(self, text: str, needles: Needles, options: Options) -> tuple[str, list[Found]]:
        removed: list[Found] = []
        for _ in range(PASSES_MAX):
            scrubber = Scrubber(self._matcher, needles, Budget(len(text)), options)
            text, found = scrubber.text(text)
            if not found:
                break
            removed += found
        else:
            raise ResponseRefused("a header field still holds secrets after the last pass")
        if needles.remain(text.encode("utf-8", "surrogatepass")):
            raise ResponseRefused("a header field holds the credential in a place that cannot be redacted")
        return text, removed

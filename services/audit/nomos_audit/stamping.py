"""Time stamps of daily roots: independent authorities (RFC 3161) say when they saw a root.

For each authority and each of the newest :data:`CATCH_UP_DAYS` days without its token, oldest first, the root's bytes
are stamped and the token is stored beside it, once: ``roots/DAY.tsr`` of the first authority, ``roots/DAY.2.tsr`` of
the second. An authority that does not answer, or answers wrongly, is said and asked again when the next day is archived
or the service starts; it holds up neither the log nor the archive.

A token is stored only if it is over these bytes and answers this question (nonce), and, where roots are configured,
if one of them vouches for it. What it is worth is judged by the auditor (:mod:`nomos.log.stamped`).

Trusted: nothing. An authority learns a digest of the root and when we ask; what it answers can at most be refused.

Source: RFC 3161 sections 2.4 and 3.4.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

import urllib3
from cryptography.x509 import Certificate
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from nomos.errors import BadSignature, Conflict, Malformed, MalformedRecord, Misconfigured, NotFound, Unavailable
from nomos.log.index import ROOTS_NAME, FileEntry, root_name
from nomos.log.timestamps import TOKEN_BYTES_MAX, check_content, parse_token, verify_token
from nomos.loopback import is_loopback
from nomos_audit.store.port import Store, digest_of
from nomos_runtime import observe

AUTHORITIES_MAX: Final = 2
#: Days before that are not stamped afterwards: a late token proves little, and an authority is not to be flooded.
CATCH_UP_DAYS: Final = 7
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 5.0
#: One answer as a whole, and how long the archive waits for it.
ANSWER_SECONDS: Final = 15.0

STAMPED: Final = "audit_root_stamped"
STAMP_AWAY: Final = "audit_stamp_away"
STAMP_REFUSED: Final = "audit_stamp_refused"

_QUERY: Final = "application/timestamp-query"
_REPLY: Final = "application/timestamp-reply"
_DAY: Final = re.compile(rf"{ROOTS_NAME}/([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})")


class Authority:
    """One time-stamp authority, asked over HTTP."""

    def __init__(self, url: str, *, roots: Sequence[Certificate] = (), development: bool = False) -> None:
        """Takes where it is.

        Args:
            url: ``https://…``; without credentials.
            roots: who must vouch for its tokens; where there is none, this is left to the auditor.
            development: whether one on loopback may speak without TLS.

        Raises:
            Misconfigured: the URL is not allowed.
        """
        self._url = _checked(url, development=development)
        self.name = self._url.hostname or ""
        self._roots = list(roots)
        # Reads no proxy from the environment; follows nothing, repeats nothing.
        self._pool = urllib3.PoolManager(
            num_pools=1,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            cert_reqs=ssl.CERT_REQUIRED,
            ssl_minimum_version=ssl.TLSVersion.TLSv1_3,
        )

    def stamp(self, content: bytes) -> bytes:
        """A token over ``content``, as the authority answered. Blocks; call it in a thread.

        Raises:
            Unavailable: it does not answer, or not with an answer of this protocol.
            Malformed: the answer holds no token.
            BadSignature: the token is over other bytes, answers another question, or no root vouches for it.
        """
        question = TimestampRequestBuilder(data=content, hash_algorithm=HashAlgorithm.SHA256).build()
        answer = self._post(question.as_bytes())
        response = parse_token(answer)
        check_content(response, content, question.nonce)
        if not response.signed_data.certificates:
            raise MalformedRecord("the token does not hold its signer's certificate, so it could not be judged later")
        if self._roots:
            verify_token(answer, content, self._roots, question.nonce)
        return answer

    def _post(self, question: bytes) -> bytes:
        ends = time.monotonic() + ANSWER_SECONDS
        try:
            reply = self._pool.request(
                "POST",
                self._url.geturl(),
                body=question,
                headers={"content-type": _QUERY, "accept": _REPLY},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                answer = b""
                while len(answer) <= TOKEN_BYTES_MAX and (piece := reply.read1(4_096)):
                    answer += piece
                    if time.monotonic() > ends:
                        raise Unavailable("the time-stamp authority answers too slowly")
            finally:
                # What is left unread of a long answer is not waited for.
                reply.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable("the time-stamp authority does not answer", cause=repr(error)[:200]) from error
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if reply.status != 200 or kind != _REPLY:
            raise Unavailable("the time-stamp authority answers something else", cause=f"{reply.status} {kind[:60]}")
        return answer

    def close(self) -> None:
        """Ends connections."""
        self._pool.clear()


class Stamper:
    """Brings the tokens of an archive's days into it."""

    def __init__(self, store: Store, authorities: Sequence[Authority]) -> None:
        """Takes the archive and at most :data:`AUTHORITIES_MAX` authorities; the first one's tokens have no number."""
        self._store = store
        self._authorities = tuple(authorities)

    async def follow(self, listed: Collection[str]) -> tuple[FileEntry, ...]:
        """Stamps what lacks a token; the tokens that are stored now and were not listed.

        Args:
            listed: the names that the archive's index has.

        Raises:
            Unavailable: the archive's store does not answer.
        """
        days = sorted(found[1] for one in listed if (found := _DAY.fullmatch(one)))[-CATCH_UP_DAYS:]
        added: list[FileEntry] = []
        for number, authority in enumerate(self._authorities, 1):
            suffix = ".tsr" if number == 1 else f".{number}.tsr"
            for day in days:
                name = root_name(day, suffix)
                if name in listed:
                    continue
                token = await self._ensure(name, day, authority)
                if token is None:
                    # It is asked again with the next day.
                    break
                added.append(FileEntry(n=name, sha256=digest_of(token)))
        return tuple(added)

    async def _ensure(self, name: str, day: str, authority: Authority) -> bytes | None:
        """The token that the archive has now; None where the authority gave none."""
        try:
            # A crash, or another process, may have left it there and not in the index.
            return await self._store.get(name)
        except NotFound:
            pass
        root = await self._store.get(root_name(day))
        try:
            async with asyncio.timeout(ANSWER_SECONDS + CONNECT_SECONDS):
                token = await asyncio.to_thread(authority.stamp, root)
        except TimeoutError:
            observe.say(
                "audit", STAMP_AWAY, authority=authority.name, day=day, detail="it answers too slowly", cause=""
            )
            return None
        except Unavailable as error:
            observe.say("audit", STAMP_AWAY, authority=authority.name, day=day, detail=error.detail, cause=error.cause)
            return None
        except (Malformed, BadSignature) as error:
            observe.say(
                "audit", STAMP_REFUSED, authority=authority.name, day=day, detail=error.detail, cause=error.cause
            )
            return None
        try:
            await self._store.put_new(name, token, digest_of(token))
        except Conflict:
            # Another process was faster; one token is as good as the other.
            return await self._store.get(name)
        observe.say("audit", STAMPED, authority=authority.name, day=day)
        return token


def _checked(url: str, *, development: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Misconfigured("archive_tsa holds what is no URL", cause=str(error)) from error
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise Misconfigured("a URL of archive_tsa has a host, and no credentials and no fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and development and is_loopback(host)):
        return parts
    raise Misconfigured(f"archive_tsa names {host} without TLS", hint="https:// only, but for loopback in development")

"""Requests that are signed with a secret instead of carrying it: HTTP message signatures, and AWS's.

* RFC 9421 with hmac-sha256 over method, authority, path, query, the headers that are the action's own and, where there
  is a body, its RFC 9530 digest; with the time of the signature and the key's id.
* AWS Signature Version 4 is botocore's.

A signature says nothing about the secret, so an upstream that repeats it gives nothing away.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from nomos.catalogue import Auth, OutgoingRequest
from nomos_runtime.secret import Secret

_LABEL: Final = "nomos"


def message_signature(
    authority: str, request: OutgoingRequest, credential: Secret, now: int
) -> list[tuple[bytes, bytes]]:
    """The headers ``content-digest``, ``signature-input`` and ``signature``.

    Args:
        authority: value of ``Host``.
        request: what is sent.
        credential: ``key id:secret``; the bytes of the secret are the key.
        now: Unix seconds.
    """
    key_id, _, secret = credential.reveal().partition(b":")
    path, _, query = request.target.partition("?")
    covered = {"@method": request.method, "@authority": authority, "@path": path, "@query": f"?{query}"}
    covered |= dict(request.headers)
    headers: list[tuple[bytes, bytes]] = []
    if request.body is not None:
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode("ascii")
        covered["content-digest"] = f"sha-256=:{digest}:"
        headers.append((b"content-digest", covered["content-digest"].encode("ascii")))
    names = " ".join(f'"{name}"' for name in covered)
    parameters = f'({names});created={now};keyid="{_quoted(key_id)}";alg="hmac-sha256"'
    signature = base64.b64encode(hmac.digest(secret, signature_base(covered, parameters), hashlib.sha256))
    return [
        *headers,
        (b"signature-input", f"{_LABEL}={parameters}".encode("ascii")),
        (b"signature", _LABEL.encode("ascii") + b"=:" + signature + b":"),
    ]


def signature_base(covered: dict[str, str], parameters: str) -> bytes:
    """What is signed, RFC 9421 section 2.5: each covered component, and the parameters, on a line of its own."""
    lines = [f'"{name}": {value}' for name, value in covered.items()]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("ascii")


def _quoted(text: bytes) -> str:
    """A string of RFC 8941 section 3.3.3, without its quotes."""
    return text.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')


def aws_signature(
    authority: str, auth: Auth, request: OutgoingRequest, credential: Secret, headers: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """The headers of Signature Version 4, of this moment.

    Args:
        authority: value of ``Host``; its region is read from it.
        auth: names the service.
        request: what is sent.
        credential: ``access key id:secret``, and a session token behind a second colon where there is one.
        headers: that are sent beside; content type, host and the action's own are signed with the rest.
    """
    # imported by the first request that needs it: most installations have none
    from botocore.auth import S3SigV4Auth, SigV4Auth  # noqa: PLC0415
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    key_id, secret, token = [*credential.reveal().decode("ascii").split(":", 2), ""][:3]
    covered = {b"content-type", b"host", *(name.encode("ascii") for name, _ in request.headers)}
    signed = AWSRequest(
        method=request.method,
        url=f"https://{authority}{request.target}",
        data=request.body or b"",
        headers={name.decode("ascii"): value.decode("ascii") for name, value in headers if name in covered},
    )
    signer = S3SigV4Auth if auth.service == "s3" else SigV4Auth
    credentials = Credentials(key_id, secret, token or None)
    signer(credentials, auth.service, region_of(authority)).add_auth(signed)
    sent = {name for name, _ in headers}
    return [
        (name.lower().encode("ascii"), str(value).encode("ascii"))
        for name, value in signed.headers.items()
        if name.lower().encode("ascii") not in sent
    ]


def region_of(authority: str) -> str:
    """The region in a host of AWS, ``<service>.<region>.amazonaws.com``; ``us-east-1`` where a service has none."""
    labels = authority.partition(":")[0].removesuffix(".cn").split(".")
    return labels[-3] if len(labels) >= 4 and labels[-2:] == ["amazonaws", "com"] else "us-east-1"

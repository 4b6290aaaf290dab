"""Bodies with a file beside other fields: ``multipart/form-data``, in one spelling.

The fields stand first, each a text, and the file last. The boundary is made from everything that stands between its
occurrences, so it cannot occur in a field or in the file: whoever wrote it there would have to know it before. What was
not written so is not read.

Pure. Source: RFC 7578; RFC 2046 section 5.1.1 (a boundary has 70 characters at most).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import orjson
from msgspec import Struct

from nomos.contents import Content
from nomos.errors import Malformed

MEDIA_TYPE: Final = "multipart/form-data; boundary="
#: Names of a file: what a header can hold as it is, and no directory.
FILENAME: Final = re.compile(r'[^\x00-\x1f\x7f-\x9f"\\/]{1,255}')

_FIELD: Final = re.compile(rb'Content-Disposition: form-data; name="([^"\r\n]+)"')
_FILE: Final = re.compile(
    rb'Content-Disposition: form-data; name="([^"\r\n]+)"; filename="([^"\r\n]+)"\r\nContent-Type: ([^\r\n]+)'
)


class FilePart(Struct, frozen=True, kw_only=True):
    """What is said of the file.

    Attributes:
        name: of its field.
        filename: its own.
        content: its bytes, by their name.
    """

    name: str
    filename: str
    content: Content


def write_multipart(fields: Sequence[tuple[str, str]], file: FilePart, data: bytes) -> tuple[str, bytes]:
    """The content type and the body.

    Args:
        fields: names and texts, in their order.
        file: what is said of the file.
        data: its bytes.

    Raises:
        Malformed: the name of the file is none.
    """
    if FILENAME.fullmatch(file.filename) is None:
        raise Malformed("a file's name has no control character, quotation mark, slash or backslash")
    boundary = _boundary(fields, file)
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields]
    head = f'Content-Disposition: form-data; name="{file.name}"; filename="{file.filename}"\r\n'
    parts.append(f"{head}Content-Type: {file.content.media_type}\r\n\r\n".encode() + data)
    line = f"--{boundary}".encode()
    body = line + b"\r\n" + (b"\r\n" + line + b"\r\n").join(parts) + b"\r\n" + line + b"--\r\n"
    return MEDIA_TYPE + boundary, body


def read_multipart(content_type: str, body: bytes, content: Content) -> tuple[list[tuple[str, str]], FilePart, bytes]:
    """What :func:`write_multipart` wrote: fields, what is said of the file, and its bytes.

    Args:
        content_type: of the body.
        body: the bytes on the wire.
        content: what the file is said to be.

    Raises:
        Malformed: it was not written so.
    """
    line = b"--" + content_type.removeprefix(MEDIA_TYPE).encode()
    begin, end = line + b"\r\n", b"\r\n" + line + b"--\r\n"
    if not body.startswith(begin) or not body.endswith(end) or len(body) < len(begin) + len(end):
        raise Malformed("the body is no multipart body of this boundary")
    *texts, last = body[len(begin) : -len(end)].split(b"\r\n" + begin)
    try:
        fields = [_field(text) for text in texts]
        head, _, data = last.partition(b"\r\n\r\n")
        found = _FILE.fullmatch(head)
        if found is None:
            raise Malformed("the last part of a multipart body is the file")
        file = FilePart(name=found[1].decode(), filename=found[2].decode(), content=content)
    except UnicodeDecodeError as error:
        raise Malformed("a field of the body is not UTF-8") from error
    if write_multipart(fields, file, data) != (content_type, body):
        raise Malformed("the body is not in its one spelling")
    return fields, file, data


def _field(part: bytes) -> tuple[str, str]:
    head, _, text = part.partition(b"\r\n\r\n")
    found = _FIELD.fullmatch(head)
    if found is None:
        raise Malformed("a field of the body is not written as one")
    return found[1].decode(), text.decode()


def _boundary(fields: Sequence[tuple[str, str]], file: FilePart) -> str:
    told = [*fields, (file.name, file.filename, file.content.media_type, file.content.sha256)]
    return "nomos-" + hashlib.sha256(orjson.dumps(told)).hexdigest()

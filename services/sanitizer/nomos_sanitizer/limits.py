"""Every limit of the sanitizer, by name. Over a limit a body is refused or a part of it redacted, never passed on.

Leaves to others: limits on the wire and on decompression, which the proxy applies before a body arrives here.
"""

from __future__ import annotations

from typing import Final

#: Largest body, in bytes as received. Over it: refused.
BODY_BYTES_MAX: Final = 8 * 1024 * 1024
#: Bodies and pieces up to this size are cleaned on the loop: handing them to a thread would cost more.
INLINE_BYTES_MAX: Final = 32_768
#: Most header fields, and most bytes in all names and values together. Over either: refused.
HEADERS_MAX: Final = 256
HEADER_BYTES_MAX: Final = 64 * 1024
#: Containers inside containers. The first container below this depth is replaced by a marker.
JSON_DEPTH_MAX: Final = 64
#: Encodings inside encodings (base64 of percent of base64 ...). Text below it that still decodes is replaced.
ENCODING_DEPTH_MAX: Final = 5
#: Secrets, encoded runs and invisible characters found in one pass. Over it: refused.
SPANS_MAX: Final = 20_000
#: Runs of escape sequences (percent, entities, backslash) decoded in one pass. Over it: refused.
ESCAPES_MAX: Final = 150_000
#: Invisible and control characters left out of shadows in one pass. Over it: refused.
INVISIBLE_MAX: Final = 500_000
#: Runs that are read as base64 in one pass. Over it: refused.
BASE64_RUNS_MAX: Final = 20_000
#: Members and elements of all containers of a body. Over it: refused.
JSON_NODES_MAX: Final = 1_000_000
#: Bytes looked at in one pass, as a multiple of the input, and the floor for small inputs. Over it: refused.
WORK_FACTOR_MAX: Final = 24
WORK_BYTES_FLOOR: Final = 1024 * 1024
#: Passes until one finds nothing. If the last still finds something the body does not settle: refused.
PASSES_MAX: Final = 4
#: Credentials of one call, and the length of each in bytes. Outside: refused, as the search would mean nothing.
CREDENTIALS_MAX: Final = 8
CREDENTIAL_BYTES_MIN: Final = 8
CREDENTIAL_BYTES_MAX: Final = 16 * 1024
#: Base64 runs at least this long are always decoded; shorter ones only where a known beginning shows.
BASE64_RUN_MIN: Final = 48
#: Bytes of a fingerprint, and of the shortest value that has one: what can be guessed must not be confirmed.
FINGERPRINT_BYTES: Final = 6
FINGERPRINT_SOURCE_BYTES_MIN: Final = 16
#: Distinct lines of one list of a report, and characters of a JSON pointer in it. Further lines are counted together.
REPORT_LINES_MAX: Final = 1_000
POINTER_LENGTH_MAX: Final = 256
#: A stream is searched at each multiple of the step; the window is what stays behind, and what is kept as context.
#: A secret with its context is shorter than the window, or is held back whole.
STREAM_STEP_BYTES: Final = 16 * 1024
STREAM_WINDOW_BYTES: Final = 16 * 1024
#: Bytes of text that are held back, and bytes of one line of JSON. Over it: refused.
STREAM_HELD_BYTES_MAX: Final = 256 * 1024
STREAM_LINE_BYTES_MAX: Final = 1024 * 1024
#: Places of one marker of injection that are counted in one text.
NOTES_PER_TEXT_MAX: Final = 1_000

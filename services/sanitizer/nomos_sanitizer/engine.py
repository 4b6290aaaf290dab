"""How RE2 is set up here: byte-wise, as Hyperscan matches, so that both see the same text."""

from __future__ import annotations

import re2


def bytes_options() -> re2.Options:
    """RE2 options under which one byte is one character and a bad pattern is an exception, not a line on stderr."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options

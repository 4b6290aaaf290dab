"""Memory that is freed and wanted again by the next body is kept, not given back to the system in between.

The arrays of one body are some megabytes. glibc gives freed memory of that size back at once and asks for it anew with
the next array, and the system zeroes every page of it: up to half of the time that a body takes, or nothing, by how the
memory happens to lie. See mallopt(3). Other C libraries have no such setting and are left as they are.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: Parameters of ``mallopt``: from which size on memory is mapped by itself, and how much free memory is kept.
_M_MMAP_THRESHOLD: Final = -3
_M_TRIM_THRESHOLD: Final = -1
#: The largest that glibc takes on 64-bit machines.
MAPPED_BYTES_MIN: Final = 32 * 1024 * 1024
#: Of each arena; there is about one for each thread that cleans.
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024


def keep_freed() -> bool:
    """Asks for it, for this process. False where the C library has no such setting."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    set_option = library.mallopt
    set_option.argtypes = (ctypes.c_int, ctypes.c_int)
    set_option.restype = ctypes.c_int
    return all((set_option(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN), set_option(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)))

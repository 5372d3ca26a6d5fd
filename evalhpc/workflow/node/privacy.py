"""Processes of ours on nodes hold keys and tokens: nobody reads their memory, alive or dead."""

from __future__ import annotations

import ctypes
import logging
import os
import resource

log = logging.getLogger(__name__)
#: Of <linux/prctl.h>.
_SET_DUMPABLE = 4


def keep_private() -> None:
    """Leave no core file, and no way to this process's memory or environment but root's.

    `ulimit -c 0` in the scripts does not help where a program takes cores from a pipe, and any
    process of the same user could attach to ours. Commands that we start are not covered: the
    system takes it back as they begin. What a kernel refuses is said, and no reason to end.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("other processes of yours can read this one's memory: %s",
                    os.strerror(ctypes.get_errno()))  # fmt: skip

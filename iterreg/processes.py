"""What holds for every process that iterreg starts."""

from __future__ import annotations

import os
import signal

PARENT_DEATH_SIGNAL = 1
"""Linux's number of the request, from ``linux/prctl.h``."""


def die_with_parent(parent: int) -> None:
    """Let the system end this process when its parent is gone (Linux).

    Args:
        parent: the number of the parent, which may be gone already.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    except (OSError, ImportError, AttributeError):
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

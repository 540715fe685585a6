"""Know a process that was forked after its parent had used threads.

The threads of OpenMP do not survive a fork: the first loop of such a process would wait for them
for ever, or end it.
"""

from __future__ import annotations

import os

import torch

from iterreg.errors import DeviceError

_used = False
_forked_after_use = False


def use_threads() -> None:
    """Note that this process is about to use threads.

    Raises:
        DeviceError: it was forked from one that had.
    """
    global _used
    if _forked_after_use:
        raise DeviceError(
            "this process was forked after iterreg had been used in its parent, and threads do not "
            "survive that: start workers by multiprocessing.get_context('spawn')"
        )
    _used = True


def _after_fork() -> None:
    global _forked_after_use
    if _used:
        _forked_after_use = True
        torch.set_num_threads(1)  # what torch itself does then needs no thread that is gone


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

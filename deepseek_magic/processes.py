"""Processes by name, and whether they still run."""

from __future__ import annotations

import contextlib
import os
import platform

SAME_START_SECONDS = 2.0
"""Two readings of when a process began differ by less, as the clock is set meanwhile."""


def this_process() -> str:
    """Name this process so that others can tell whether it still runs."""
    began = ""
    with contextlib.suppress(Exception):  # what a system does not tell is left out
        import psutil

        began = f"{psutil.Process().create_time():.2f}"
    return f"{platform.node()} {os.getpid()} {began}"


def has_ended(name: str) -> bool | None:
    """Tell whether the process with this *name* is gone; None where that cannot be known."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        host, pid, began = name.rsplit(" ", 2)
        if host != platform.node():
            return None
        process = psutil.Process(int(pid))
        # The same number may name another process by now.
        other = abs(process.create_time() - float(began)) > SAME_START_SECONDS
        return bool(other or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except Exception:  # noqa: BLE001  # a process of another user may tell nothing
        return None

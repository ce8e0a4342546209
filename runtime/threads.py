"""How many CPUs this process may use, which is what a runtime's thread pool should be sized by."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as seen from inside a container


def available_cpus() -> int:
    """CPUs of the affinity mask, or fewer where a container's CPU quota says so; at least 1.

    Not the machine's count: a pool sized by that is slow in a limited container, or fails to pin its threads.
    """
    pinned = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    count = len(os.sched_getaffinity(0)) if pinned else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        if quota != "max":
            count = min(count, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2 here
        pass
    return max(count, 1)

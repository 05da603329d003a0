"""How the threads of OpenMP wait for each other.

Standard library only, since it acts before torch is loaded.
"""

from __future__ import annotations

from collections.abc import MutableMapping

OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user says about waiting: OpenMP's own variable, GNU's and Intel's."""


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Threads without work sleep, in this process once it loads torch and in those that it starts.

    By default they spin, which beside other programs takes from them, and from the thread that is waited for,
    the cores that it needs (benchmarks/RESULTS.md). A user's own setting stays.
    """
    if not any(name in environment for name in OWN):
        environment["OMP_WAIT_POLICY"] = "passive"

"""How much of its speed a GPU keeps among many: waiting for each other and for the network, simulated."""

from __future__ import annotations

import math

import numpy as np

from vgen.spec import spec

BUCKET_BYTES = 25 * 2**20
"""What DDP sends at once (torch's ``bucket_cap_mb``); DeepSpeed sends more at once."""
BACKWARD_SHARE = 2 / 3
"""Of a step: backward computes two products where forward computes one."""
NUM_STEPS = 200


@spec
class Network:
    """What is assumed of a cluster; none of it is measured here.

    ``node_gb_s`` and ``network_gb_s`` are what one GPU sends a second, in 10^9 bytes, within a node and
    between nodes (200 Gbit/s each). Ranks take ``latency_us`` from one to the next. ``overlap`` is the share
    of backward in which sending costs nothing, ``jitter`` the standard deviation of a rank's step over its
    mean. A GPU computes ``tflops`` by its data sheet (A100, bf16), of which ``utilisation`` is reached.
    """

    gpus_per_node: int = 8
    node_gb_s: float = 200.0
    network_gb_s: float = 25.0
    latency_us: float = 10.0
    overlap: float = 0.8
    jitter: float = 0.02
    tflops: float = 312.0
    utilisation: float = 0.3

    def __post_init__(self) -> None:
        for name in ("gpus_per_node", "node_gb_s", "network_gb_s", "tflops", "utilisation"):
            if not getattr(self, name) > 0:
                raise ValueError(f"network.{name} must be positive, got {getattr(self, name)}")
        for name in ("latency_us", "overlap", "jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"network.{name} must not be negative, got {getattr(self, name)}")

    def sending_seconds(self, num_bytes: int, num_gpus: int) -> float:
        """Through the slowest link of a ring, and the way through a tree for every bucket."""
        if num_gpus == 1:
            return 0.0
        speed = self.node_gb_s if num_gpus <= self.gpus_per_node else min(self.network_gb_s, self.node_gb_s)
        buckets = math.ceil(num_bytes / BUCKET_BYTES)
        return num_bytes / (speed * 1e9) + buckets * 2 * math.log2(num_gpus) * self.latency_us * 1e-6

    def compute_seconds(self, flops: int) -> float:
        return flops / (self.tflops * 1e12 * self.utilisation)


def efficiency(network: Network, step_seconds: float, num_bytes: int, num_gpus: int) -> float:
    """The share of its speed alone that each of ``num_gpus`` keeps, as the mean of simulated steps: all wait
    for the slowest, whose time is drawn normally, and for what of sending does not fit into backward.

    ``num_bytes`` is what one of them sends for a step that it computes in ``step_seconds``.
    """
    draws = np.random.default_rng(0).normal(1.0, network.jitter, (NUM_STEPS, num_gpus))
    slowest = float(draws.max(1).mean()) if num_gpus > 1 else 1.0
    hidden = network.overlap * BACKWARD_SHARE * step_seconds
    exposed = max(0.0, network.sending_seconds(num_bytes, num_gpus) - hidden)
    return step_seconds / (step_seconds * slowest + exposed)

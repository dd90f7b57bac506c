"""What a sample costs: evaluations of the network, seconds, memory and arithmetic."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from ebb.system.sampler import Sampler
from ebb.system.system import System

BATCH = 128
FEW = 4
"""Steps that memory and arithmetic are measured in: enough to fill what a solver of order 3 remembers."""


ALONE = 100
"""Samples that are drawn one at a time, at most, to see how long each takes."""

PATIENCE = 5.0
"""Seconds after which no further one is begun, where SEVERAL are there."""

SEVERAL = 5


@dataclass(frozen=True)
class Latency:
    """Seconds from the request of one sample to the sample: the median and the 99th percentile of `count` requests, one
    after the other."""

    p50: float
    p99: float
    count: int


@dataclass(frozen=True)
class Cost:
    """What one sample costs, and the most memory that a batch of them takes."""

    evaluations: float
    """of the network, for each sample: a guided call is two"""
    seconds: float
    images_per_second: float
    peak_mb: float
    """MB (10^6 bytes), weights included, for `batch` samples at once"""
    gflop: float
    """of all evaluations of a sample, see the function `gflop`"""
    batch: int
    device: str
    threads: int
    latency: Latency


def cost(system: System, *, seed: int = 0, batch: int = BATCH, spent: tuple[float, float] | None = None) -> Cost:
    """The cost of a sample of `system` by its own sampling.

    `spent` are (seconds, evaluations) of each sample where many were drawn already; without it one batch is drawn and
    timed. Memory and arithmetic are found on one batch in a few steps, arithmetic per evaluation: both grow with the
    batch and the evaluations, not with the length of the way. On a GPU the memory is what its allocator handed out
    at most; on a CPU the weights and the most bytes that the tensors of the computation held at once, which does not
    see the workspace inside a kernel. Unlike the process's resident size that is the same number every time.
    """
    networks, device = system.networks(system.sampling), system.device
    sampler, request = Sampler(system, batch), system.request(system.given(batch, seed=seed), batch, seed)
    if spent is None:
        with counted(*networks) as seen:
            began = time.perf_counter()
            sampler(request)
            spent = (time.perf_counter() - began) / batch, seen[0] / batch
    few = replace(request, sampling=system.settled(steps=min(FEW, request.sampling.steps)))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with counted(*networks) as seen, Live() as live:
        arithmetic = gflop(lambda: sampler(few))
    with torch.no_grad():  # once a sample, however many evaluations
        decoding = gflop(lambda: system.decode(torch.zeros(batch, *system.inner, device=device)))
    parts = [system.model.module, *system.model.frozen.values(), *networks[1:]]
    held = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in held)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else weights + live.peak
    seconds, evaluations = spent
    return Cost(
        evaluations=evaluations,
        seconds=seconds,
        images_per_second=1 / max(seconds, 1e-9),
        peak_mb=peak / 1e6,
        gflop=(arithmetic - decoding) / max(1, seen[0]) * evaluations + decoding / batch,
        batch=batch,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
        latency=latency(system, seed),
    )


def latency(system: System, seed: int = 0) -> Latency:
    """How long `system` takes for one sample by its own sampling: of at most ALONE, and no more than PATIENCE allows.

    A first one, which finds nothing in the caches, is not counted.
    """
    sampler, took, began = Sampler(system, 1), list[float](), time.perf_counter()
    for draw in range(ALONE + 1):
        start = time.perf_counter()
        sampler(system.request(system.given(1, seed=seed + draw), 1, seed + draw))
        took.append(time.perf_counter() - start)
        if len(took) > SEVERAL and time.perf_counter() - began > PATIENCE:
            break
    p50, p99 = np.quantile(took[1:], (0.5, 0.99)).tolist()
    return Latency(p50, p99, len(took) - 1)


def gflop(compute: Callable[[], object]) -> float:
    """10^9 additions and multiplications, a multiply-add being 2, in the matrix products, convolutions and attention
    that `compute` does; what goes over each element once is not counted."""
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as found:
        compute()
    return int(found.get_total_flops()) / 1e9


def attention_flop(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, out_shape: object = None, **__: Any
) -> int:
    """The arithmetic of attention from the shapes of its arguments."""
    return int(sdpa_flop(query, key, value))


ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop}
"""The one kernel of attention that the counter of torch leaves out."""


@contextmanager
def counted(*networks: nn.Module) -> Iterator[list[int]]:
    """A list whose one number grows by the samples that any of the networks is shown."""
    seen = [0]

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[0] += len(inputs[0])

    hooks = [network.register_forward_pre_hook(count) for network in networks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # a class of torch without types
    """While it is entered, follows the bytes that new tensors hold; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, then count the storages that it made."""
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known | old:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def freed(self, key: int, size: int) -> None:
        """A storage is gone; its address may come again."""
        self.known.discard(key)
        self.now -= size

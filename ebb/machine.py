"""What this process asks of the machine before it computes, and what the machine can do."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from functools import lru_cache
from pathlib import Path

import torch

from ebb.errors import UsageError
from ebb.threads import give_way

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the C library keep what a step frees for the next one; True where it does so from now on.

    glibc gives blocks of more than 128 KiB back to the kernel when they are freed, and every activation of a network is
    such a block: thousands of page faults a step, a quarter of the time of a small U-Net. The most memory ever used
    stays the same; it is given back when the process ends. Where MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ is
    set in the environment, that choice stands; other C libraries are left as they are.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc: macOS, Windows, musl
        return False
    large = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20)  # older ones take 32 MiB at most
    return bool(large and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(M_TOP_PAD, 64 << 20))


def ready() -> None:
    """Ask of the machine what every computation here is faster with, once; nothing that is computed changes."""
    keep_freed_memory()
    give_way()


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16; without, they take a hundred times as long as fp32.

    A CPU needs AVX-512 or more (oneDNN's own test); where torch has no oneDNN there are none that it would use.
    """
    if device.type != "cpu":
        return True
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and bool(known())


def seconds_since_start() -> float | None:
    """Seconds since this process was started, its interpreter and imports included, to about 0.01 s; Linux only.

    Elsewhere None. From field 22 of /proc/self/stat, ticks since the machine started (proc(5)).
    """
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def matrix_rate(dtype: torch.dtype, device: torch.device, spend: float = 0.5) -> float:
    """FLOP/s of a product of two square matrices of `dtype`, a multiply-add being 2: a median over `spend` seconds.

    The side is 2048, on a GPU 8192: large enough that the rate no longer depends on it. It is the yardstick of other
    work in that type on that device, not a bound: a convolution that multiplies less (Winograd), or that is better
    made than the product, may pass it.
    """
    side = 8192 if device.type == "cuda" else 2048
    drawn = torch.Generator(device).manual_seed(0)  # a GPU is faster on constants, which draw less power
    a, b = (torch.randn(side, side, generator=drawn, device=device).to(dtype) for _ in range(2))
    took, until = list[float](), time.perf_counter() + spend
    while len(took) < 4 or time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(took[1:])


def best_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(asked: str | torch.device) -> torch.device:
    """The device of that name; UsageError where this machine, or this torch, has none."""
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device fails in its own way
        why = str(error).splitlines()[0]
        raise UsageError(f"there is no device {str(asked)!r} here: {why}", f"there is {best_device()}") from error
    return device

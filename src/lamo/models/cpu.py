"""What a processor does well: measured or asked, never assumed."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks of up to 32 MiB instead of returning them to the kernel. True if it did.

    A training step allocates and frees the same large activations again and again. By default each is a fresh mmap
    whose pages the kernel must clear on first touch; without that a pretraining step was 1.19 times faster
    (docs/performance.md). Does nothing on other systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no mallopt
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # names and values of <malloc.h>; 32 MiB is the largest mmap threshold
    return bool(mallopt(m_mmap_threshold, 32 << 20)) and bool(mallopt(m_trim_threshold, 1 << 30))


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones on this processor.

    Decided by what the processor declares on Linux (AVX512-BF16 or AMX on x86, BF16 on Arm); False elsewhere. Without
    such instructions the products are emulated, and were 100 times *slower* than float32 on an AVX2 processor.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))

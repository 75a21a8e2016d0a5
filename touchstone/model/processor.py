"""How a process computes here: with how many threads, whether in bf16, and the same numbers each time."""

from __future__ import annotations

import os
import platform

import torch

from touchstone.runtime.parallel import Threads, cores, threads_of
from touchstone.settings import NARROW

MOST_BATCHES = 4


def prepare(threads: int) -> None:
    """Make this process's numbers repeatable: so many CPU threads, deterministic kernels only.

    Before any CUDA work, whose library reads its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled with NaN, to find kernels that read what nobody wrote: 4% of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped in torch


def threads_for(hidden: int, setting: Threads) -> int:
    """How many CPU threads a setting asks for, for a sealed model whose own settings may not be at hand.

    Args:
        hidden: its hidden size: where it is below NARROW, "auto" is one thread, else the process's cores.
    """
    return 1 if setting == "auto" and hidden < NARROW else threads_of(setting)


def batches_at_once(setting: Threads, threads: int) -> int:
    """How many batches are scored at once, each by `threads` CPU threads.

    "auto" is one on a GPU, else as many as there are cores for, MOST_BATCHES at most: each passes Python's lock on at
    every operation.
    """
    if setting != "auto":
        return setting
    return 1 if torch.cuda.is_available() else max(1, min(MOST_BATCHES, cores() // threads))


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; elsewhere libraries emulate it, at many times the cost of fp32.

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 makes a processor an older one, here
    and in the libraries.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # True on x86 with AVX-512 of any kind, and on ARM with bf16; heeds ONEDNN_MAX_CPU_ISA.
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and (platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_avx512_bf16_supported())

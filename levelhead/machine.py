"""The machine: which device, whether bfloat16 pays, how memory is handed out, what it is."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from levelhead.errors import LevelheadError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises LevelheadError for a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LevelheadError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LevelheadError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise LevelheadError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:N")
    return device


def gains_from_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32: CUDA, AMX or AVX512-bf16."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions on CUDA in IEEE float32 inside: by default they take TF32, of 10 bits.

    With it the probabilities of one network differed by 0.003 between a GPU and its exported file.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    conv = cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


def memory() -> int:
    """Bytes of memory that this process may use: of the machine, its container and its limits."""
    limits = [1 << 62]
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    with suppress(ImportError, OSError):
        import resource

        limits += [n for n in (resource.getrlimit(resource.RLIMIT_AS)[0],) if n > 0]
    return min(limits)


def fits_in_memory(size: int, what: Any) -> None:
    """Raise LevelheadError for something to unpack of more bytes than there is memory."""
    if size > (have := memory()):
        raise LevelheadError(
            f"{what}: unpacks to {size / 1e9:,.1f} GB, more than the {have / 1e9:,.1f} GB of "
            "memory; is it damaged? Else give it unpacked, or in parts"
        )


def tune_malloc() -> None:
    """Let glibc keep freed memory instead of returning it to the system after every step.

    A training step frees and takes the same hundreds of megabytes; fresh pages would be zeroed
    by the kernel each time, which costs a third of the step on two cores. Does nothing outside
    glibc, or where LEVELHEAD_MALLOC=0.
    """
    if sys.platform != "linux" or os.environ.get("LEVELHEAD_MALLOC") == "0":
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 256 << 20)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    import torch

    cuda = device.type == "cuda"
    return {
        "levelhead": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "machine": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "git": _git(),
        "command": " ".join(sys.argv),
    }


def version() -> str:
    """levelhead's own, from the package's metadata; `unknown` where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("levelhead")
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _git() -> str | None:
    """Commit of levelhead's own checkout, with `+` where it was changed; None elsewhere."""
    here = Path(__file__).parent
    try:
        process = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None if process.returncode == 0 else None


def peak_memory() -> int:
    """Most resident memory of this process so far, in bytes (0 where unknown)."""
    try:
        import resource
    except ImportError:
        return 0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """Import torchvision (or timm, which needs it), also beside a torch built for another machine.

    A torchvision wheel built for CUDA cannot load its compiled box operators beside a CPU-only
    torch, and then fails while describing them. No classifier uses them: declare them, go on.
    """
    import torch

    for operator in ("nms", "qnms"):
        # Loading the wheel's own library, where that works, must come first.
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _KEPT.append(library)
    return importlib.import_module(name)


_KEPT: list[torch.library.Library] = []  # a Library that is collected takes its operators along

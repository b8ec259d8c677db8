"""Look at this computer once, and set torch's global switches in one place.

A record is worth little without the machine it was measured on. Whatever the machine does not tell is None.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import psutil
import pynvml
import torch
from pydantic import JsonValue

from bench.errors import UsageError
from bench.records import Machine, Precision

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "torch-fidelity", "codecarbon", "nvidia-ml-py")
_CGROUP = Path("/sys/fs/cgroup")
_NO_MEMORY_LIMIT_BYTES = 2**60  # cgroup v1 writes "no limit" as a number near 2^63
_SOURCE_ROOT = Path(__file__).resolve().parent.parent


def look(device: str) -> Machine:
    """This computer, as a run on `device` sees it."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    driver, power_limits_w = _nvml_facts([str(gpu.uuid) for gpu in gpus]) if device != "cpu" else (None, {})
    commit, dirty = _git_state()
    return Machine(
        hostname=socket.gethostname(),
        os=platform.platform(),
        cpu=_cpu_name(),
        num_cpu_cores=psutil.cpu_count(logical=True) or 1,
        memory_bytes=psutil.virtual_memory().total,
        container_cpu_limit=_cgroup_cpu_limit(),
        container_memory_limit_bytes=_cgroup_memory_limit(),
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_memory_bytes=tuple(gpu.total_memory for gpu in gpus),
        gpu_power_limit_w=tuple(power_limits_w.get(str(gpu.uuid)) for gpu in gpus),
        driver=driver,
        cuda=torch.version.cuda,
        python=platform.python_version(),
        torch=torch.__version__,
        num_torch_threads=torch.get_num_threads(),
        packages={name: metadata.version(name) for name in _PACKAGES},
        git_commit=commit,
        git_dirty=dirty,
    )


def fingerprint(machine: Machine) -> str:
    """What must be equal for two runs to be the same run: the processors and the torch that did the work.

    Part of the run id, so that records which travel with the repository are not taken for this machine's own.
    """
    identity = (
        machine.hostname,
        machine.cpu,
        machine.num_cpu_cores,
        machine.num_torch_threads,
        machine.gpus,
        machine.python,
        machine.torch,
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()


def settle_device(asked: str | None) -> str:
    """`None` → the GPU where there is one, else the CPU; `cuda` → `cuda:0`.

    Raises:
        UsageError: not a device this harness measures, or a GPU that is not there.
    """
    if asked is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"--device '{asked}' is not a device: write cpu, cuda or cuda:N.") from error
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        raise UsageError(f"--device '{asked}' is not measured by this harness: write cpu, cuda or cuda:N.")
    num_gpus = torch.cuda.device_count()
    index = device.index or 0
    if index >= num_gpus:
        found = f"{num_gpus} GPU{'s' if num_gpus != 1 else ''}"
        raise UsageError(f"--device '{asked}': torch sees {found} here (`bench doctor` says why); try --device cpu.")
    return f"cuda:{index}"


def set_backend(precision: Precision) -> dict[str, JsonValue]:
    """Set torch's global switches for a run → what was set, for the record. The only place that touches them."""
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # shapes are fixed, so the search is paid once, in the warm-up
    torch.backends.cudnn.deterministic = False
    return {
        "tf32": tf32,
        "cudnn_benchmark": True,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "num_threads": torch.get_num_threads(),
        "num_interop_threads": torch.get_num_interop_threads(),
        "openmp": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_", "KMP_"))},
    }


def _cpu_name() -> str:
    """The processor's marketing name; platform.processor() is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cgroup_cpu_limit(root: Path = _CGROUP) -> float | None:
    """CPU cores the container may use (cgroup v2, or v1 where that is mounted), None where unlimited or unknown."""
    files = [root / "cpu.max", root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"]
    texts = [_text_of(file) for file in files]
    words = texts[0].split() if texts[0] else [each for each in texts[1:] if each]
    if len(words) != 2 or words[0] in {"max", "-1"}:
        return None
    return int(words[0]) / int(words[1])


def _cgroup_memory_limit(root: Path = _CGROUP) -> int | None:
    """Bytes the container may use (cgroup v2 or v1), None where unlimited or unknown."""
    text = _text_of(root / "memory.max") or _text_of(root / "memory" / "memory.limit_in_bytes")
    if not text or text == "max" or int(text) >= _NO_MEMORY_LIMIT_BYTES:
        return None
    return int(text)


def _text_of(file: Path) -> str:
    """What a small system file holds; nothing where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _nvml_facts(uuids: list[str]) -> tuple[str | None, dict[str, float]]:
    """(driver version, UUID → enforced power limit in W); empty where NVML does not answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, {}
    limits_w: dict[str, float] = {}
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        for uuid in uuids:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            limits_w[uuid] = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    except pynvml.NVMLError:
        return None, limits_w
    finally:
        pynvml.nvmlShutdown()
    return driver, limits_w


def _git_state() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the checkout this code runs from; None outside one."""
    if _git("ls-files", "--error-unmatch", "bench/machine.py") is None:
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Output of a git command in this checkout, None where git or the checkout is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_SOURCE_ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""Which machine, and which versions: what a figure is worth depends on both."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("karui", "torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "ziglang")


def machine() -> dict[str, str]:
    """The processor, its cores, and the system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        cpu = fields.get("model name", cpu)
        known = set(fields.get("flags", fields.get("Features", "")).split())
        flags = " ".join(f for f in ("avx2", "fma", "avx512f", "avx512_vnni", "asimddp", "i8mm") if f in known)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": cpu, "flags": flags, "cores": str(cores), "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

"""Which machine, and which versions: what a figure is worth depends on both."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("karui", "torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "ziglang")


NAMED = ("avx2", "fma", "avx512f", "avx512_vnni", "asimddp", "i8mm")  # of a processor's flags, those that records name


def machine() -> dict[str, str]:
    """The processor, its cores, and the system."""
    fields = _fields()
    cpu = fields.get("model name", platform.processor() or platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    known = flags()
    return {"cpu": cpu, "flags": " ".join(f for f in NAMED if f in known), "cores": str(cores), "system": platform.platform(terse=True)}


def flags() -> frozenset[str]:
    """All that the processor can do, as Linux calls it; nothing where the system is another."""
    fields = _fields()
    return frozenset(fields.get("flags", fields.get("Features", "")).split())


def _fields() -> dict[str, str]:
    """What Linux says of the first core."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines.items()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

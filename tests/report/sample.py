"""A record as a real run would fill it, for the tests of this room (and to look at the page by eye)."""

from math import exp
from typing import Any

LADDER = [
    ("int8", ["quantize: int8, calibrated on 512 samples"], 91.42, 436_210, False, "436 kB is over the limit of 86.3 kB"),
    (
        "channels 30 % + int8",
        ["prune channels 30 %, 2 epochs", "quantize: int8"],
        91.10,
        221_480,
        False,
        "221 kB is over the limit of 86.3 kB",
    ),
    ("channels 50 % + int8", ["prune channels 50 %, 2 epochs", "quantize: int8"], 90.74, 118_004, False, "118 kB is over the limit"),
    ("sparse 80 % + int8", ["prune 80 %, 3 epochs", "quantize: int8"], 91.55, 141_932, False, "142 kB is over the limit of 86.3 kB"),
    ("sparse 90 % + int8", ["prune 90 %, 3 epochs", "quantize: int8"], 91.40, 84_020, True, "fits; another one scores better"),
    ("sparse 90 % + int8 + teacher", ["prune 90 %, 3 epochs, teacher", "quantize: int8"], 91.58, 83_992, True, "best score that fits"),
    ("sparse 95 % + int8", ["prune 95 %, 3 epochs", "quantize: int8"], 90.88, 49_760, False, "drop 0.62 points is over 0.30"),
]

LAYERS = [
    ("conv1", "conv2d", 520, 288_000, 510, 2_080, 620, 0.02, 8),
    ("conv2", "conv2d", 25_050, 1_600_000, 6_210, 100_200, 9_620, 0.75, 8),
    ("fc1", "linear", 400_500, 400_000, 34_310, 1_602_000, 68_020, 0.915, 8),
    ("fc2", "linear", 5_010, 5_000, 2_004, 20_040, 3_120, 0.60, 8),
]


def _history() -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for k, (name, *_rest) in enumerate(LADDER[3:]):
        for phase, epochs in ((0, 3), (1, 1)):
            for step in range(epochs * 8 + 1):
                t = step / 8
                loss = 0.22 + 0.5 * exp(-1.4 * (t + 3 * phase)) + 0.01 * k + 0.012 * ((step * 7 + k) % 5 - 2)
                metric = 91.6 - 0.1 * k - 4 * exp(-1.2 * (t + 3 * phase)) if step % 8 == 0 else None
                points.append({"candidate": name, "phase": phase, "epoch": t, "loss": loss, "metric": metric, "lr": 0.01})
    return points


def sample() -> dict[str, Any]:
    """The facts of a made-up run."""
    return {
        "name": "LeNet-5 on Fashion-MNIST",
        "created": "2026-11-24T09:41:00+00:00",
        "command": "karui demo -o runs/demo",
        "seconds": 271.4,
        "versions": {
            "karui": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "onnxruntime": "1.32.0",
            "cc": "gcc 12.2.0",
        },
        "machine": {"processor": "x86-64", "cores": "2", "flags": "avx2 avx512_vnni", "system": "Linux 6.1"},
        "seed": 0,
        "network": "lenet5 (431,080 parameters)",
        "data": "fashion-mnist (bundled sample)",
        "data_sizes": {"train": 9_000, "validation": 3_000, "test": 10_000, "calibration": 512},
        "metric": {"name": "accuracy", "unit": "%", "higher_is_better": True},
        "budget": {"drop": 0.3, "bytes": 86_300, "peak_ram": 24_000, "target": "c"},
        "baseline": {
            "accuracy": 91.47,
            "low": 90.91,
            "high": 92.0,
            "n": 10_000,
            "validation": 91.5,
            "bytes": {"karui": 1_725_980, "c": 1_727_616, "onnx": 1_726_444},
            "latency_ms": 0.742,
            "macs": 2_293_000,
            "params": 431_080,
            "peak_ram": 57_600,
        },
        "control": {"accuracy": 91.66, "low": 91.1, "high": 92.19, "n": 10_000, "bytes": {"karui": 1_725_980, "c": 1_727_616}},
        "candidates": [
            {
                "name": name,
                "phases": phases,
                "validation": score,
                "fits": fits,
                "reason": reason,
                "seconds": 30 + 4 * k,
                "cost": {"bytes": size, "peak_ram": 14_800, "latency_ms": 0.2 + size / 1e6, "macs": 2_293_000, "params": 431_080},
            }
            for k, (name, phases, score, size, fits, reason) in enumerate(LADDER)
        ]
        + [
            {
                "name": "sparse 95 % + int8 + teacher",
                "phases": ["prune 95 %, 3 epochs, teacher"],
                "reason": "stopped: can't reach the score",
            }
        ],
        "winner": "sparse 90 % + int8 + teacher",
        "final": {
            "accuracy": 91.39,
            "low": 90.82,
            "high": 91.92,
            "n": 10_000,
            "validation": 91.58,
            "bytes": {"karui": 71_208, "c": 83_992, "onnx": 441_020},
            "latency_ms": 0.288,
            "macs": 2_293_000,
            "params": 43_034,
            "peak_ram": 14_800,
        },
        "layers": [
            {"name": n, "op": op, "params": p, "macs": m, "stored": s, "bytes_before": b, "bytes_after": a, "sparsity": z, "bits": bits}
            for n, op, p, m, s, b, a, z, bits in LAYERS
        ],
        "history": _history(),
        "frontier": [{"share": share, "harm": 0.4 * (1 - share) ** 3} for share in (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)],
        "bits_chosen": {"share": 0.52, "harm": 0.05},
        "steps": [
            {
                "what": "Captured lenet5 as one graph of 12 ops.",
                "why": "Every later edit is made on this graph; its answers equal the module's.",
            },
            {"what": "Tried 8 candidates, from the gentlest on.", "why": "The budget leaves 1/20 of the bytes; int8 alone gives 1/4."},
            {
                "what": "Pruned 90 % of the weights by magnitude over 3 epochs, with the original as teacher.",
                "why": "fc1 holds 93 % of the weights and most of them are near zero.",
            },
            {
                "what": "Quantized weights and activations to int8, scales from 512 calibration samples.",
                "why": "A quarter of the bytes, integer arithmetic only.",
            },
            {
                "what": "Lowered, exported to C, built and compared with the interpreter on 200 pictures: equal.",
                "why": "What runs is what was judged.",
            },
        ],
        "bench": [
            {"runner": "c", "form": "float", "bytes": 1_727_616, "median_ms": 0.742, "p10_ms": 0.731, "p90_ms": 0.802, "runs": 200},
            {"runner": "c", "form": "compressed", "bytes": 83_992, "median_ms": 0.288, "p10_ms": 0.281, "p90_ms": 0.301, "runs": 200},
            {
                "runner": "onnxruntime",
                "form": "float",
                "bytes": 1_726_444,
                "median_ms": 0.221,
                "p10_ms": 0.214,
                "p90_ms": 0.262,
                "runs": 200,
            },
            {"runner": "onnxruntime", "form": "int8", "bytes": 441_020, "median_ms": 0.174, "p10_ms": 0.17, "p90_ms": 0.19, "runs": 200},
        ],
        "artefacts": {"karui": "model.karui", "c": "c/", "onnx": "onnx/model.onnx", "device": "device/"},
        "change": {"mean": -0.08, "low": -0.31, "high": 0.15},
        "parity": [
            {"runner": "c", "samples": 200, "differing": 0.0, "greatest": 0.0, "ok": True},
            {"runner": "onnxruntime", "samples": 200, "differing": 0.031, "greatest": 0.012},
        ],
        "verdict": {
            "ok": True,
            "lines": ["accuracy: lost 0.08 points of the 0.30 allowed", "bytes: 84.0 kB of 86.3 kB", "peak RAM: 14.8 kB of 24.0 kB"],
        },
    }

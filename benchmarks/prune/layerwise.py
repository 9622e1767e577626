"""Line 4: EfficientNet-Lite0 pruned in 1x4 blocks after training, from 200 photos without labels, against plain magnitude.

Every fifth photo calibrates; settings were chosen inside that fifth (150 against 50 of them). Agreement is with the float network on the
other 800.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.harness import Row, at_least, skipped
from benchmarks.subjects import agreement, efficientnet_subject, kl_divergence, outputs_of
from benchmarks.trainings import stored
from karui.compress.prune.layerwise import PruneLayerwise
from karui.compress.prune.weights import Prune
from karui.compress.statistics import estimate_batch_norm
from karui.errors import DataError, ToolError
from karui.finetune.phases import Phase, run_phases

PATTERN = "1x4"
WHOLE = ("*depthwise*",)  # by both: blocks along input channels don't exist in them
DAMPING = 0.1  # 42 % agreement on the 50 photos held out at 60 %; 26 % where it is chosen for each layer
GOAL = 0.6  # the sparsity at which reconstruction has to be 10 points better


def rows(quick: bool) -> Iterator[Row]:
    """Each sparsity, with and without reconstruction; at the goal's also the other ways of magnitude."""
    try:
        subject = efficientnet_subject()
    except (DataError, ToolError) as reason:
        yield skipped("4 efficientnet_lite0", str(reason))
        return
    reference = outputs_of(subject.network, subject.data.test)
    for sparsity in (0.5, 0.6, 0.7):
        plain = Prune(sparsity=sparsity, pattern=PATTERN, schedule="one_shot", allocation="uniform", exclude=WHOLE)
        ways = {
            "magnitude, uniform": plain,
            "reconstructed": PruneLayerwise(sparsity=sparsity, pattern=PATTERN, damping=DAMPING, exclude=WHOLE),
        }
        if sparsity == GOAL:
            ways["reconstructed, uniform"] = PruneLayerwise(
                sparsity=sparsity, pattern=PATTERN, damping=DAMPING, allocation="uniform", exclude=WHOLE
            )
            ways["magnitude, global"] = replace(plain, allocation="global")
            ways["magnitude, batch-norm"] = plain
        found = {}
        for way, technique in ways.items():
            start = time.perf_counter()
            network = run_phases(subject.network, subject.data, [Phase(techniques=(technique,))]).network
            if way.endswith("batch-norm"):
                estimate_batch_norm(network, list(subject.data.calibration.batches(16)))
            seconds = time.perf_counter() - start
            outputs = outputs_of(network, subject.data.test)
            found[way] = 100 * float(agreement(outputs, reference).mean())
            case = f"4 efficientnet_lite0, {PATTERN}, {sparsity:.0%}, {way}"
            left, total = stored(network)
            yield Row(case=case, figure="sparsity of all weights", value=1 - left / total)
            yield Row(case=case, figure="agreement with float", value=found[way], unit="%")
            yield Row(case=case, figure="KL(float, pruned)", value=float(kl_divergence(outputs, reference).mean()), unit="nats")
            yield Row(case=case, figure="time", value=seconds, unit="s")
        best = max(value for way, value in found.items() if way.startswith("magnitude"))
        gain, case = found["reconstructed"] - best, f"4 efficientnet_lite0, {PATTERN}, {sparsity:.0%}"
        if sparsity == GOAL:
            yield at_least(case, "agreement above magnitude's best", gain, 10, "points", peer="plain magnitude")
        else:
            yield Row(case=case, figure="agreement above magnitude", value=gain, unit="points", peer="plain magnitude")

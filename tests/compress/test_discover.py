from karui.compress.discover import techniques
from karui.compress.distill.hinton import Distill
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize


def test_every_technique_under_its_files_name() -> None:
    found = techniques()
    assert list(found) == sorted(found)
    ours = {"distill.hinton": Distill, "prune.channels": PruneChannels, "prune.weights": Prune, "quantize.int8": Quantize}
    assert ours.items() <= found.items()
    assert "technique" not in found and "layerwise" not in found

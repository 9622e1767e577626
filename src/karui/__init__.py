"""karui: a trained network, data and a budget in; the smallest network that stays inside it out, as a file that runs, with the proof.

The public names, nothing else. Each is imported when it is first asked for, so that the torch-free rooms and ``karui --help`` stay light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from karui.api import Result as Result
    from karui.api import compress as compress
    from karui.api import sensitivity as sensitivity
    from karui.budget import Budget as Budget
    from karui.budget import Cost as Cost
    from karui.compress.distill.exits import EarlyExits as EarlyExits
    from karui.compress.distill.features import Features as Features
    from karui.compress.distill.hinton import Distill as Distill
    from karui.compress.prune.blocks import PruneBlocks as PruneBlocks
    from karui.compress.prune.channels import PruneChannels as PruneChannels
    from karui.compress.prune.layerwise import PruneLayerwise as PruneLayerwise
    from karui.compress.prune.weights import Prune as Prune
    from karui.compress.quantize.binarize import Binarize as Binarize
    from karui.compress.quantize.binaryconnect import BinaryConnect as BinaryConnect
    from karui.compress.quantize.int8 import Quantize as Quantize
    from karui.compress.quantize.palette import Palette as Palette
    from karui.compress.technique import Attached as Attached
    from karui.compress.technique import Technique as Technique
    from karui.data import ACCURACY as ACCURACY
    from karui.data import Batch as Batch
    from karui.data import Data as Data
    from karui.data import Metric as Metric
    from karui.errors import KaruiError as KaruiError
    from karui.finetune.loop import Training as Training
    from karui.finetune.phases import Phase as Phase
    from karui.finetune.session import attach as attach
    from karui.graph.doors.capture import capture as capture
    from karui.graph.network import Network as Network
    from karui.pixels import Pixels as Pixels

__version__ = "0.1.0"

_HOMES = {
    "ACCURACY": "karui.data",
    "Attached": "karui.compress.technique",
    "Batch": "karui.data",
    "Binarize": "karui.compress.quantize.binarize",
    "BinaryConnect": "karui.compress.quantize.binaryconnect",
    "Budget": "karui.budget",
    "Cost": "karui.budget",
    "Data": "karui.data",
    "Distill": "karui.compress.distill.hinton",
    "EarlyExits": "karui.compress.distill.exits",
    "Features": "karui.compress.distill.features",
    "KaruiError": "karui.errors",
    "Metric": "karui.data",
    "Network": "karui.graph.network",
    "Palette": "karui.compress.quantize.palette",
    "Phase": "karui.finetune.phases",
    "Pixels": "karui.pixels",
    "Prune": "karui.compress.prune.weights",
    "PruneBlocks": "karui.compress.prune.blocks",
    "PruneChannels": "karui.compress.prune.channels",
    "PruneLayerwise": "karui.compress.prune.layerwise",
    "Quantize": "karui.compress.quantize.int8",
    "Result": "karui.api",
    "Technique": "karui.compress.technique",
    "Training": "karui.finetune.loop",
    "attach": "karui.finetune.session",
    "capture": "karui.graph.doors.capture",
    "sensitivity": "karui.api",
}

__all__ = [  # noqa: F822 (some come through __getattr__)
    "ACCURACY",
    "Attached",
    "Batch",
    "Binarize",
    "BinaryConnect",
    "Budget",
    "Cost",
    "Data",
    "Distill",
    "EarlyExits",
    "Features",
    "KaruiError",
    "Metric",
    "Network",
    "Palette",
    "Phase",
    "Pixels",
    "Prune",
    "PruneBlocks",
    "PruneChannels",
    "PruneLayerwise",
    "Quantize",
    "Result",
    "Technique",
    "Training",
    "__version__",
    "attach",
    "capture",
    "compress",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name == "compress":  # the room and the verb share the name, as the import system would have it anyway: see that room's page
        return import_module("karui.compress")
    if name not in _HOMES:
        raise AttributeError(f"module 'karui' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

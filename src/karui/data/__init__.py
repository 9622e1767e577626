"""Data: the samples a network is trained, judged and calibrated on, and the metric it is judged by.

A ``Part`` gives batches; it is either arrays in memory (``ArrayPart``) or the user's own loader (``IterablePart``). Everything a ``Batch``
holds is exactly what the network takes: normalised float32, channels first.
"""

from karui.data.data import ACCURACY as ACCURACY
from karui.data.data import Data as Data
from karui.data.data import Metric as Metric
from karui.data.data import cross_entropy as cross_entropy
from karui.data.data import top1 as top1
from karui.data.parts import ArrayPart as ArrayPart
from karui.data.parts import Augment as Augment
from karui.data.parts import Batch as Batch
from karui.data.parts import IterablePart as IterablePart
from karui.data.parts import Part as Part

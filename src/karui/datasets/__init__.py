"""Known data sets as ``Data``: found on this machine, bundled, or downloaded from their official address."""

from karui.datasets.fetch import download as download
from karui.datasets.sets import NAMES as NAMES
from karui.datasets.sets import load as load

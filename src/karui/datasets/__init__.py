"""Known data sets as ``Data``: found on this machine, bundled, or downloaded from their official address."""

from karui.datasets.fetch import download as download
from karui.datasets.load import NAMES as NAMES
from karui.datasets.load import load as load

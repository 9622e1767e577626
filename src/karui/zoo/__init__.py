"""Light networks by name, some with trained weights."""

from karui.zoo.catalogue import NETWORKS as NETWORKS
from karui.zoo.catalogue import Entry as Entry
from karui.zoo.catalogue import build as build
from karui.zoo.catalogue import load as load
from karui.zoo.student import Student as Student
from karui.zoo.student import student_of as student_of

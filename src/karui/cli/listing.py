"""What there is to choose from. Everything is found where it lives; nothing is registered."""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable

Names = dict[str, str]


def techniques() -> Names:
    """Recipe name → what it does: the first line of the class's docstring."""
    from karui.compress import discover

    return {name: _first_line(kind) for name, kind in discover.techniques().items()}


def machines() -> Names:
    """What C has kernels for."""
    from karui.export.machines import MACHINES

    return {name: machine.about for name, machine in MACHINES.items()}


def places() -> Names:
    """Where C can be tried, besides devices behind ssh."""
    from karui.run.places import PLACES

    return {name: place.about for name, place in PLACES.items()} | {"ssh://user@host:port": "a device, by ssh: any Linux"}


def targets() -> Names:
    """Target → what it writes."""
    from karui.export import targets as room

    return {name: _first_line(sys.modules[write.__module__]) for name, write in room.targets().items()}


def networks() -> Names:
    """Name of the zoo → the network, and whether it comes trained."""
    from karui.zoo.catalogue import NETWORKS

    trained = {name: f" (trained on {entry.data})" if entry.weights and entry.data else "" for name, entry in NETWORKS.items()}
    return {f"zoo:{name}": entry.description + trained[name] for name, entry in NETWORKS.items()}


def datasets() -> Names:
    """Names of data sets; a folder of pictures needs its path too."""
    from karui.datasets import NAMES

    return dict.fromkeys(NAMES, "") | {"imagefolder": "as imagefolder:DIR, one folder of pictures per class"}


def ops() -> Names:
    """Sort of op → torch's names of those that a network may use and still be lowered to a program."""
    from karui.lower.lower import TABLES

    found: Names = {}
    for room in TABLES:
        names = {str(op).split(".")[1] for op in room.RULES if str(op).startswith("aten.")}
        found[room.__name__.rpartition("rules_")[2]] = ", ".join(sorted(names))
    return found


KINDS: dict[str, Callable[[], Names]] = {
    "techniques": techniques,
    "targets": targets,
    "machines": machines,
    "places": places,
    "networks": networks,
    "datasets": datasets,
    "ops": ops,
}


def _first_line(thing: object) -> str:
    """The first sentence of its documentation, as far as a line holds it."""
    paragraph = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return textwrap.shorten(re.split(r"(?<!et al)[.] ", paragraph)[0].rstrip("."), 110, placeholder=" …").replace("``", "")

"""The room of techniques, and the verb: ``karui.compress(network, data, budget)`` is ``karui.api.compress``, which see.

Importing any file of this room makes Python set ``karui.compress`` to this module, whatever else bore the name. So that both spellings
always work, the module itself can be called.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:  # by name, not by import: api is a room above; inspect.signature and help() look here too
        return import_module("karui.api").compress


sys.modules[__name__].__class__ = _Verb

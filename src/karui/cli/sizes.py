"""Sizes as people write them: 86300, 86.3k, 86.3kB, 84KiB, 1.5M."""

import re

from karui.errors import RecipeError

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse(text: str, option: str) -> int:
    """Bytes; RecipeError names the option that was not understood."""
    match = re.fullmatch(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([kmg]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise RecipeError(f"{option}: '{text}' is not a size; write bytes as 86300, 86.3k, 84KiB or 1.5M")
    return round(float(re.sub("[_,]", "", match[1])) * _UNITS[(match[2] or "").lower()])

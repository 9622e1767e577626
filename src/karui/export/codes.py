"""Weights as int8 codes, for the file formats that have one scale per output channel."""

import numpy as np

from karui.program.arithmetic import Term, terms
from karui.program.program import CodebookValues, FloatValues, Weight


def int8_term(weight: Weight) -> Term | None:
    """Codes within int8 that, times one scale per output channel, are the weight; None where there are none such."""
    v = weight.values
    if isinstance(v, FloatValues) or (isinstance(v, CodebookValues) and v.codebook.dtype != np.int8):
        return None
    first, *more = terms(weight)
    return first if not more and -128 <= first.codes.min(initial=0) and first.codes.max(initial=0) <= 127 else None

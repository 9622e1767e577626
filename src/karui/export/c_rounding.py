"""Requantization by high words alone, for processors that multiply and add those in one instruction (SMMLA).

A sum n becomes the code floor((m · n + bias) / 2^shift), where the bias has 64 bits. Only the places matter where the code steps: there is
an interval of biases that all give the same codes, for every sum that can be. If a sum starts with some number c, m · c is a part of the
bias; c is chosen so that the rest is a multiple of 2^32. Then nothing is left below the high word, and that of the product is exact.
"""

FIRST, LAST = -127, 127  # the codes at which there is a step; beyond them a code is -128 or 127 anyway
LESS = 5  # bits that a multiplier may lose, and one
WORD = 2**32


def high_words(multiplier: int, bias: int, shift: int, reach: int, raised: int = 0) -> tuple[int, int, int, int] | None:
    """What a sum starts with, the multiplier, the high word of the bias, and the shift behind the high word.

    reach: the largest |sum|. raised: bits by which the sum lies higher than it should. Where that leaves too few bits for the bias, the
    multiplier is rounded to fewer, and the steps are where they were all the same. None where the numbers need more bits.
    """
    more = max(0, 32 - shift)  # where the multiplier has room, the result lies in the high word
    m, shift = multiplier << more, shift + more
    if not 0 <= m < 2**31:
        return None
    steps = _steps(m, bias << more, shift, reach)
    ways = (_at_bits((m + (1 << less >> 1)) >> less, steps, shift - less, reach, raised) for less in range(LESS))
    return next((way for way in ways if way is not None), None)


def _at_bits(m: int, steps: list[tuple[int, int]], shift: int, reach: int, raised: int) -> tuple[int, int, int, int] | None:
    """The same for a multiplier, and a shift of 32 or more together with the bits that the sum is raised by."""
    low, high = (each << raised for each in _room(steps, m, shift, reach))
    reach, shift = reach << raised, shift + raised
    start = _start(m, low, high) if low < high else None
    if start is None or reach + start >= 2**31 or not 32 <= shift <= 63 or max(abs(low), abs(high)) + m * reach >= 2**63:
        return None
    word = (high - 1 - m * start) // WORD
    return (start, m, word, shift - 32) if abs(word) < 2**31 else None


def at_shift(multiplier: int, bias: int, shift: int, reach: int, wanted: int) -> tuple[int, int, int, int] | None:
    """What weights are multiplied by, what their sum starts with, the multiplier, and the high word of the bias, for a wanted shift.

    reach: the largest |sum| of the weights as they are. Where the multiplier has more bits than that shift needs, it is rounded, and the
    steps are where they were all the same. None where that fails, or the numbers need more bits.
    """
    sign, m = -1 if multiplier < 0 else 1, abs(multiplier)
    raised = max(0, m.bit_length() + wanted - shift - 31)
    up = wanted - shift - raised
    factor = m << up if up >= 0 else (m + (1 << -up - 1)) >> -up
    low, high = _room(_steps(m, bias, shift, reach), factor << raised, wanted, reach)
    reach <<= raised
    start = _start(factor, low, high) if low < high else None
    if start is None or reach + start >= 2**31 or max(abs(low), abs(high)) + factor * reach >= 2**63:
        return None
    return sign << raised, start, factor, (high - 1 - factor * start) // WORD


def _steps(m: int, bias: int, shift: int, reach: int) -> list[tuple[int, int]]:
    """Codes at which there is a step, and the first sum of each."""
    found = []
    for code in range(FIRST, LAST + 1):
        goal = code << shift
        step = -((bias - goal) // m) if m else reach + 1 if bias < goal else -reach
        found.append((code, min(max(step, -reach), reach + 1)))
    return found


def _room(steps: list[tuple[int, int]], m: int, shift: int, reach: int) -> tuple[int, int]:
    """Biases from the first on and below the second give a multiplier and a shift these steps."""
    lows = [(code << shift) - m * step for code, step in steps if step <= reach]
    highs = [(code << shift) - m * (step - 1) for code, step in steps if step > -reach]
    low = max(lows) if lows else min(highs) - WORD
    return low, min(highs) if highs else low + WORD


def _start(m: int, low: int, high: int) -> int | None:
    """The first c for which a multiple of 2^32 lies from low - m · c on and below high - m · c. None where there is none."""
    width, last = high - low, (high - 1) % WORD
    return 0 if last < width else _first(m % WORD, WORD, last - width + 1, last)


def _first(a: int, modulus: int, low: int, high: int) -> int | None:
    """The first c for which a · c modulo ``modulus`` is one of low … high; as in Euclid's algorithm, the numbers get smaller each time."""
    if low == 0 or a == 0:
        return 0 if low == 0 else None
    c = -(-low // a)
    if a * c <= high:
        return c
    # a · c - modulus · turns is one of them: so modulus · turns, modulo a, is one of -high … -low
    turns = _first(modulus % a, a, -high % a, -low % a)
    return None if turns is None else -(-(low + modulus * turns) // a)

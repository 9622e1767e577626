"""How figures are written, on the page and in the terminal alike."""

from math import floor, log10

MISSING = "—"


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant ones, thousands with commas: 1,234 · 12.3 · 0.00123."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    magnitude = floor(log10(abs(value)))
    if magnitude < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(digits - 1 - magnitude, 0)}f}"


def size(count: float | None) -> str:
    """Bytes in decimal units: 812 B · 86.1 kB · 1.72 MB."""
    return _scaled(count, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), " B")


def amount(count: float | None) -> str:
    """A count in thousands: 812 · 431 k · 2.29 M."""
    return _scaled(count, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def _scaled(count: float | None, units: tuple[tuple[str, float], ...], unit: str) -> str:
    if count is None:
        return MISSING
    for name, factor in units:
        if abs(count) >= factor:
            return f"{number(count / factor)} {name}"
    return f"{count:,.0f}{unit}"


def parity(ok: bool | None, differing: float, greatest: float) -> str:
    """How a runner's outputs stand to the interpreter's."""
    if ok is False:
        return f"gives other outputs, by up to {100 * greatest:.2g} % of the largest"
    if not differing:
        return "gives the same outputs"
    return f"differs in {100 * differing:.2g} % of the outputs, by {100 * greatest:.2g} % of the largest at most"


def milliseconds(value: float | None) -> str:
    """1.23 ms; below a hundredth, microseconds."""
    if value is None:
        return MISSING
    return f"{number(value)} ms" if value >= 0.01 else f"{number(value * 1000)} µs"


def seconds(value: float | None) -> str:
    """42 s · 3 min 20 s · 2 h 5 min."""
    if value is None:
        return MISSING
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def score(value: float | None, unit: str) -> str:
    """A metric's value: two decimals, and its unit."""
    if value is None:
        return MISSING
    return f"{value:.2f} %" if unit == "%" else f"{value:.4g} {unit}".rstrip()


def between(low: float, high: float, unit: str) -> str:
    """An interval of the metric, the unit written once."""
    return f"{low:.2f} to {high:.2f} %" if unit == "%" else f"{low:.4g} to {high:.4g} {unit}".rstrip()


def points(value: float | None, unit: str) -> str:
    """A difference of two values of the metric, with its sign; of per cents in points."""
    if value is None:
        return MISSING
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.2f} points" if unit == "%" else f"{sign}{abs(value):.4g} {unit}".rstrip()


def percent(share: float | None) -> str:
    """A share in [0, 1] as 0 % … 100 %, with a decimal near the ends, where it matters."""
    if share is None:
        return MISSING
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 10 or 90 < value < 100 else f"{value:.0f} %"


def leaving(name: str, share: float, macs: int) -> str:
    """Where samples leave: 94 % leave at exits.0, after 256 k MACs."""
    return f"{percent(share)} leave at {name}, after {amount(macs)} MACs"


def times(before: float | None, after: float | None) -> float | None:
    """How many times less ``after`` is than ``before``; None where either is missing or nothing."""
    return before / after if before and after else None


def ratio(value: float | None) -> str:
    """A factor: 20.1×."""
    return MISSING if value is None else f"{number(value)}×"

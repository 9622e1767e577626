"""A table as a picture: rows of tiles, the darker the worse, as SVG text. Colours are the page's CSS classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, ROW, TOP, BOTTOM = 960, 30, 26, 40
LETTER = 7.2  # pixels: how wide a letter is, on the average of wide text
LONGEST = 34  # letters of a row's name; of longer ones the beginning is cut off
FAINT, DARK = 0.08, 0.62  # opacities between which text stays readable, on light paper and on dark
KEY = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One cell. text: what stands in it; told: what a pointer is told; shade: None for a good one, else how bad, in [0, 1]."""

    text: str
    told: str
    shade: float | None = None
    framed: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its name, its tiles, and what stands at its end."""

    name: str
    tiles: Sequence[Tile]
    end: str = ""


def heat_map(lines: Sequence[Line], columns: Sequence[str], *, title: str, end: str, good: str, bad: str) -> str:
    """The picture. columns, end: the heads; title: what it shows, for those who can't see it; good, bad: what the two colours mean."""
    names = [f"…{line.name[1 - LONGEST :]}" if len(line.name) > LONGEST else line.name for line in lines]
    left, right = 24 + LETTER * max(map(len, names)), 24 + LETTER * max(len(end), *(len(line.end) for line in lines))
    wide = (WIDTH - left - right) / len(columns)
    parts = [_text(left + wide * (n + 0.5), TOP - 9, column, "tick") for n, column in enumerate(columns)]
    parts.append(_text(WIDTH, TOP - 9, end, "tick", "end"))
    for place, (line, name) in enumerate(zip(lines, names, strict=True)):
        y = TOP + ROW * place
        parts.append(f"<g><title>{escape(line.name)}</title>{_text(left - 12, y + 19, name, 'name', 'end')}</g>")
        parts += [_tile(tile, left + wide * n, y, wide) for n, tile in enumerate(line.tiles)]
        parts.append(_text(WIDTH, y + 19, line.end, "tick", "end"))
    height = TOP + ROW * len(lines) + BOTTOM
    parts += _key(left, height - 26, good, bad)
    return "\n".join([f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">', *parts, "</svg>"])


def _tile(tile: Tile, x: float, y: float, wide: float) -> str:
    box = _box(x + 1.5, y + 1.5, wide - 3, ROW - 3, tile.shade, tile.framed)
    return f"<g><title>{escape(tile.told)}</title>{box}{_text(x + wide / 2, y + 19, tile.text, 'tile')}</g>"


def _key(x: float, y: float, good: str, bad: str) -> list[str]:
    """The colours in words."""
    parts = [_box(x + 1.5, y, 23, 14, None, True), _text(x + 34, y + 11.5, good, "tick", "start")]
    if bad:
        x += 64 + LETTER * len(good)
        parts += [_box(x + 26 * n, y, 23, 14, shade, False) for n, shade in enumerate(KEY)]
        parts.append(_text(x + 26 * len(KEY) + 8, y + 11.5, bad, "tick", "start"))
    return parts


def _box(x: float, y: float, wide: float, high: float, shade: float | None, framed: bool) -> str:
    kind = f"{'good' if shade is None else 'bad'}{' framed' if framed else ''}"
    opacity = "" if shade is None else f' fill-opacity="{FAINT + (DARK - FAINT) * shade:.2f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="4"{opacity}/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

"""The scan's facts: what each layer bears; the page, its picture and the table say the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from karui.errors import FileError
from karui.report import sensitivity
from karui.report.record import MetricFacts
from karui.report.sensitivity import Sensitivity
from tests.report.test_page import Outline

ACCURACY = MetricFacts()
SHARES = (0.5, 0.7, 0.9)
SCORES: dict[str, tuple[float | None, ...]] = {
    "stem.weight": (91.2, 88.0, 40.0),
    "blocks.0.conv1.weight": (91.9, 91.4, 91.55),
    "head.weight": (92.1, 91.0, None),
    "tiny.weight": (80.0, 70.0, 60.0),
}


def facts(scores: dict[str, tuple[float | None, ...]] = SCORES, metric: MetricFacts = ACCURACY, **changes: Any) -> Sensitivity:
    drop = changes.setdefault("drop", 0.5)
    rows = [
        sensitivity.row(name, 1000 * n, [(s, s, value) for s, value in zip(SHARES, values)], 92.0, drop, metric)
        for n, (name, values) in enumerate(scores.items(), 1)
    ]
    given = {"name": "net", "created": "2026-11-24T09:41:00+00:00", "data": "few", "samples": 600, "method": "Prune()", "baseline": 92.0}
    return Sensitivity(**{**given, "metric": metric, "rows": rows, **changes})


def outline(found: Sensitivity) -> Outline:
    parser = Outline()
    parser.feed(sensitivity.html(found))
    parser.close()
    assert parser.open == []
    return parser


def test_a_layer_bears_the_greatest_level_that_costs_no_more_than_the_drop() -> None:
    found = facts()
    assert {row.layer: row.bears for row in found.rows} == {
        "stem.weight": None,
        "blocks.0.conv1.weight": 0.9,
        "head.weight": 0.5,
        "tiny.weight": None,
    }
    assert found.levels() == {"blocks.0.conv1.weight": 0.9, "head.weight": 0.5}
    assert found.levels(drop=4.0) == {"stem.weight": 0.7, "blocks.0.conv1.weight": 0.9, "head.weight": 0.7}
    assert found.rows[0].cells[0].loss == pytest.approx(0.8)
    assert found.rows[2].cells[0].loss == pytest.approx(-0.1), "a gain"


def test_a_level_that_changed_nothing_is_not_borne() -> None:
    row = sensitivity.row("a", 4, [(0.1, 0.0, 92.0), (0.3, 0.25, 80.0)], 92.0, 0.5, ACCURACY)
    assert row.bears is None
    assert facts(drop=20.0).model_copy(update={"rows": [row]}).levels() == {"a": 0.3}


def test_a_drop_is_met_by_what_equals_it() -> None:
    assert facts({"a": (91.5, 91.4, 91.0)}).rows[0].bears == 0.5


def test_where_less_is_better_a_rise_is_the_loss() -> None:
    error = MetricFacts(name="error", unit="mm", higher_is_better=False)
    found = facts({"a": (92.1, 93.0, 150.0)}, error)
    assert found.rows[0].bears == 0.5 and found.rows[0].cells[2].loss == pytest.approx(58.0)
    text = outline(found).text
    assert "+58.00" in text and "Error in mm at each sparsity" in text and "+0.10" in text


def test_written_and_read(tmp_path: Path) -> None:
    page = sensitivity.write(facts(), tmp_path)
    assert page == tmp_path / "sensitivity.html" and sensitivity.read(tmp_path) == facts()
    plain = json.loads((tmp_path / "sensitivity.json").read_text())
    assert plain["rows"][2]["cells"][2] == {"level": 0.9, "reached": 0.9, "value": None, "loss": None}
    for damage in ("{", "[]", "{}", json.dumps(plain | {"rows": 3}), json.dumps(plain | {"format_version": 2})):
        (tmp_path / "sensitivity.json").write_text(damage)
        with pytest.raises(FileError, match=r"sensitivity\.json"):
            sensitivity.read(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        sensitivity.read(tmp_path / "none")


def tiles(found: Sensitivity) -> list[tuple[str, float | None, bool]]:
    """Text, opacity (None: good) and frame of each tile of the picture."""
    made = []
    for kind, rest, text in re.findall(r'<rect class="([a-z ]+)"([^>]*)/><text class="tile"[^>]*>([^<]*)<', sensitivity.picture(found)):
        opacity = re.search(r'fill-opacity="([\d.]+)"', rest)
        made.append((text, float(opacity[1]) if opacity else None, "framed" in kind))
    return made


def test_the_picture_shows_every_cell_the_redder_the_worse() -> None:
    found = tiles(facts())
    assert [text for text, _, _ in found] == "−0.80 −4.00 −52.00 −0.10 −0.60 −0.45 +0.10 −1.00 — −12.00 −22.00 −32.00".split()
    good = [text for text, opacity, _ in found if opacity is None]
    assert good == ["−0.10", "−0.45", "+0.10"]
    assert [text for text, _, framed in found if framed] == ["−0.45", "+0.10"]
    lost = sorted((float(text.replace("−", "-")), opacity) for text, opacity, _ in found if opacity is not None and text != "—")
    assert [opacity for _, opacity in lost] == sorted((o for _, o in lost), reverse=True) and len({o for _, o in lost}) > 6
    (nothing,) = (opacity for text, opacity, _ in found if text == "—")
    assert nothing == lost[0][1], "no score at all is as bad as the worst"


def test_the_picture_when_nothing_is_lost_or_names_are_long() -> None:
    found = facts({"a" * 90 + ".weight": (92.0, 92.0, 92.0)})
    assert [(opacity, framed) for _, opacity, framed in tiles(found)] == [(None, False), (None, False), (None, True)]
    picture = sensitivity.picture(found)
    assert "costs more" not in picture and f"…{'a' * 33}" in picture
    places = [float(x) for x in re.findall(r' x="([-\d.]+)"', picture)]
    assert min(places) >= 0 and max(places) <= 960


def test_the_page_says_it_all_and_needs_nothing() -> None:
    changes = {"left_out": {"out.weight": "its 3 input channels are no multiple of 4"}, "command": "karui sensitivity net -d few"}
    found = outline(facts(**changes))
    for words in (
        "What each layer of net bears",
        "92.00 %",
        "600 samples",
        "blocks.0.conv1",
        "91.55",
        "Accuracy in % at each sparsity",
        "−0.45",
        "90 %",
        "2026-11-24",
    ):
        assert words in found.text, words
    assert "out is left out: its 3 input channels" in found.text and changes["command"] in found.text
    assert not {"script", "link", "img", "iframe"} & set(found.tags) and found.tags.count("svg") == 1
    text = sensitivity.html(facts())
    assert not re.search(r"url\(|@import|https?://", text) and "prefers-color-scheme: dark" in text and "--accent" in text
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and found.tags.count("h1") == 1


def test_the_page_holds_against_hostile_names() -> None:
    evil = "<script>alert(1)</script>"
    text = sensitivity.html(facts({evil: (1.0, 2.0, 3.0)}, name=evil, method=evil, data=evil, command=evil, left_out={evil: evil}))
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("scores", "headline"),
    [
        (SCORES, "Within 0.50 points, one layer at a time: from none of these levels (stem) to 90 % (blocks.0.conv1)"),
        (
            {"a.weight": (92.0, 92.0, 0.0), "b.weight": (92.0, 0.0, 0.0)},
            "Within 0.50 points, one layer at a time: from 50 % (b) to 70 % (a)",
        ),
        ({"a": (92.0, 92.0, 0.0), "b": (92.0, 92.0, 0.0)}, "Within 0.50 points, one layer at a time: every layer bears 70 %"),
        ({"a": (0.0, 0.0, 0.0)}, "No layer bears any of these levels within 0.50 points"),
    ],
)
def test_headline(scores: dict[str, tuple[float | None, ...]], headline: str) -> None:
    assert sensitivity.headline(facts(scores)) == headline


@pytest.mark.parametrize("width", [50, 80, 140])
def test_the_table(width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True, color_system="standard")  # noqa: SIM115
    sensitivity.show(facts(left_out={"out.weight": "its shape"}), console)
    styled = console.export_text(styles=True, clear=False)
    for code, figure in (("32", "91.90"), ("33", "91.20"), ("33", "88.00"), ("31", "40.00"), ("31", "—"), ("32", "91.55")):
        assert re.search(rf"\x1b\[{code}m *{figure}\x1b", styled), figure
    text = console.export_text()
    assert "out is left out: its shape" in text and "92.00 % as it is, on 600 samples" in text
    assert max(map(len, text.splitlines())) <= width and "bears" in text and ("weights" in text) == (width > 50)


def test_levels_that_are_no_shares_are_written_as_they_are() -> None:
    found = facts({"a": (91.9, 91.8, 10.0)}, level="bits")
    found = found.model_copy(update={"rows": [sensitivity.row("a", 10, [(8, 8, 91.9), (4, 4, 91.7), (2, 2, 50.0)], 92.0, 0.5, ACCURACY)]})
    assert sensitivity.headline(found) == "Within 0.50 points, one layer at a time: every layer bears 4"

"""The page holds the record's facts, needs nothing from elsewhere, and stays whole whatever is missing or hostile."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from karui.report import page, record
from tests.report.sample import sample

VOID = {"meta", "link", "br", "hr", "img", "input"}
MINIMAL = {"name": "x", "created": "now", "network": "n", "data": "d", "verdict": {"ok": False}}


class Outline(HTMLParser):
    """Checks that every element is closed in order; collects ids, references and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(facts: dict[str, Any]) -> Outline:
    parser = Outline()
    parser.feed(page.html(facts))
    parser.close()
    assert parser.open == []
    return parser


def test_the_facts_are_on_the_page() -> None:
    found = outline(sample())
    for words in ("20.6× smaller", "2.58× faster", "−0.08 points", "91.39 %", "90.82 to 91.92 %", "84.0 kB", "Inside the budget"):
        assert words in found.text, words
    for facts in (*sample()["candidates"], *sample()["layers"]):
        assert facts["name"] in found.text
    for step in sample()["steps"]:
        assert step["what"] in found.text and step["why"].split("'")[0] in found.text
    assert "karui demo -o runs/demo" in found.text and "avx512_vnni" in found.text


def test_nothing_is_fetched() -> None:
    text = page.html(sample())
    found = outline(sample())
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert all(value and value.startswith("#") for name, value in found.attributes if name in ("href", "src"))
    assert not re.search(r"url\(|@import|https?://", text)


def test_accessible() -> None:
    found = outline(sample())
    assert ("lang", "en") in found.attributes
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(value in ids for name, value in found.attributes if name == "aria-labelledby")
    assert found.tags.count("h1") == 1
    text = page.html(sample())
    assert all('role="img"' in svg and "aria-label" in svg for svg in re.findall(r"<svg[^>]*>", text))
    assert "prefers-color-scheme: dark" in text


def test_a_bare_record_still_makes_a_page() -> None:
    found = outline(MINIMAL)
    assert "Outside the budget" in found.text and "svg" not in found.tags


@pytest.mark.parametrize(
    "key",
    [
        "baseline",
        "final",
        "control",
        "candidates",
        "layers",
        "history",
        "steps",
        "bench",
        "winner",
        "budget",
        "frontier",
        "bits_chosen",
        "exits",
    ],
)
def test_any_part_may_be_missing(key: str) -> None:
    outline({name: value for name, value in sample().items() if name != key})


def test_where_samples_leave_is_told() -> None:
    told = "leave at exits.0, after 256 k MACs; 6.4 % leave at the end, after 2.42 M MACs."
    exits = [{"name": "exits.0", "share": 0.936, "macs": 256_000}, {"name": "the end", "share": 0.064, "macs": 2_420_000}]
    assert told in " ".join(outline(sample() | {"exits": exits}).text.split())
    assert "leave at" not in outline(sample()).text


def test_the_choice_of_bits_is_a_picture() -> None:
    found = outline(sample())
    assert "Bits, layer by layer" in found.text and "chosen: 52 % of the bytes, harm 0.05" in found.text
    assert "Bits, layer by layer" not in outline({name: value for name, value in sample().items() if name != "frontier"}).text


def test_names_can_not_break_out() -> None:
    evil = "<script>alert(1)</script>"
    facts = sample() | {"name": evil, "network": evil, "data": evil, "winner": evil}
    facts["candidates"] = [dict(c, name=evil + str(n), reason=evil) for n, c in enumerate(facts["candidates"])]
    facts["history"] = [dict(p, candidate=evil) for p in facts["history"]]
    facts["layers"] = [dict(layer, name=evil) for layer in facts["layers"]]
    text = page.html(facts)
    assert "<script" not in text and "&lt;script&gt;" in text
    outline(facts)


def test_a_metric_that_falls() -> None:
    facts = sample()
    facts["metric"] = {"name": "mean error", "unit": "mm", "higher_is_better": False}
    found = outline(facts)
    assert "91.39 mm" in found.text and "mean error on validation, mm" in found.text


def test_write(tmp_path: Path) -> None:
    record.write(sample(), tmp_path)
    assert page.write(tmp_path).read_text(encoding="utf-8") == page.html(sample())

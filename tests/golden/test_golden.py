"""Files that older versions of karui wrote must load for ever: one file per format version, and the Program that it holds."""

from pathlib import Path

from karui.program import codec
from tests.golden.every import every
from tests.program.test_codec import same_program


def test_version_1_loads():
    assert same_program(codec.load(Path(__file__).parent / "every-v1.karui"), every())


def test_it_holds_what_todays_version_writes():
    assert same_program(codec.decode(codec.encode(every())), every())

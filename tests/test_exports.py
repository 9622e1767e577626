"""The public names: sorted, all there, and nothing loaded before it is asked for."""

import importlib
import inspect
import subprocess
import sys

import karui


def test_sorted_and_complete() -> None:
    assert karui.__all__ == sorted(karui.__all__)
    assert set(karui.__all__) == {*karui._HOMES, "compress", "__version__"}
    for name in karui.__all__:
        assert getattr(karui, name) is not None, name


def test_each_name_is_at_home_where_it_says() -> None:
    for name, home in karui._HOMES.items():
        assert getattr(karui, name) is getattr(importlib.import_module(home), name)


def test_unknown_name() -> None:
    assert not hasattr(karui, "squeeze")


def test_compress_is_room_and_verb() -> None:
    import karui.compress.technique
    from karui.api import compress

    assert karui.compress.technique.Technique is karui.Technique
    assert callable(karui.compress)
    assert inspect.signature(karui.compress) == inspect.signature(compress)


def test_importing_karui_loads_nothing_heavy() -> None:
    code = (
        "import sys, karui; karui.Budget(drop=1); karui.compress; "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"

"""What may stand in names and labels: they come from files and from users, and reach source code, terminals and paths."""

from typing import Any

LONGEST = 256  # characters


def is_label(text: Any) -> bool:
    """True for a text, empty or not, that could not start a new line, hide, or be no Unicode."""
    return isinstance(text, str) and len(text) <= LONGEST and text.isprintable()


def is_name(text: Any) -> bool:
    """True for a label that isn't empty."""
    return is_label(text) and text != ""


def is_file_name(text: Any) -> bool:
    """True for a name that is one component of a path, here and on any other machine."""
    return is_name(text) and text not in (".", "..") and not any(c in text for c in "/\\")

"""``python -m karui`` is ``karui``."""

from karui.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The rules of the house that no linter knows: no source file is longer than a person reads in one sitting."""

import subprocess
import sys
from pathlib import Path

LONGEST = 400
KINDS = {".py", ".c", ".h"}
ROOT = Path(__file__).parents[1]


def sources() -> list[Path]:
    """The source files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    paths = (ROOT / name for name in listed.stdout.splitlines())
    return sorted(path for path in paths if path.suffix in KINDS and path.is_file())


def too_long(paths: list[Path]) -> list[str]:
    """One line for each file over the limit."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return [f"{path.relative_to(ROOT)}: {n} lines, over {LONGEST}; split it by subject" for path, n in lengths.items() if n > LONGEST]


def main() -> int:
    """Print what breaks the rules; exit code 1 if anything does."""
    broken = too_long(sources())
    print("\n".join(broken) or f"no source file has more than {LONGEST} lines", file=sys.stderr if broken else sys.stdout)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())

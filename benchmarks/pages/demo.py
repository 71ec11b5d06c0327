"""The README's picture of the demo's page: `python -m benchmarks.pages.demo` runs the demo and photographs the page."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from benchmarks.pages import browser
from fsfast.cli import main as fsfast
from fsfast.files import write_whole

PICTURE = Path(__file__).parents[2] / "docs" / "demo.png"
# One of each: the README tells the rest.
_LEFT_OUT = (
    "header, section:nth-of-type(n+4), section:nth-of-type(n+2) > p, .case ~ *, .card:nth-of-type(n+3), table, details"
    "{ display: none !important }"
    "body { padding-block: 1rem } section:first-child { margin-top: 0 } section { margin-top: 2rem }"
)
_WIDTH, _MOST = 800, 2400


def photograph(page: Path, target: Path) -> None:
    """Write a PNG of the page's beginning, in light colours, as high as what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        shown, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        text = page.read_text(encoding="utf-8")
        shown.write_text(text.replace("</head>", f"<style>{_LEFT_OUT}</style></head>"), encoding="utf-8")
        size = (f"--window-size={_WIDTH},{_MOST}", "--force-device-scale-factor=2")
        browser.run(f"--screenshot={shot}", *size, shown.as_uri())
        with Image.open(shot) as opened:
            image = opened.convert("RGB")
    below = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert below, "the page is empty"
    buffer = io.BytesIO()
    image.crop((0, 0, image.width, below[3] + 32)).quantize(256).save(buffer, "PNG", optimize=True)
    write_whole(target, buffer.getvalue())


def main() -> int:
    """Run the demo and photograph its page."""
    with tempfile.TemporaryDirectory() as folder:
        if code := fsfast(["demo", "-o", folder]):
            return code
        photograph(Path(folder) / "demo.html", PICTURE)
    print(f"→ {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The demo's page and the site of the documents in a browser: `make browser`. Skipped where there is no Chromium."""

from __future__ import annotations

import html
import json
import re
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.pages import browser
from fsfast.report.page import render_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason="there is no Chromium"),
]
SITE = Path(__file__).parents[2] / "build" / "site"
# Telephones, a tablet, a desk.
WIDTHS = (360, 390, 430, 768, 1280)
# Windows have a least width; frames have none. What is folded is opened, so that it is looked at, too.
_LOOK = """<!DOCTYPE html><meta charset="utf-8"><title>frames</title>
%s
<pre id="found"></pre>
<script>
const name = e => e.tagName + " " + (e.textContent || "").trim().slice(0, 40);
function look(frame) {
  const {innerWidth: width, document: page} = frame.contentWindow;
  page.querySelectorAll("details").forEach(e => { e.open = true; });
  const all = [...page.body.querySelectorAll("*")].filter(e => e.getClientRects().length);
  const box = e => e.getBoundingClientRect();
  const size = e => parseFloat(frame.contentWindow.getComputedStyle(e).fontSize)
    * (e.getScreenCTM ? Math.abs(e.getScreenCTM().a) || Math.abs(e.getScreenCTM().b) : 1);
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return {
    page: frame.dataset.page, width,
    scrolls: page.documentElement.scrollWidth > width,
    outside: all.filter(e => box(e).width && (box(e).right > width + 1 || box(e).left < -1)).map(name),
    small: all.filter(e => says(e) && size(e) < 11).map(e => `${size(e)} ${name(e)}`),
    untappable: all.filter(e => e.tagName === "SUMMARY" && box(e).height < 44).map(name),
    charts: page.querySelectorAll("svg.chart").length,
  };
}
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(look);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


def looked_at(folder, pages, widths):
    """Open pages of a folder at several widths; return what is seen of each."""
    frames = [
        f'<iframe data-page="{page}" src="/{page}" width="{width}" height="844" style="border: 0"></iframe>'
        for page in pages
        for width in widths
    ]
    (folder / "frames.html").write_text(_LOOK % "\n".join(frames), encoding="utf-8")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            seen = browser.run("--dump-dom", f"http://127.0.0.1:{server.server_port}/frames.html")
        finally:
            server.shutdown()
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', seen, re.DOTALL)[1]))
    assert len(found) == len(frames)
    return found


def test_the_page_fits_every_screen(result, tmp_path):
    long = "a_name_without_a_place_to_break_it_" * 3
    first = result.cases[0]
    seen = replace(first.attack.seen, names=("hippopotamus " * 3, long, *first.attack.seen.names[2:]))
    attack = replace(first.attack, seen=seen, target=seen.names[0])
    strange = replace(first, name=f"{long}.jpg", label=long, seen=seen, attack=attack)
    for name, shown in (
        ("page.html", result),
        ("long.html", replace(result, cases=(strange, *result.cases[1:]), processor=long)),
    ):
        (tmp_path / name).write_text(render_page(shown), encoding="utf-8")
    for found in looked_at(tmp_path, ("page.html", "long.html"), WIDTHS):
        assert found["charts"] == 10
        for fault in ("scrolls", "outside", "small", "untappable"):
            assert not found[fault], (found["page"], found["width"], fault, found[fault])


@pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: make docs")
def test_the_site_fits_every_screen(tmp_path):
    (tmp_path / "site").symlink_to(SITE)
    pages = [f"site/{page.name}" for page in sorted(SITE.glob("*.html"))]
    for found in looked_at(tmp_path, pages, (360, 1280)):
        assert not found["scrolls"], (found["page"], found["width"])

"""The page for people and the page of routes: what they load, and the first of them in a browser."""

from __future__ import annotations

import base64
import io
import json
import queue
import re
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from benchmarks.pages import browser


def answer_of(url, body=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read(), answer.headers


def test_a_sample_shows_noise_and_purifier(server, encoder, photograph):
    image = base64.b64encode(photograph.read_bytes()).decode()
    seen = [json.loads(answer_of(f"{server.url}/v1/samples", {"image": image})[0]) for _ in range(2)]
    grid, noisy, purified = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(seen[0][name])))).astype(int)
        for name in ("grid", "noisy", "purified")
    )
    np.testing.assert_array_equal(grid, encoder.prepare(str(photograph)).pixels)
    assert np.std(noisy - grid) > 2 * np.std(purified - grid)
    # Never noise of what is served: each time it is another.
    assert seen[0]["noisy"] != seen[1]["noisy"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_nothing_from_another_host(server, path):
    content, headers = answer_of(server.url + path)
    text = content.decode()
    assert "default-src 'self'" in headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert loaded
    assert not [target for target in loaded if "//" in target]
    for target in loaded:
        if not target.startswith("data:"):
            answer_of(f"{server.url}/{target}")


# What a person does, and what the page shows then.
_VISIT = """<!DOCTYPE html><meta charset="utf-8"><title>visit</title>
<iframe id="page" src="/" width="390" height="844"></iframe>
<script>
const until = async shown => { while (!shown()) await new Promise(done => setTimeout(done, 50)); };
addEventListener("load", async () => {
  const frame = document.getElementById("page"), page = frame.contentDocument, at = id => page.getElementById(id);
  await until(() => at("model").value);
  at("samples").value = "100";
  const file = await (await fetch("/picture")).blob(), moved = new DataTransfer();
  moved.items.add(new File([file], "picture.jpg"));
  const curves = new Set();
  new MutationObserver(() => curves.add(at("chart").innerHTML)).observe(at("chart"), {childList: true});
  at("file").files = moved.files;
  at("file").dispatchEvent(new Event("change"));
  await until(() => !at("download").hidden || !at("message").hidden);
  const all = [...page.body.querySelectorAll("*")].filter(e => e.getClientRects().length);
  const certificate = await (await fetch(at("download").href)).text();
  const seen = {
    message: at("message").textContent,
    pictures: ["grid", "noisy", "purified"].map(id => at(id).naturalWidth),
    sigma: at("sigma").textContent,
    name: at("name").textContent,
    kept: at("kept").textContent,
    curves: curves.size,
    caption: at("caption").textContent,
    certificate,
    scrolls: page.documentElement.scrollWidth > frame.clientWidth,
    small: all.filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.tagName),
    untappable: all.filter(e => ["BUTTON", "SELECT", "A"].includes(e.tagName)
      && e.getBoundingClientRect().height < 43).map(e => e.outerHTML),
  };
  await fetch("/found", {method: "POST", body: JSON.stringify(seen)});
});
</script>
"""


def visited(server, picture):
    """Open the page in a browser, give it a picture, and return what it shows in the end.

    The visit and the server's page have one origin: what is not of the visit is passed on.
    """

    found: queue.Queue[dict] = queue.Queue()

    class Between(BaseHTTPRequestHandler):
        def do_GET(self):
            own = {"/visit": ("text/html", _VISIT.encode()), "/picture": ("image/jpeg", picture)}
            if self.path in own:
                kind, content = own[self.path]
                self.reply(200, {"content-type": kind}, content)
            else:
                self.pass_on(None)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/found":
                found.put(json.loads(body))
                self.reply(200, {}, b"")
            else:
                self.pass_on(body)

        def pass_on(self, body):
            headers = {"content-type": self.headers.get("content-type", "")}
            request = urllib.request.Request(server.url + self.path, data=body, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    self.reply(answer.status, answer.headers, answer.read())
            except urllib.error.HTTPError as error:
                self.reply(error.code, error.headers, error.read())

        def reply(self, status, headers, content):
            self.send_response(status)
            for name in ("content-type", "content-security-policy"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Between) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        try:
            with browser.showing(f"http://127.0.0.1:{between.server_port}/visit"):
                return found.get(timeout=120)
        finally:
            between.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="there is no Chromium")
def test_a_person_gets_pictures_a_class_and_a_certificate(server, encoder, files, tmp_path):
    import fsfast

    found = visited(server, files[0])
    assert found["message"] == ""
    assert found["pictures"] == [64, 64, 64]
    assert found["sigma"] == "0.25"
    assert found["curves"] >= 2
    assert "100 samples" in found["caption"]
    (tmp_path / "certificate.json").write_text(found["certificate"], encoding="utf-8")
    certificate = fsfast.load_certificate(tmp_path / "certificate.json")
    assert encoder.verify(certificate, files[0])
    served = encoder.encode(files[0])
    assert found["name"] == certificate.predict(encoder.classes, served=served).name
    for fault in ("scrolls", "small", "untappable"):
        assert not found[fault], (fault, found[fault])


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="there is no Chromium")
def test_a_person_is_told_what_is_wrong_with_a_file(server):
    assert "no image" in visited(server, b"no image")["message"]

"""What the demo shows: numbers and pictures gathered from an encoder, charts, and a page in one HTML file.

`data` needs nothing but the runtime; `charts` and `page` need matplotlib (the extra `plot`).
"""

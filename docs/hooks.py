"""What the site adds to the folder of documents: pages that lie elsewhere, and a look at what they would load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Page of the site → file of the repository.
ELSEWHERE = {
    "index.md": "README.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "model-card.md": "fsfast/assets/engines/demo/model-card.md",
}
# Two pictures of which the reader's system chooses one.
_PICTURE = re.compile(
    r"<picture>\s*<source media=\"\(prefers-color-scheme: dark\)\" srcset=\"([^\"]+)\">\s*"
    r"<img alt=\"([^\"]+)\" src=\"([^\"]+)\">\s*</picture>"
)
_LOADED = re.compile(
    r"<(?:script|img|source|iframe|link rel=\"stylesheet\")[^>]*\b(?:src|srcset|href)=\"((?:https?:)?//[^\"]*)"
)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links lead to pages of the site, wherever the file lies in the repository, and pictures follow its switch."""
    if page.file.src_uri in ELSEWHERE:
        markdown = re.sub(r"(\]\(|=\")docs/", r"\1", markdown)
    for target, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../../{source}", f"](../{target}").replace(
            f"](../{source}", f"]({target}"
        )
    return _PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", markdown)


def on_post_build(config: Any) -> None:
    """Refuse a page that would load something from another host."""
    for path in Path(config["site_dir"]).rglob("*.html"):
        if found := _LOADED.search(path.read_text(encoding="utf-8")):
            raise SystemExit(f"{path}: loads {found[1]}; keep it in docs/")

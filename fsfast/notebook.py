"""Results as HTML for a notebook: text that is other people's becomes text, colours are the notebook's own."""

from __future__ import annotations

import html
from collections.abc import Mapping

from fsfast.errors import printable


def escape(text: str) -> str:
    """Return text as HTML; characters that turn its direction or mean nothing there are shown as numbers."""
    return html.escape(printable(text))


def facts(title: str, rows: Mapping[str, str], below: str = "") -> str:
    """Return a table of names and values.

    Args:
        title: its caption.
        rows: name → value.
        below: HTML that follows the table. All else is escaped here.
    """
    body = "".join(
        f'<tr><th scope="row" style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left; overflow-wrap: anywhere">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    # A table in a page without a doctype takes no colour from around it unless it is told to.
    return (
        f'<div><table style="color: inherit; font: inherit"><caption style="text-align: left">{escape(title)}</caption>'
        f"<tbody>{body}</tbody></table>{below}</div>"
    )

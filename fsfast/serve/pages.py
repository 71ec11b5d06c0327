"""What a browser shows: a page for people at /, and the routes at /docs. Nothing comes from another host."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_PAGE = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
# Swagger UI starts itself by a script in the page.
_DOCS = f"{_PAGE}; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"


def add_pages(app: FastAPI) -> None:
    """Add both pages, and the files that they need, to an application."""
    app.mount("/page", StaticFiles(packages=[("fsfast.serve", "page")]))
    app.mount("/swagger", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/docs", _docs, include_in_schema=False)


async def _page() -> HTMLResponse:
    text = resources.files("fsfast.serve").joinpath("page", "index.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": _PAGE})


async def _docs() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="fsfast",
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page.headers["content-security-policy"] = _DOCS
    return page

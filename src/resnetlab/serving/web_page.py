"""The pages for browsers: the web page at `/`, and the API documentation at `/docs`.

The web page is one document that loads nothing else, with a content security policy that only allows requests to this
server. The API documentation is Swagger UI, from the files of the package `fastapi-swagger`. All addresses are
relative, so that both also work behind a proxy that publishes the server under a path.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, FastAPI, Response

DOCS_HTML = b"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>resnetlab: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
DOCS_SCRIPT = b'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", validatorUrl: null, deepLinking: true})\n'
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""`unsafe-inline`: Swagger UI sets the style of single elements."""
NO_CACHE = {"cache-control": "no-cache"}
CACHE_ONE_HOUR = {"cache-control": "public, max-age=3600"}


class WebPage(NamedTuple):
    """The web page and its policy."""

    html: bytes
    """UTF-8."""
    policy: str
    """Value of `Content-Security-Policy`: the inline script and style by hash, images, and requests to this server."""


@cache
def build_web_page() -> WebPage:
    """Return the web page, assembled from the files in `web/` and the stylesheet that all pages of resnetlab share."""
    style = _read("resnetlab", "html_style.css") + _read("resnetlab.serving", "web/page.css")
    script = _read("resnetlab.serving", "web/api.js") + "\n" + _read("resnetlab.serving", "web/page.js")
    html = _read("resnetlab.serving", "web/page.html").replace("/* style */", style).replace("/* script */", script)
    directives = {
        "default-src": "'none'",
        "script-src": _hash_source(script),
        "style-src": _hash_source(style),
        "img-src": "data: blob:",  # overlays, and the images that the user selected
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return WebPage(html.encode(), "; ".join(f"{name} {value}" for name, value in directives.items()))


def install_pages(app: FastAPI) -> None:
    """Add the routes of both pages to an application."""
    page = build_web_page()
    router = APIRouter(include_in_schema=False)
    routes = {
        "/": (page.html, "text/html", {"content-security-policy": page.policy, **NO_CACHE}),
        "/docs": (DOCS_HTML, "text/html", {"content-security-policy": DOCS_POLICY, **NO_CACHE}),
        "/docs/start.js": (DOCS_SCRIPT, "text/javascript", CACHE_ONE_HOUR),
        "/docs/swagger-ui-bundle.js": (_swagger_file("swagger-ui-bundle.js"), "text/javascript", CACHE_ONE_HOUR),
        "/docs/swagger-ui.css": (_swagger_file("swagger-ui.css"), "text/css", CACHE_ONE_HOUR),
    }
    for path, (content, media_type, headers) in routes.items():
        router.add_api_route(path, _static_handler(content, media_type, headers), methods=["GET", "HEAD"])
    app.include_router(router)


def _static_handler(content: bytes, media_type: str, headers: dict[str, str]):  # noqa: ANN202
    async def handler() -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return handler


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")


def _swagger_file(name: str) -> bytes:
    return files("fastapi_swagger").joinpath("resources", name).read_bytes()


def _hash_source(text: str) -> str:
    """Return the CSP source expression that allows an inline element with exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

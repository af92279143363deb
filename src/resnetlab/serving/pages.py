"""What browsers are shown: the page for people, and the API's description. Nothing is loaded from anywhere else."""

from importlib.resources import files

from fastapi import APIRouter, FastAPI, Response

from resnetlab.serving.webpage import web_page

DOCS = b"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>resnetlab: the API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
START = b'SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", validatorUrl: null, deepLinking: true})\n'
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles of single elements."""
FRESH = {"cache-control": "no-cache"}
LASTING = {"cache-control": "public, max-age=3600"}


def install_pages(app: FastAPI) -> None:
    """Serve the pages: `/`, and `/docs` by Swagger UI, whose files come with the package `fastapi-swagger`."""
    page, policy = web_page()
    router = APIRouter(include_in_schema=False)
    shown = {
        "/": (page, "text/html", {"content-security-policy": policy, **FRESH}),
        "/docs": (DOCS, "text/html", {"content-security-policy": DOCS_POLICY, **FRESH}),
        "/docs/start.js": (START, "text/javascript", LASTING),
        "/docs/swagger-ui-bundle.js": (_swagger("swagger-ui-bundle.js"), "text/javascript", LASTING),
        "/docs/swagger-ui.css": (_swagger("swagger-ui.css"), "text/css", LASTING),
    }
    for path, (content, kind, headers) in shown.items():
        router.add_api_route(path, _constant(content, kind, headers), methods=["GET", "HEAD"])
    app.include_router(router)


def _constant(content: bytes, kind: str, headers: dict[str, str]):  # noqa: ANN202
    async def show() -> Response:
        return Response(content, media_type=kind, headers=headers)

    return show


def _swagger(name: str) -> bytes:
    return files("fastapi_swagger").joinpath("resources", name).read_bytes()

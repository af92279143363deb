"""The page for people as one document: it loads nothing, and its policy lets it do nothing but ask this server."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class WebPage(NamedTuple):
    """A page and the policy that it is served with."""

    html: bytes
    """UTF-8."""
    policy: str
    """The value of `Content-Security-Policy`: this script and this style by their hashes, pictures, and answers."""


@cache
def web_page() -> WebPage:
    """Put the page together from the files beside this one and the style of all our pages."""
    style = _text("resnetlab", "html_style.css") + _text("resnetlab.serving", "web/page.css")
    script = _text("resnetlab.serving", "web/api.js") + "\n" + _text("resnetlab.serving", "web/page.js")
    html = _text("resnetlab.serving", "web/page.html").replace("/* style */", style).replace("/* script */", script)
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data: blob:",  # overlays, and the pictures somebody has chosen
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return WebPage(html.encode(), "; ".join(f"{kind} {source}" for kind, source in rules.items()))


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the source by which a policy allows an inline element of this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

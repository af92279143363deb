"""Check the built HTML: every internal link must lead to an existing page, file or anchor.

python docs/_ext/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and links of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect `id`, `name`, `href` and `src`."""
        for key, value in attrs:
            if value is None:
                continue
            if key == "id" or (tag == "a" and key == "name"):
                self.anchors.add(value)
            elif key in ("href", "src") and tag in ("a", "img"):
                self.links.append(value)


def broken_links(root: Path) -> list[str]:
    """Return one line for each internal link that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            known = (
                pages.get(root / target.relative_to(root.resolve())) if target.is_relative_to(root.resolve()) else None
            )
            if not target.exists():
                broken.append(f"{path.relative_to(root)}: {link}: no such file")
            elif known and unquote(parts.fragment) not in known.anchors:
                broken.append(f"{path.relative_to(root)}: {link}: no such anchor")
    return broken


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print("\n".join(found) or "all internal links lead somewhere", file=sys.stderr if found else sys.stdout)
    sys.exit(bool(found))

"""Sphinx configuration of the documentation; `make docs` builds it."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.ext.napoleon import GoogleDocstring  # noqa: E402

from resnetlab import __version__  # noqa: E402

# Napoleon reads "word: text" below a field as "type: description". Our fields have their types in the signature.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end

project = "resnetlab"
author = "The resnetlab authors"
copyright = "2026, the resnetlab authors"  # noqa: A001
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api_reference",
    "cli_reference",
]
exclude_patterns = ["_build", "_ext"]
default_role = "literal"  # `name` in a docstring is code
nitpicky = True
nitpick_ignore_regex = [  # types of other packages and of private modules: they have no page here
    ("py:.*", r"(?!resnetlab\.).*"),
    ("py:.*", r"resnetlab\.\w+\..*"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Paper", "notes_style"), ("Differs", "notes_style")]

locale_dirs = ["locales"]
gettext_compact = False
gettext_uuid = False

html_theme = "furo"
html_title = f"resnetlab {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
copybutton_prompt_text = "$ "


def mark_short_literals(app: Sphinx, doctree: nodes.document) -> None:
    """Add the class `short` to literals that fit on a phone's line; tables.css keeps them on one line."""
    for literal in doctree.findall(nodes.literal):
        if len(literal.astext()) <= 32:
            literal["classes"].append("short")


def setup(app: Sphinx) -> None:
    """Connect the event handlers."""
    app.connect("doctree-read", mark_short_literals)

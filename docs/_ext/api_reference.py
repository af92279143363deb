"""Sphinx directive `api-reference`: everything in `resnetlab.__all__`, grouped by the package that defines it."""

import inspect

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import resnetlab

GROUPS = {
    "models": "Networks",
    "config": "Configuration",
    "data": "Data",
    "training": "Training",
    "evaluation": "Evaluation",
    "inference": "Prediction",
    "export": "Export",
    "serving": "Serving",
    "planning": "Planning",
    "study": "Studies",
    "literature": "Published results",
}
"""Package to heading, in the order of the page."""
OTHER = "Other"


def grouped() -> dict[str, list[str]]:
    """Return the public names under the heading of the package that defines them."""
    groups: dict[str, list[str]] = {heading: [] for heading in (*GROUPS.values(), OTHER)}
    for name in resnetlab.__all__:
        if name.startswith("__"):
            continue
        module = inspect.getmodule(getattr(resnetlab, name))
        package = module.__name__.split(".")[1] if module and module.__name__.startswith("resnetlab.") else ""
        package = "config" if package in ("recipe_config", "serialization") else package  # ConfigError is of the latter
        groups[GROUPS.get(package, OTHER)].append(name)
    return {heading: names for heading, names in groups.items() if names}


def reference(name: str) -> list[str]:
    """Return the directive that documents one public name, as lines of reStructuredText."""
    item = getattr(resnetlab, name)
    if inspect.ismodule(item):  # `study`, a package and a function
        return [f".. autofunction:: resnetlab.{name}.api.{name}"]
    if inspect.isclass(item):
        lines = [f".. autoclass:: resnetlab.{name}", "   :members:"]
        return [*lines, "   :show-inheritance:"] if issubclass(item, Exception) else lines
    if callable(item):
        return [f".. autofunction:: resnetlab.{name}"]
    return [f".. autodata:: resnetlab.{name}"]


class ApiReference(SphinxDirective):
    """Render the public API, a section for each group."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return one section for each group."""
        lines: list[str] = []
        for heading, names in grouped().items():
            lines += [heading, "-" * len(heading), ""]
            for name in names:
                lines += [*reference(name), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("api-reference", ApiReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx: docstrings are in its notation; pages in Markdown. ``make docs`` runs it on what ``build.py`` writes."""

from importlib import import_module

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

project = "seqconv"
author = "the seqconv authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns: list[str] = []
suppress_warnings = ["ref.python"]  # fields of tuples share their names: which one is meant does not matter

html_theme = "furo"
html_title = "seqconv"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# A method of a registry under a name of its own: autodoc takes its first argument for ``self``.
autodoc_default_options = {"show-inheritance": True, "exclude-members": "register_2d"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100

LOG = logging.getLogger(__name__)
PACKAGES = ("seqconv", "seqconv_kernels", "lra", ".")


def setup(app: Sphinx) -> None:
    """Follow names that a package passes on, and make roles that lead nowhere an error."""
    app.connect("missing-reference", _resolve)


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Only roles in texts have to lead somewhere: annotations name many packages."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(PACKAGES):
        return None
    if target.startswith("."):
        target = _absolute(target, node.get("py:module") or "seqconv")
    defined = _defined_as(target)
    if defined not in (None, target):
        domain = env.domains.python_domain
        found = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", str(defined), node, content)
        if found is not None:
            return found
    if defined is None and isinstance(content, nodes.literal):
        LOG.warning("no %s %r", node["reftype"], target, location=node, type="ref")
    return content


def _absolute(target: str, module: str) -> str:
    """A name after dots as seen from a module: in its package, or in one around it."""
    packages = module.split(".")
    names = [".".join(packages[:depth]) + target for depth in range(len(packages), 0, -1)]
    return next((name for name in names if _defined_as(name) is not None), names[0])


def _defined_as(target: str) -> str | None:
    """Where an importable name is defined: packages pass on functions and classes of their modules."""
    module, _, name = target.rpartition(".")
    try:
        value = getattr(import_module(module), name, None) if module else None
        if value is None:
            return import_module(target).__name__
    except ImportError:
        return None
    where = getattr(value, "__module__", None)
    return f"{where}.{value.__qualname__}" if where and hasattr(value, "__qualname__") else target

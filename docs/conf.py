# conf.py - how Sphinx builds the site out of these pages; `nox -s docs` calls it.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.ext.autodoc.mock import mock
from sphinx.util.logging import getLogger

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

logger = getLogger(__name__)

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "t5bucket"
author = "The t5bucket developers"
project_copyright = author
version = release = version_of("t5bucket")

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx_copybutton"]
nitpicky = True

# ---- docstrings ----

MODULES = ("dask", "jax", "plot", "torch", "transformers")
PUBLIC = re.compile(r"[^_]|__call__$")
autodoc_mock_imports = ["dask", "jax", "onnxscript", "torch", "transformers"]
autodoc_typehints = "none"  # the sections of a docstring say more
default_role = "autolink"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"

# ---- Markdown, and the pages that draw pictures ----

myst_enable_extensions = ["alert", "dollarmath"]
myst_heading_anchors = 4  # the anchors that a repository's viewer makes
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_merge_streams = True

os.environ["MATPLOTLIBRC"] = str(DOCS / "matplotlibrc")
profile = Path(tempfile.mkdtemp(prefix="ipython-"), "profile_default")
profile.mkdir()
(profile / "ipython_kernel_config.py").write_text(
    "c.InlineBackend.figure_formats = ['svg']\nc.Application.log_level = 'ERROR'\n"
    "c.InteractiveShell.ast_node_interactivity = 'none'\n",  # no last values
    encoding="utf-8",
)
os.environ["IPYTHONDIR"] = str(profile.parent)  # a reader's own settings change no picture

# ---- HTML ----

html_theme = "pydata_sphinx_theme"
html_title = project
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_exclude = ".go, .gp, .gr, .gt, .linenos"  # of a session, only what is typed
html_copy_source = False
html_sidebars = {"*": [], "*/*": ["sidebar-nav-bs"]}  # pages outside of rooms have no neighbours
html_theme_options = {
    "footer_end": [],
    "footer_start": ["copyright"],
    "header_links_before_dropdown": 7,
    "logo": {"text": project},
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_toc_level": 2,
}

# ---- documents of the repository's root, which are pages too ----

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
PICTURE = re.compile(r"^(```\{code-cell\} python\n)# Picture: ((?:.*\n)(?:# .*\n)*)", re.MULTILINE)
NOTEBOOK = "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n"


def lead_links(text: str, home: Path, folder: Path) -> str:
    """Lead relative links of a document in one folder to what a page in another one sees."""

    def lead(found: re.Match[str]) -> str:
        target, mark, anchor = found[1].partition("#")
        path = Path(os.path.normpath(home / target))
        if path.parent == ROOT and path.name in PAGES:
            path = DOCS / PAGES[path.name]
        return f"]({os.path.relpath(path, folder)}{mark}{anchor})"

    return re.sub(r"\]\((?!#|\w+:)([^\s()]+)\)", lead, text)


def make_toctree(text: str) -> str:
    """Make the navigation out of the list of pages that an index shows."""
    entries = [
        f"{title} <{target}>"
        for title, target in re.findall(r"^- \[(.+?)\]\(([^)]+)\.md\)", text, re.MULTILINE)
    ]
    return "\n".join(["\n```{toctree}", ":hidden:\n", *entries, "```\n"]) if entries else ""


def describe_picture(found: re.Match[str]) -> str:
    """Make the comment at the top of a cell the description of its picture."""
    description = json.dumps(found[2].replace("\n# ", " ").strip())
    return f"{found[1]}---\nmystnb: {{image: {{alt: {description}}}}}\n---\n"


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Insert documents, lead links to pages, describe pictures, say which pages have cells."""
    folder = (DOCS / docname).parent

    def include(found: re.Match[str]) -> str:
        path = folder.joinpath(found[1]).resolve()
        app.env.note_dependency(str(path))
        return lead_links(path.read_text(encoding="utf-8"), path.parent, folder)

    text = lead_links(source[0], folder, folder)
    if Path(docname).name == "index":
        text += make_toctree(text)
    text = re.sub(r"^```\{include\} (\S+)\n```$", include, text, flags=re.MULTILINE)
    text = PICTURE.sub(describe_picture, text)
    source[0] = NOTEBOOK * ("\n```{code-cell}" in text) + text


# ---- docstrings on pages ----


def number_citations(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Show the numbers of references, as docstrings have them, without numpydoc's prefix."""
    for text in document.findall(nodes.Text):
        if found := re.fullmatch(r"\[R[0-9a-f]{11,}-(\d+)\]", text):
            text.parent.replace(text, nodes.Text(f"[{found[1]}]"))


def list_names() -> Iterator[str]:
    """List every public name: what modules export, and what classes show."""
    for module_name in ("t5bucket", *(f"t5bucket.{name}" for name in MODULES)):
        with mock(autodoc_mock_imports):
            module = import_module(module_name)
        for name in module.__all__:
            yield f"{module_name}.{name}"
            value = getattr(module, name)
            if isinstance(value, type):
                members = [member for member in vars(value) if PUBLIC.match(member)]
                yield from (f"{module_name}.{name}.{member}" for member in members)


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page of the reference describes."""
    described = env.get_domain("py").objects
    for name in list_names():
        if name not in described:
            logger.warning("%s must have an entry in docs/reference", name)


def setup(app: Sphinx) -> None:
    """Let Sphinx call what this file defines."""
    app.connect("doctree-resolved", number_citations)
    app.connect("env-check-consistency", check_names)
    app.connect("source-read", read_source)

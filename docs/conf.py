# conf.py - how Sphinx builds the site out of these pages; `nox -s docs` calls it.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "t5bucket"
author = "The t5bucket developers"
project_copyright = author
version = release = version_of("t5bucket")

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx_copybutton"]
nitpicky = True

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
)
os.environ["IPYTHONDIR"] = str(profile.parent)  # a reader's own settings change no picture

# ---- HTML ----

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 6,
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


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Insert included documents, lead links to pages, and say which pages have cells to run."""
    folder = (DOCS / docname).parent

    def include(found: re.Match[str]) -> str:
        path = folder.joinpath(found[1]).resolve()
        app.env.note_dependency(str(path))
        return lead_links(path.read_text(encoding="utf-8"), path.parent, folder)

    text = lead_links(source[0], folder, folder)
    if Path(docname).name == "index":
        text += make_toctree(text)
    text = re.sub(r"^```\{include\} (\S+)\n```$", include, text, flags=re.MULTILINE)
    source[0] = NOTEBOOK * ("\n```{code-cell}" in text) + text


def setup(app: Sphinx) -> None:
    """Let Sphinx call what this file defines."""
    app.connect("source-read", read_source)

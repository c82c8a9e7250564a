# check_release.py - refuses a release while an address, a date or a version is missing.
# SPDX-License-Identifier: BSD-3-Clause
"""List what is still missing; exit with 1 if anything is.

    python tools/check_release.py
    python tools/check_release.py --tag v1.2.3 --repository OWNER/t5bucket

The workflow of releases runs the second form. RELEASING.md says what to fill in.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACEHOLDER = "OWNER"
LABELS = ["Changelog", "Documentation", "Issues", "Repository"]  # of [project.urls]
HAVE_ADDRESS = [
    "CITATION.cff", "README.md", "RELEASING.md", "docs/conf.py", "packaging/conda/recipe.yaml",
]  # fmt: skip
FROM_CHECKOUT = "pip install '.["
RELATIVE_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def find_missing_addresses(root: Path, project: dict[str, Any], repository: str) -> Iterator[str]:
    """Find places without the repository's address."""
    urls = project.get("urls", {})
    for label in LABELS:
        if not urls.get(label):
            yield f"pyproject.toml must have {label} in [project.urls]"
    address = urls.get("Repository", "").rstrip("/")
    if repository and address != f"https://github.com/{repository}":
        yield f"Repository in [project.urls] must be of {repository}, got {address!r}"
    for name in ["pyproject.toml", *HAVE_ADDRESS]:
        text = (root / name).read_text(encoding="utf-8")
        if not address or address not in text or PLACEHOLDER in text:
            yield f"{name} must have the repository's address, and no {PLACEHOLDER}"
    readme = (root / "README.md").read_text(encoding="utf-8")
    if links := RELATIVE_LINK.findall(readme):
        yield f"README.md must have no relative links, for PyPI, got {len(links)}: {links[0]} ..."
    if "pip install t5bucket" not in readme:
        yield "README.md must say: pip install t5bucket"
    for path in sorted(root.glob("docs/**/*.md")):
        if FROM_CHECKOUT in path.read_text(encoding="utf-8"):
            yield f"{path.relative_to(root).as_posix()} must install from PyPI, not {FROM_CHECKOUT}"


def find_wrong_versions(root: Path, version: str, tag: str) -> Iterator[str]:
    """Find places that do not have the version."""
    if tag and tag != f"v{version}":
        yield f"the tag must be v{version}, got {tag}"
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    ):
        yield f"CHANGELOG.md must have a section of {version} with its date"
    recipe = (root / "packaging/conda/recipe.yaml").read_text(encoding="utf-8")
    if f'version: "{version}"' not in recipe:
        yield f"packaging/conda/recipe.yaml must have version {version}"


def main() -> int:
    """Print what is missing; return the exit code."""
    parser = argparse.ArgumentParser(description="Refuse a release while something is missing.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--tag", default="", help="the release's tag")
    parser.add_argument("--repository", default="", help="OWNER/NAME")
    options = parser.parse_args()
    text = (options.root / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    missing = [
        *find_wrong_versions(options.root, project["version"], options.tag),
        *find_missing_addresses(options.root, project, options.repository),
    ]
    print(*missing or ["everything is filled in"], sep="\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())

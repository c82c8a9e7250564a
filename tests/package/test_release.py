# test_release.py - what tools/check_release.py finds missing before a release.
# SPDX-License-Identifier: BSD-3-Clause
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tools" / "check_release.py"
ADDRESS = "https://github.com/someone/t5bucket"
FILLED_IN = {
    "pyproject.toml": f"""[project]
version = "1.2.3"
[project.urls]
Changelog = "{ADDRESS}/blob/main/CHANGELOG.md"
Documentation = "https://someone.github.io/t5bucket"
Issues = "{ADDRESS}/issues"
Repository = "{ADDRESS}"
""",
    "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2026-01-02\n",
    "CITATION.cff": f"repository-code: {ADDRESS}\n",
    "README.md": f"pip install t5bucket\n[Trust]({ADDRESS}/docs/trust.md), [above](#top)\n",
    "RELEASING.md": f"pypi-attestations verify pypi --repository {ADDRESS}\n",
    "docs/how_to/jax.md": "pip install 't5bucket[jax]'\n",
    "docs/conf.py": f'html_theme_options = {{"github_url": "{ADDRESS}"}}\n',
    "packaging/conda/recipe.yaml": f'version: "1.2.3"\nrepository: {ADDRESS}\n',
}


def check(root: Path, *options: str) -> tuple[int, list[str]]:
    """Run the program on a folder; return its exit code and the lines that it prints."""
    command = [sys.executable, str(PROGRAM), "--root", str(root), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


@pytest.fixture
def filled_in(tmp_path: Path) -> Path:
    for name, text in FILLED_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_release_may_go_when_everything_is_filled_in(filled_in: Path) -> None:
    options = ["--tag", "v1.2.3", "--repository", "someone/t5bucket"]
    assert check(filled_in, *options) == (0, ["everything is filled in"])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pyproject.toml", "Issues", "Other"),
        ("pyproject.toml", "[project.urls]", "[project.other]"),
        ("CHANGELOG.md", "2026-01-02", "unreleased"),
        ("CITATION.cff", ADDRESS, ""),
        ("README.md", f"{ADDRESS}/docs/", f"{ADDRESS}) and [more]("),
        ("README.md", "pip install t5bucket", ""),
        ("RELEASING.md", "someone", "OWNER"),
        ("docs/how_to/jax.md", "t5bucket[", ".["),
        ("docs/conf.py", ADDRESS, ""),
        ("packaging/conda/recipe.yaml", "someone", "OWNER"),
        ("packaging/conda/recipe.yaml", "1.2.3", "1.2.2"),
    ],
)
def test_each_place_that_is_empty_is_named(name: str, old: str, new: str, filled_in: Path) -> None:
    (filled_in / name).write_text(FILLED_IN[name].replace(old, new), encoding="utf-8")
    code, lines = check(filled_in)
    assert code == 1
    assert [line for line in lines if line.startswith(name)]


def test_the_tag_and_the_repository_are_those_of_pyproject(filled_in: Path) -> None:
    code, lines = check(filled_in, "--tag", "v1.2.4", "--repository", "another/t5bucket")
    assert code == 1
    assert lines == [
        "the tag must be v1.2.3, got v1.2.4",
        f"Repository in [project.urls] must be of another/t5bucket, got {ADDRESS!r}",
    ]


@pytest.mark.skipif(
    not (ROOT / "packaging").exists(), reason="the source distribution lacks some of the files"
)
def test_every_place_exists_and_has_one_version() -> None:
    _, lines = check(ROOT)
    assert not [line for line in lines if "recipe.yaml must have version" in line]
    releasing = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    for name in FILLED_IN:
        place = "docs" if name.startswith("docs/how_to/") else name
        assert f"`{place}`" in releasing, f"RELEASING.md does not name {place}"

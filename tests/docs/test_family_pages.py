# test_family_pages.py - what pages say about families of models is what the code says.
# SPDX-License-Identifier: BSD-3-Clause
import re
from typing import Any

import pytest
from markdown import PAGES, ROOT

import t5bucket as tb

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
SECTIONS = ["Buckets and bias", "A faster model", "Its checkpoint", "Pitfalls"]
FAMILIES = [page for page, text in TEXTS.items() if "\n| `accelerate` |" in text]
FOREIGN = ("blocks.", "enc.", "dec.", "...")  # names of tensors in other files


def read_facts(page: str) -> list[dict[str, str]]:
    """Read the first table of a page: what its rows say about each of its columns."""
    (table,) = re.findall(r"\n((?:\|.*\n)+)", TEXTS[page].split("\n## ")[0])
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    names = [row[0] for row in rows[2:]]
    columns = zip(*(row[1:] for row in rows[2:]), strict=True)
    return [dict(zip(names, column, strict=True)) for column in columns]


def find_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def models_of(facts: dict[str, str]) -> list[str]:
    """List the families that `accelerate` knows, by transformers' names."""
    return [span for span in find_spans(facts["`accelerate`"].split(":")[0]) if "=" not in span]


@pytest.mark.parametrize("page", FAMILIES)
def test_every_family_has_the_same_sections(page: str) -> None:
    titles = re.findall(r"^## ([^:\n]*)", TEXTS[page], re.MULTILINE)
    assert [*dict.fromkeys(title for title in titles if title in SECTIONS)] == SECTIONS


def test_every_family_that_is_accelerated_has_a_page() -> None:
    pytest.importorskip("transformers")
    from t5bucket.transformers import supported_models

    assert len(FAMILIES) > 9
    found = [model for page in FAMILIES for facts in read_facts(page) for model in models_of(facts)]
    assert sorted(found) == [*supported_models()]


@pytest.mark.parametrize("page", FAMILIES)
def test_the_scheme_is_that_of_transformers_configuration(page: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    for facts in read_facts(page):
        scheme = eval(find_spans(facts["scheme"])[0], {"Buckets": tb.Buckets})
        for model in models_of(facts):
            config = transformers.CONFIG_MAPPING[model]()
            assert scheme == tb.Buckets.from_config(config), model


@pytest.mark.parametrize("page", FAMILIES)
def test_versions_are_those_of_the_table_of_support(page: str) -> None:
    """The bias alone at first; the version from which on attention is accelerated as well."""
    lines = TEXTS["docs/reference/support.md"].split("<!-- versions: begin -->")[1].splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line]
    firsts = [re.findall(r"\d\.\d+", title)[0] for title in rows[0][1:]]
    for facts in read_facts(page):
        said = re.findall(r"\d\.\d+", facts["`accelerate`"])
        for model in models_of(facts):
            cells = next(row[1:] for row in rows if row[0].startswith(model))
            changes = [
                first
                for first, before, cell in zip(firsts, ["", *cells], cells, strict=False)
                if cell != before
            ]
            assert said == changes, model


@pytest.mark.parametrize("page", FAMILIES)
def test_figures_are_those_of_the_tables_of_speed(page: str) -> None:
    measured = {
        frozenset(cell.strip() for cell in line.strip("|").split("|"))
        for text in (*(TEXTS[name] for name in PAGES if "how_to" not in name), read_readme())
        for line in text.replace("`", "").splitlines()
    }
    for line in re.findall(r"^\| .* \| \d\.\d{3} \|$", TEXTS[page], re.MULTILINE):
        cells = {cell.strip() for cell in line.replace("`", "").strip("|").split("|")}
        assert any(cells <= row for row in measured), line


def read_readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_models_have_tensors_of_these_names() -> None:
    models: Any = pytest.importorskip("models")
    saved = {
        re.sub(r"\d+", "0", name)
        for make in models.FAMILIES.values()
        for name in make(False).model.state_dict()
    }
    ends = {name.split(".", i)[-1] for name in saved for i in range(7)}
    for page in FAMILIES:
        section = TEXTS[page].split("## Its checkpoint")[1].split("\n## ")[0]
        spans = re.findall(
            r"`([\w.]+\.weight)`", re.sub(r"```.*?```", "", section, flags=re.DOTALL)
        )
        for name in spans:
            if not name.startswith(FOREIGN):
                assert re.sub(r"\d+", "0", name) in ends, f"{page}: {name}"

"""The site: every chapter and module has its page, written for reading; links lead somewhere. (`make docs` builds it, in a minute.)"""

import json
import re
import runpy

from conftest import ROOT


def test_the_pages_of_the_site(tmp_path):
    build = runpy.run_path(str(ROOT / "docs/build.py"), run_name="build")
    build["sources"].__globals__["OUT"] = tmp_path
    contents = build["sources"]()
    pages = {page["file"] for part in contents["parts"] for page in part["chapters"]}
    assert {
        f"{path.parent.name}/{path.stem}"
        for path in (ROOT / "nbs").glob("[0-9]_*/*.ipynb")
    } <= pages
    assert {
        "api/slavc.model.losses",
        "api/slavc.methods.slavc",
        "api/slavc.cli",
    } <= pages and "api/slavc._modidx" not in pages
    assert [part["caption"] for part in contents["parts"]] == [
        "Data",
        "Model",
        "Methods",
        "Training",
        "Scores",
        "The paper",
        "Use",
        "Modules",
    ]
    for path in tmp_path.rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        assert not re.search(r"^#\| ", text, re.M), path
        for link in re.findall(
            r"\]\(([^)#:]+)(?:#[^)]*)?\)",
            "\n".join(
                "".join(cell["source"])
                for cell in cells
                if cell["cell_type"] == "markdown"
            ),
        ):
            assert (path.parent / link).exists() or not link.endswith(
                (".ipynb", ".md")
            ), f"{path.name}: {link}"
        for link in re.findall(r'href="([^"]+)"', text):
            assert (
                ROOT / "reports" / link.partition("reports/")[2]
            ).is_file() or "reports/" not in link, f"{path.name}: {link}"


def test_equations_are_drawn_while_the_site_is_built():
    from latex2mathml.converter import convert

    seen = set()
    for path in (ROOT / "nbs").glob("[0-9]_*/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                seen |= {
                    (path.name, text)
                    for text in re.findall(
                        r"\$\$(.+?)\$\$", "".join(cell["source"]), re.S
                    )
                }
    assert len(seen) > 40
    for name, text in sorted(seen):
        made = convert(text, display="block")
        assert made.startswith("<math") and "\\" not in re.sub(r"<[^>]*>", "", made), (
            name,
            text,
        )  # no command is left as text

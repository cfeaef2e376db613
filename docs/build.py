"""`make docs`: the chapters as a site that can be searched and read offline, in _docs/html; nothing is executed.

The chapters are copied without what only the export needs; each part gets a page, each module a page of what it
offers, and the reports lie beside it all.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUT, REPORTS = ROOT / "_docs", "reports"
RESULTS = f'## Results\n\nThe tables and figures of the default experiment are on <a href="{REPORTS}/index.html">one page</a>.'
TITLES = dict(
    re.findall(
        r"### (.+)\n\n- \[\w+\]\((\d_\w+)/",
        "".join(
            "".join(cell["source"])
            for cell in json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"]
        ),
    )
)
PARTS = {folder: title for title, folder in TITLES.items()}
IMPORTS = re.compile(r"(?:(?:from|import) .*|[A-Za-z_.]+\(1\);?|\s*|\s.*|\))$")


def beside(text: str, depth: int) -> str:
    "Markdown whose links to the reports, which are no pages of the book, lead to their place on the site."
    return re.sub(
        r"\[([^\]]*)\]\((?:\.\./)+(reports/[^)]+)\)",
        rf'<a href="{"../" * depth}\2">\1</a>',
        text,
    )


def chapter(path: Path, depth: int) -> dict:
    "A chapter for reading: without the lines that speak to nbdev, its bare imports folded."
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in book["cells"]:
        lines = "".join(cell["source"]).splitlines()
        marks = [line for line in lines if line.startswith("#|")]
        text = "\n".join(line for line in lines if not line.startswith("#|"))
        if (
            any(mark.startswith(("#| default_exp", "#| hide")) for mark in marks)
            or not text.strip()
        ):
            continue
        if cell["cell_type"] == "markdown":
            cell["source"] = beside(text, depth)
        else:
            bare = all(IMPORTS.fullmatch(line) for line in text.splitlines())
            cell |= dict(
                source=text, metadata=dict(tags=["hide-input"] if bare else [])
            )
        cells.append(cell)
    return book | dict(cells=cells)


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def module_page(name: str) -> str:
    return f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :member-order: bysource\n```\n"


def sources() -> dict:
    "Write all pages; return the table of contents."
    shutil.rmtree(OUT, ignore_errors=True)
    source, parts = OUT / "source", []
    index = chapter(ROOT / "nbs/index.ipynb", 0)
    index["cells"].append(
        dict(cell_type="markdown", id="reports", metadata={}, source=RESULTS)
    )
    write(source / "index.ipynb", json.dumps(index))
    for folder, title in PARTS.items():
        chapters = sorted((ROOT / "nbs" / folder).glob("*.ipynb"))
        for path in chapters:
            write(source / folder / path.name, json.dumps(chapter(path, 1)))
        parts.append(
            dict(
                caption=title.partition(":")[0],
                chapters=[dict(file=f"{folder}/{path.stem}") for path in chapters],
            )
        )
    modules = sorted(
        path for path in (ROOT / "slavc").rglob("*.py") if not path.stem.startswith("_")
    )
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    for name in names:
        write(source / "api" / f"{name}.md", module_page(name))
    parts.append(
        dict(caption="Modules", chapters=[dict(file=f"api/{name}") for name in names])
    )
    return dict(format="jb-book", root="index", parts=parts)


def main():
    contents = sources()
    write(OUT / "source/_toc.yml", yaml.safe_dump(contents, sort_keys=False))
    for name, place in (
        ("_config.yml", ""),
        ("rendering.py", ""),
        ("style.css", "_static"),
    ):
        (OUT / "source" / place).mkdir(exist_ok=True)
        shutil.copy(ROOT / "docs" / name, OUT / "source" / place / name)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("jupyter-book")),
            "build",
            str(OUT / "source"),
            "--path-output",
            str(OUT),
            "--quiet",
        ],
        capture_output=True,
        text=True,
    )
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "WARNING" in line or "ERROR" in line or "error" in line.lower()
    ]
    (OUT / "warnings.txt").write_text("\n".join(said) + "\n")
    if done.returncode or not (OUT / "_build/html/index.html").is_file():
        sys.exit(
            f"the site could not be built:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    shutil.move(OUT / "_build/html", OUT / "html")
    shutil.copytree(ROOT / REPORTS, OUT / "html" / REPORTS)
    pages = sum(1 for _ in (OUT / "html").rglob("*.html"))
    print(
        f"{pages} pages, {len(said)} warnings (_docs/warnings.txt); open _docs/html/index.html"
    )


if __name__ == "__main__":
    main()

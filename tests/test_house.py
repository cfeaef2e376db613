"""The house is in order: notebooks and package agree, notebooks are clean, the package stays light, the README is current."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, copy_of, run

from slavc.data.files import imports_of, modules_of
from slavc.paper.reports import fill
from slavc.train.params import load_params


def test_export_and_clean_change_nothing(scratch, tmp_path):
    here = copy_of(scratch, tmp_path / "slavc")
    run("nbdev_export", cwd=here)
    run("nbdev_clean", cwd=here)
    differs = run("git", "status", "--porcelain", cwd=here).stdout
    assert not differs, f"run nbdev_export and nbdev_clean, then commit:\n{differs}"


def test_export_drift_is_seen(scratch, tmp_path):
    """The check above can fail: a hand edit of a module shows."""
    here = copy_of(scratch, tmp_path / "slavc")
    module = here / "slavc/data/clips.py"
    by_hand = module.read_bytes() + b"\nedited = True\n"
    module.write_bytes(by_hand)
    run("nbdev_export", cwd=here)
    assert module.read_bytes() != by_hand


MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in (ROOT / "slavc").rglob("*.py")
    if not p.stem.startswith("_")
)
CHAPTERS = sorted((ROOT / "nbs").glob("[0-9]_*/*.ipynb"))


def test_import_needs_only_the_light_packages():
    """Every module but the command line imports with the heavier packages blocked."""
    modules = [name for name in MODULES if name != "slavc.cli"]
    code = (
        "import sys, importlib\n"
        "for name in 'matplotlib seaborn soundfile safetensors tqdm yaml typer scipy papermill dvc nbdev tabulate sklearn h5py hypothesis'.split(): sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_function_says_what_it_does():
    import importlib
    import inspect

    bare = []
    for where in MODULES:
        module = importlib.import_module(where)
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if (
                inspect.isfunction(thing) or inspect.isclass(thing)
            ) and not inspect.getdoc(thing):
                bare.append(f"{where}.{name}")
    assert not bare, f"no docstring: {bare}"


def test_readme_shows_the_table_of_the_pipeline():
    readme, table = ROOT / "README.md", ROOT / "reports/tables/summary.md"
    if not table.exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    assert fill(readme.read_text(), "table3", table.read_text()) == readme.read_text()


def test_the_frozen_configuration_is_what_the_search_chose():
    """No hand has moved a setting since: each method's options are those of the try that won on the validation draw."""
    params, search = (
        load_params(ROOT / "params.yaml"),
        load_params(ROOT / "profiles/search.yaml"),
    )
    if not (ROOT / "reports/search/search.csv").exists():
        pytest.skip("the search has not been run yet: `make search`")
    table = pd.read_csv(ROOT / "reports/search/search.csv")
    assert params["world"]["seed"] != search["world"]["seed"]
    for module in set(table.method):
        tries = table[table.method == module]
        winner = tries.loc[(tries.AP + tries.LocAcc).idxmax()]
        assert winner.chosen == "chosen"
        frozen = [m for m in params["methods"].values() if m["module"] == module][0]
        chosen = search["methods"][winner.key]
        assert frozen["hyper"] == chosen["hyper"], (
            f"{module}: params.yaml differs from the winner {winner.key}"
        )
        own, theirs = (
            {k: v for k, v in method["train"].items() if k != "every"}
            for method in (frozen, chosen)
        )  # how often one looks changes nothing
        assert own == theirs, (
            f"{module}: params.yaml differs from the winner {winner.key}"
        )
    counts = table.groupby("method").size()
    assert counts.nunique() == 1, "every method gets as many tries"


def test_every_profile_reads():
    for path in ROOT.glob("profiles/*.yaml"):
        assert load_params(path)["profile"] == path.stem
    assert load_params(ROOT / "params.yaml")["profile"] == "default"


def test_committed_notebooks_show_their_results():
    """A chapter is read with its outputs: at least one printed number or picture each."""
    for path in CHAPTERS:
        cells = json.loads(path.read_text())["cells"]
        assert any(c.get("outputs") for c in cells), f"{path.name}: no output"


def test_pictures_in_the_readme_exist():
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).is_file(), name


def test_the_index_leads_to_every_chapter():
    text = "".join(
        "".join(c["source"])
        for c in json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"]
    )
    assert set(re.findall(r"\]\(([\w/]+)\.ipynb\)", text)) == {
        f"{p.parent.name}/{p.stem}" for p in CHAPTERS
    }


def test_links_between_chapters_lead_somewhere():
    for path in [ROOT / "nbs/index.ipynb", *CHAPTERS]:
        text = "".join(
            "".join(c["source"])
            for c in json.loads(path.read_text())["cells"]
            if c["cell_type"] == "markdown"
        )
        for link in re.findall(r"\]\(([^)#:]+\.(?:ipynb|md|csv))(?:#[^)]*)?\)", text):
            assert (path.parent / link).is_file(), f"{path.name}: {link}"
        for name in re.findall(r"`(\d_\w+/\d\d_\w+)`", text):
            assert (ROOT / f"nbs/{name}.ipynb").is_file(), f"{path.name}: {name}"


MAY_IMPORT = dict(
    data={"data"},
    model={"data", "model"},
    methods={"data", "model", "methods"},
    train={"data", "model", "methods", "train"},
    score={"data", "score"},
    paper={"data", "model", "methods", "train", "score", "paper"},
)


def part(name):
    """Of a module's dotted name; "" for what lies beside the parts, such as the command line."""
    return name.split(".")[1] if name.count(".") > 1 else ""


def test_imports_go_one_way():
    """data < model < methods < train; data < score; paper above both; what lies beside the parts may use them all."""
    wrong = []
    for name in MODULES:
        if part(name):
            wrong += [
                f"{name} imports {other}"
                for other in imports_of(name)
                if part(other) not in MAY_IMPORT[part(name)]
            ]
    assert not wrong, wrong
    assert "paper" not in MAY_IMPORT["train"] and imports_of("slavc.cli") >= {
        "slavc.train.params"
    }  # the reader of imports sees those inside functions


def test_what_trains_cannot_reach_the_truth():
    """Nothing that a training run imports, however deep, opens the truth or scores a map."""
    for name in ("slavc.train.training", *(m for m in MODULES if part(m) == "methods")):
        reached = set(modules_of([name]))
        assert not {other for other in reached if part(other) in ("score", "paper")}, (
            name
        )
        assert "slavc.data.test_sets" not in reached, name
    assert "slavc.data.test_sets" in modules_of(["slavc.paper.evaluation"])


def test_a_part_of_the_book_is_a_part_of_the_package():
    """The chapter nbs/2_model/05_losses exports slavc/model/losses; numbers begin at 0 in each part and leave none out."""
    for folder in sorted((ROOT / "nbs").glob("[0-9]_*")):
        books = sorted(folder.glob("*.ipynb"))
        assert [book.stem[:2] for book in books] == [
            f"{n:02}" for n in range(len(books))
        ]
        for book in books:
            exports = re.findall(r'"#\| default_exp ([\w.]+)', book.read_text())
            place = "" if folder.name.endswith("_use") else f"{folder.name[2:]}."
            assert exports in ([], [place + book.stem[3:]]), book


def test_the_committed_page_stands_alone():
    """Every link leads to a committed file or to a place on it, and nothing comes from outside."""
    path = ROOT / "reports/index.html"
    if not path.exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    page = path.read_text()
    assert (
        not re.search(r'(src|href)="(https?:)?//', page)
        and "<script" not in page
        and page.count("<h2") >= 12
    )
    for link in set(re.findall(r'(?:href|src)="([^"]+)"', page)):
        target, _, mark = link.partition("#")
        assert (path.parent / target).is_file() if target else f'id="{mark}"' in page, (
            link
        )


def test_the_repository_is_light():
    """What git keeps of results: a lock of 100 KB, reports of 6 MB in 200 files, a pipeline that one can read."""
    files = [p for p in (ROOT / "reports").rglob("*") if p.is_file()]
    assert len(files) <= 200 and sum(p.stat().st_size for p in files) <= 6e6
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 250
    assert (
        not (ROOT / "dvc.lock").exists()
        or (ROOT / "dvc.lock").stat().st_size <= 100_000
    )


@pytest.mark.parametrize("name", ["reported.csv", "stamps.csv"])
def test_data_is_text_with_unix_ends(name):
    assert b"\r" not in (ROOT / "data" / name).read_bytes()


def test_one_style():
    """Notebooks, tests and scripts are as `ruff format` leaves them, and `ruff check` finds nothing; so are the lines that it cannot break."""
    for command in (
        ["ruff", "format", "--check", "nbs", "tests", "bench", "docs"],
        ["ruff", "check", "nbs", "tests", "bench", "docs", "slavc"],
    ):
        done = run(*command, cwd=ROOT, check=False)
        assert done.returncode == 0, (
            f"{' '.join(command[:2])} nbs tests bench docs: {done.stdout[-2000:]}"
        )
    cells = [
        cell
        for path in [*CHAPTERS, *(ROOT / "nbs/pipeline").glob("*.ipynb")]
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    long = [
        line
        for cell in cells
        for line in "".join(cell["source"]).splitlines()
        if len(line) > 88 and "%%writefile" not in "".join(cell["source"])
    ]
    assert (
        all(line.lstrip().startswith(('f"', "f'")) for line in long) and len(long) <= 8
    ), long  # what stands in the braces of a text cannot be broken before Python 3.12

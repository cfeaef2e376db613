"""The house is in order: notebooks and package agree, notebooks are clean, the package stays light, the README is current."""
import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, copy_of, run

from slavc.reports import fill
from slavc.params import load_params


def test_export_and_clean_change_nothing(scratch, tmp_path):
    here = copy_of(scratch, tmp_path / "slavc")
    run("nbdev_export", cwd=here)
    run("nbdev_clean", cwd=here)
    differs = run("git", "status", "--porcelain", cwd=here).stdout
    assert not differs, f"run nbdev_export and nbdev_clean, then commit:\n{differs}"


def test_export_drift_is_seen(scratch, tmp_path):
    """The check above can fail: a hand edit of a module shows."""
    here = copy_of(scratch, tmp_path / "slavc")
    module = here / "slavc" / "clips.py"
    by_hand = module.read_bytes() + b"\nedited = True\n"
    module.write_bytes(by_hand)
    run("nbdev_export", cwd=here)
    assert module.read_bytes() != by_hand


def test_import_needs_only_the_light_packages():
    """Every module but the command line imports with the heavier packages blocked."""
    modules = sorted(p.stem for p in (ROOT / "slavc").glob("*.py") if p.stem not in ("__init__", "__main__", "_modidx", "cli"))
    code = ("import sys, importlib\n"
            "for name in 'matplotlib seaborn soundfile safetensors tqdm yaml typer scipy papermill dvc nbdev tabulate sklearn h5py hypothesis'.split(): sys.modules[name] = None\n"
            f"for name in {modules}: importlib.import_module('slavc.' + name)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_function_says_what_it_does():
    import importlib
    import inspect
    bare = []
    for path in (ROOT / "slavc").glob("[a-z]*.py"):
        module = importlib.import_module(f"slavc.{path.stem}")
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and not inspect.getdoc(thing):
                bare.append(f"{path.stem}.{name}")
    assert not bare, f"no docstring: {bare}"


def test_readme_shows_the_table_of_the_pipeline():
    readme, table = ROOT / "README.md", ROOT / "reports" / load_params(ROOT / "params.yaml")["profile"] / "summary.md"
    if not table.exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    assert fill(readme.read_text(), "table3", table.read_text()) == readme.read_text()


def test_the_frozen_configuration_is_what_the_search_chose():
    """No hand has moved a setting since: each method's options are those of the try that won on the validation draw."""
    params, search = load_params(ROOT / "params.yaml"), load_params(ROOT / "profiles/search/params.yaml")
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
        assert frozen["hyper"] == chosen["hyper"], f"{module}: params.yaml differs from the winner {winner.key}"
        own, theirs = ({k: v for k, v in (run["train"] | method["train"]).items() if k != "every"} for run, method in ((params, frozen), (search, chosen)))     # how often one looks changes nothing
        assert own == theirs, f"{module}: params.yaml differs from the winner {winner.key}"
    counts = table.groupby("method").size()
    assert counts.nunique() == 1, "every method gets as many tries"


def test_every_profile_reads():
    for path in [ROOT / "params.yaml", *ROOT.glob("profiles/*/params.yaml")]:
        params = load_params(path)
        assert (path.parent / params["root"]).resolve() == ROOT
        assert params["here"] == ("" if path.parent == ROOT else f"profiles/{path.parent.name}/")


def test_committed_notebooks_show_their_results():
    """A chapter is read with its outputs: at least one printed number or picture each."""
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        assert path.stem == "index" or any(c.get("outputs") for c in cells), f"{path.name}: no output"


def test_pictures_in_the_readme_exist():
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).is_file(), name


def test_the_index_leads_to_every_chapter():
    text = "".join("".join(c["source"]) for c in json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"])
    assert set(re.findall(r"\]\((\w+)\.ipynb\)", text)) == {p.stem for p in (ROOT / "nbs").glob("[0-9]*.ipynb")}


@pytest.mark.parametrize("params", [ROOT / "params.yaml", *sorted(ROOT.glob("profiles/*/params.yaml"))], ids=lambda p: p.parent.name)
def test_committed_pages_stand_alone(params):
    """Every profile with ablations has its page; every link leads to a committed file or to a place on it, and nothing comes from outside."""
    values = load_params(params)
    if not values["ablations"]["of"]:
        pytest.skip(f"profile {values['profile']} makes no page: it has no ablations")
    if values["page"].startswith("runs/"):
        pytest.skip(f"the page of profile {values['profile']} is not kept in git; tests/test_pipeline.py makes and reads that of smoke")
    path = ROOT / values["page"]
    page = path.read_text()
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page and page.count("<h2") >= 12
    for link in set(re.findall(r'(?:href|src)="([^"]+)"', page)):
        target, _, mark = link.partition("#")
        assert (path.parent / target).is_file() if target else f'id="{mark}"' in page, link


@pytest.mark.parametrize("name", ["reported.csv", "stamps.csv"])
def test_data_is_text_with_unix_ends(name):
    assert b"\r" not in (ROOT / "data" / name).read_bytes()

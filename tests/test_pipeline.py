"""The pipeline: committed tables belong to committed code, the smoke profile runs from a fresh copy, and bad input is named."""
import ast
import json
import os
import re
import shutil
import time

import pandas as pd
import pytest
import yaml
from conftest import ROOT, changed, copy_of, run

from slavc.cli import run_stage
from slavc.stages import warm_stages
from slavc.training import method_names


def test_locks_are_true(scratch):
    """Every committed result was made by the committed code, params and data: nothing would run again (files that are only cached may be absent)."""
    from contextlib import chdir

    from dvc.repo import Repo
    pipelines = [p for p in (scratch / "dvc.yaml", *sorted(scratch.glob("profiles/*/dvc.yaml"))) if p.with_name("dvc.lock").exists()]
    assert pipelines
    with chdir(scratch):
        stale = Repo(".").reproduce([str(p.relative_to(scratch)) for p in pipelines], dry=True, allow_missing=True)
    assert not stale, f"run these again and commit the locks: {[s.addressing for s in stale]}"


@pytest.mark.parametrize("profile", [".", *sorted(str(p.parent.relative_to(ROOT)) for p in ROOT.glob("profiles/*/dvc.yaml"))])
def test_every_profile_has_results(profile):
    if not (ROOT / profile / "dvc.lock").exists():
        pytest.skip(f"{profile}: not run yet, so there is no lock and no table to guard")
    assert (ROOT / "reports" / yaml.safe_load((ROOT / profile / "params.yaml").read_text())["profile"] / "table3.md").exists()


HOOKS = ("dsol", "ezvsl", "slavc", "slavc-long")                   # a hook between epochs, none, one after every step; tests/test_methods.py trains all


@pytest.fixture(scope="module")
def smoke(scratch, tmp_path_factory):
    """The smoke profile, run once. For reading: what edits a file gives it back (`changed`), what runs a stage works on a copy."""
    folder = copy_of(scratch, tmp_path_factory.mktemp("smoke") / "slavc")
    for other in ("paper", "quick", "search"):                # DVC reads every profile that it finds, each time
        shutil.rmtree(folder / "profiles" / other)
    for lock in ("dvc.lock", "profiles/smoke/dvc.lock"):           # and writes a lock anew after every stage: the shorter, the quicker
        (folder / lock).unlink(missing_ok=True)
    path = folder / "profiles/smoke/params.yaml"
    params = yaml.safe_load(path.read_text())
    params["methods"] = {name: params["methods"][name] for name in HOOKS}
    path.write_text(yaml.safe_dump(params, sort_keys=False, width=1000))
    start = time.time()
    done = run("slavc", "repro", "profiles/smoke/params.yaml", "--jobs", "2", cwd=folder)
    (folder.parent / "said.txt").write_text(done.stdout + done.stderr)
    print(f"smoke profile: {time.time() - start:.0f} s")
    return folder


def test_smoke_profile_runs(smoke):
    folder = smoke / "reports" / "smoke"
    for name in ("README.md", "table1.md", "table2.md", "table3.md", "table4a.md", "table4b.md", "table4c.md", "table4d.md", "table5.md", "ledger.md", "branches.md", "findings.md",
                 "epochs.png", "epochs.svg", "losses.svg", "figure2.svg", "figure3-threshold.svg", "figure3-iou.svg", "ablations.svg", "branches.jpg", "qualitative.jpg", "qualitative-all.jpg",
                 "results/slavc.csv", "kinds/slavc.csv", "curves/slavc.csv", "history/ezvsl.csv", "ablations/effects.csv", "metrics/slavc.json", "notebooks/train-slavc.html"):
        assert (folder / name).stat().st_size > 0, name
    results = pd.concat(map(pd.read_csv, (folder / "results").glob("*.csv")))
    assert {*HOOKS, *(f"{m}+ogl" for m in HOOKS), "ogl", "random", "whole-image", "center-prior", "accept-all", "presence-oracle"} == set(results.method)
    assert set(results.protocol) == {"paper", "released", "strict"} and set(results.iou) == {0.5, 0.75}
    main = results[results.final & (results.protocol == "paper") & (results.iou == 0.5) & (results.subset == "all")].set_index(["method", "metric", "seed"]).value
    assert main["presence-oracle", "AP", 0] == pytest.approx(main["presence-oracle", "LocAcc", 0], abs=1e-3)      # an oracle of presence: AP = LocAcc
    share = main["center-prior", "LocAcc", 0] / 100
    assert main["accept-all", "accept-all F1", 0] == pytest.approx(100 * share / (1 + share / 2), abs=1e-3)       # the identity of methods.md


def test_repro_says_how_far_it_is_and_nothing_else(smoke):
    """A line for each stage, numbered, with its time and what is left: no line of DVC, of papermill, of a kernel, and no warning."""
    first, *stages, last = (smoke.parent / "said.txt").read_text().splitlines()
    n, lock = len(stages), yaml.safe_load((smoke / "profiles/smoke/dvc.lock").read_text())["stages"]
    assert re.fullmatch(rf"{n} stages, 2 at a time(; .* left)?", first) and re.fullmatch(rf"{n} stages in [\d.]+ (s|min)", last)
    said = [re.fullmatch(r"stage (\d+) of (\d+): ([\w -]+), [\d.]+ (s|min)(; now [\w ,-]+(; (about|more than|less than) [\w ]+ left)?)?", line) for line in stages]
    assert all(said), stages
    assert [int(m[1]) for m in said] == [*range(1, n + 1)] and {int(m[2]) for m in said} == {n} and {m[3].replace(" ", "@") for m in said} == {*lock}


def test_the_page_stands_alone(smoke):
    """Every part is there, every link leads somewhere, nothing is fetched, and every stage says its minutes."""
    folder = smoke / "runs" / "smoke"
    page = (folder / "index.html").read_text()
    for title in ("Table 1", "Table 2", "Table 3", "Figure 2", "Figure 3", "Table 4", "Table 5", "Frames and maps", "ledger"):
        assert f">{title}" in page or title in re.findall(r"<h2[^>]*>(?:Beyond the paper: the )?([^<,]+)", page), title
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page and "(no record)" not in page
    for link in set(re.findall(r'(?:href|src)="([^"]+)"', page)):
        target, _, mark = link.partition("#")
        assert (folder / target).exists() if target else f'id="{mark}"' in page, link
    run("slavc", "show", "profiles/smoke/params.yaml", "--page", "runs/alone.html", cwd=smoke)
    assert not re.search(r'src="(?!data:image/)', (smoke / "runs/alone.html").read_text())         # pictures inside
    records = smoke / "reports/smoke/notebooks"
    made = {p.stem for p in records.glob("*.html")}
    assert {"prepare", "train-slavc", "ablate-one-space", "effects-slavc", "table4-slavc"} <= made and made >= {p.stem for p in records.glob("*.json")}


def test_a_cold_stage_gives_the_same_bytes(smoke, tmp_path):
    """`slavc stage` by itself, every import its own, trains the weights and draws the maps of the fork of a warm process."""
    here = copy_of(smoke, tmp_path / "slavc")
    for command in ("slavc stage train", "slavc train"):           # the second is what `torchrun` starts
        shutil.rmtree(here / "runs/smoke/train/ezvsl")
        run(*command.split(), "profiles/smoke/params.yaml", "ezvsl", cwd=here)
        warm, cold = (sorted((folder / "runs/smoke/train/ezvsl").glob("*.*")) for folder in (smoke, here))
        assert [p.name for p in cold] == [p.name for p in warm] and any(p.suffix == ".safetensors" for p in cold)
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(cold, warm))


def test_dvc_metrics_and_plots(smoke):
    """`dvc metrics show` and `diff` are readable, and the plots have data."""
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=smoke).stdout)[""]["data"]
    assert set(shown["reports/smoke/metrics/slavc.json"]["data"]) == {"AP", "max-F1", "LocAcc", "presence skill"}
    assert all(name.endswith(".json") and "error" not in found for name, found in shown.items() if "smoke" in name), list(shown)
    out = smoke / "dvc_plots"
    run("dvc", "plots", "show", "-o", str(out), "reports/smoke/figure3.csv", "reports/smoke/history/slavc.csv", cwd=smoke)
    page = (out / "index.html").read_text()
    assert page.count("vega-lite/v5.json") >= 2 and '"method": "slavc"' in page


def test_the_smoke_world_is_the_same_everywhere(smoke):
    """Its extended benchmark, counted: a function of params.yaml alone."""
    counts = pd.read_csv(smoke / "reports/smoke/counts.csv", index_col="key")["count"]
    assert counts.to_dict() == {"Small": 2, "Medium": 18, "Large": 19, "Huge": 21, "Total Pos": 60, "Real Neg": 4, "Easy Neg": 42, "Hard Neg": 14, "Total Neg": 60, "Total": 120}


def test_the_pipeline_never_shows_training_the_truth():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert not [d for d in stages["train"]["do"]["deps"] if "truth" in d or "boxes" in d or "benchmark" in d]
    source = "".join("".join(c["source"]) for c in json.loads((ROOT / "nbs/pipeline/train.ipynb").read_text())["cells"])
    assert "truth" not in source.replace("The truth of the test is not opened.", "")


@pytest.mark.parametrize("command", ["slavc repro profiles/smoke/params.yaml --jobs 2", "dvc repro profiles/smoke/dvc.yaml"])
def test_a_second_run_does_nothing(smoke, command):
    start = time.time()
    said = run(*command.split(), cwd=smoke).stdout
    assert "Running stage" not in said and "up to date" in said
    print(f"nothing to do: {time.time() - start:.1f} s")


def test_stages_side_by_side_wait_for_what_they_need(smoke):
    """After an edit `slavc repro --jobs` may start what is due and nothing else, each stage after those it needs."""
    code = "import json; from slavc.cli import stage_order; print(json.dumps({k: sorted(v) for k, v in stage_order('profiles/smoke/dvc.yaml')[0].items()}))"
    with changed(smoke / "slavc/slavc.py"):
        order = json.loads(run("python", "-c", code, cwd=smoke).stdout.splitlines()[-1])
    short = lambda name: name.split(":")[-1]
    rows = {f"ablate@{name}" for name in yaml.safe_load((smoke / "profiles/smoke/params.yaml").read_text())["ablations"]["grid"]}
    assert {short(k): {short(v) for v in values} for k, values in order.items()} == {row: set() for row in rows} | {
        "train@slavc": set(), "train@slavc-long": set(), "evaluate@slavc": {"train@slavc"}, "evaluate@slavc-long": {"train@slavc-long"}, "tables": {"evaluate@slavc", "evaluate@slavc-long"},
        "figures": {"train@slavc", "train@slavc-long", "evaluate@slavc", "evaluate@slavc-long"}, "branches@slavc": {"train@slavc"},
        "effects@slavc": {"train@slavc", "train@slavc-long", "branches@slavc", *rows}, "table4@slavc": {"effects@slavc"},
        "findings@slavc": {"evaluate@slavc", "evaluate@slavc-long", "effects@slavc", "tables"}, "page@slavc": {"tables", "figures", "table4@slavc", "findings@slavc"}}


def dry_run(smoke):
    """Names of the stages that would run."""
    from contextlib import chdir

    from dvc.repo import Repo
    with chdir(smoke):
        return {s.addressing.split(":")[-1] for s in Repo(".").reproduce("profiles/smoke/dvc.yaml", dry=True)}


@pytest.mark.parametrize("change, direct, later", [
    ("slavc/ezvsl.py", {"train@ezvsl"}, {"evaluate@ezvsl", "tables", "figures", "findings@slavc", "page@slavc"}),
    ("slavc/reports.py", {"tables", "figures", "audit", "effects@slavc", "table4@slavc", "findings@slavc"}, {"page@slavc"}),
    ("slavc/effects.py", {"branches@slavc", "effects@slavc", "table4@slavc", "controls", *(f"evaluate@{name}" for name in HOOKS)}, {"tables", "figures", "findings@slavc", "page@slavc"}),
    ("slavc/ablations.py", {"table4@slavc"}, {"page@slavc"}),
    ("slavc/figures.py", {"figures", "table4@slavc"}, {"page@slavc"}),
    ("slavc/page.py", {"page@slavc"}, set()),
    ("nbs/pipeline/figures.ipynb", {"figures"}, {"page@slavc"}),
    ("nbs/pipeline/tables.ipynb", {"tables"}, {"findings@slavc", "page@slavc"}),
    ("nbs/pipeline/table4.ipynb", {"table4@slavc"}, {"page@slavc"}),
])
def test_an_edit_runs_only_what_depends_on_it(smoke, change, direct, later):
    """A caption, a figure or a table never trains; a method trains itself. What is edited runs, what comes after it may."""
    with changed(smoke / change):
        due = dry_run(smoke)
    assert direct <= due <= direct | later


@pytest.mark.parametrize("kind, trained", [("code", {"train@ezvsl"}), ("markdown", set())])
def test_editing_a_methods_notebook_trains_that_method_only(smoke, kind, trained):
    """Through the notebook, as an author would: edit, export, ask DVC what is due. Prose trains nothing."""
    book = json.loads((smoke / "nbs/14_ezvsl.ipynb").read_text())
    cell = next(c for c in book["cells"] if c["cell_type"] == kind and ("class EZVSL" in "".join(c["source"]) if kind == "code" else len("".join(c["source"])) > 200))
    cell["source"] = "".join(cell["source"]) + ("\n    edited = True" if kind == "code" else " Edited.")
    module = smoke / "slavc/ezvsl.py"
    before = module.read_bytes()
    with changed(smoke / "nbs/14_ezvsl.ipynb") as path, changed(module):
        module.write_bytes(before)
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")
        run("nbdev_export", cwd=smoke)
        exported, due = module.read_bytes() != before, dry_run(smoke)
    assert exported == (kind == "code") and {s for s in due if s.startswith(("train", "ablate", "encode", "prepare"))} == trained


IN_PARAMS = {"params"}                                             # reads params.yaml; what it reads is declared key by key
DRAWS_MAPS = {"boxes", "metrics"}                                  # of reports.overlay, which the page has no use for
MAKES_DATA = {"benchmark", "procedural", "scenes", "stamps"}       # its product is declared
PACKS = {"packing"}                                                # makes data of videos in `prepare`, which declares it; what it imports is not followed
NOT_DECLARED = dict(prepare=set(), encode=MAKES_DATA | {"boxes", "distributed", "losses", "training"}, tables=set(), train=MAKES_DATA | {"boxes"}, audit=set(),
                    controls=MAKES_DATA, evaluate=MAKES_DATA, figures={"audio", "benchmark"}, ablate=MAKES_DATA | {"boxes"}, branches=MAKES_DATA | {"boxes"}, effects=MAKES_DATA, table4=set(), page=DRAWS_MAPS)


def imported(source):
    """Modules of the package that a piece of source imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("slavc."):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("name", NOT_DECLARED)
def test_stages_declare_the_modules_they_use(name):
    """Every module reachable from a stage's notebook is a dependency, but for those listed above with their reason."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    deps = stage.get("do", stage)["deps"]
    notebook = next(d for d in deps if d.endswith(".ipynb"))
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    todo, used = imported("\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")), set()
    while todo:
        module = todo.pop()
        used.add(module)
        todo |= imported((ROOT / f"slavc/{module}.py").read_text()) - used - PACKS
    declared = {d[6:-3] for d in deps if d.startswith("slavc/")}
    assert used - declared == NOT_DECLARED[name] & used | IN_PARAMS
    loads = {"train": method_names(), "ablate": ["slavc"], "branches": ["slavc"]}.get(name, [])            # methods, imported by name
    for module in loads:
        assert imported((ROOT / f"slavc/{module}.py").read_text()) <= declared


def test_adding_a_method_is_one_line(smoke):
    """A line in params.yaml makes a training and an evaluation stage; the others stay as they are."""
    from contextlib import chdir

    from dvc.repo import Repo
    path = smoke / "profiles/smoke/params.yaml"
    line = "  another: {label: Another, module: ezvsl, seeds: [0], train: {}, hyper: {dim: 16, temperature: 0.2}, encoders: {}, regime: standard, native: {}}\n"
    with changed(path, ("\nablations:", "\n" + line + "ablations:")), chdir(smoke):
        repo, name = Repo("."), "profiles/smoke/dvc.yaml"
        known = {s.addressing for s in repo.index.stages}
        runs = [s.addressing for s in repo.reproduce(f"{name}:train@another", dry=True)]
    assert {f"{name}:train@another", f"{name}:evaluate@another"} <= known
    assert runs == [f"{name}:train@another"]


@pytest.fixture
def warm():
    """`slavc stage` is handed over to a process that has imported what it needs; for this test alone, the process itself stays."""
    with warm_stages(run_stage):
        yield


@pytest.mark.parametrize("old, new, message", [
    ("module: slavc", "module: slavk", "no method 'slavk'; known are"),
    ("temperature: 0.07", "temprature: 0.07", "temprature"),
    ("schedule: cosine", "schedule: cosin", "train.schedule is 'cosin'; choose constant or cosine"),
    ("batch: 32", "bacth: 32", "train.bacth is not known"),
    ("name: procedural", "name: procedral", "world.name is 'procedral'; known worlds"),
    ("momentum: 0.97", "momentum: 1.97", "momentum must lie in [0, 1]"),
])
def test_typos_in_params_are_named(smoke, warm, tmp_path, old, new, message):
    """Also those that only the stage itself notices. (tests/test_progress.py: a stage that fails stops the rest.)"""
    text = (smoke / "profiles/smoke/params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new))
    name = "prepare" if "procedral" in new else "train"
    said = tmp_path / "said.txt"
    done = run("slavc", "stage", name, str(path), *(["slavc"] if name == "train" else []), cwd=smoke, check=False, SLAVC_STAGE_OUTPUT=str(said))
    text = (said.read_text() if said.exists() else "") + done.stderr
    assert done.returncode == 1 and message in text and "Traceback" not in text.split("error: ")[-1], text[-2000:]


def test_missing_stamps_stop_with_the_remedies(tmp_path, scratch):
    done = run("slavc", "assets", cwd=scratch, check=False, SLAVC_STAMPS=str(tmp_path))
    assert done.returncode == 1
    for remedy in ("apt-get install", "SLAVC_STAMPS", "profiles/smoke/dvc.yaml"):
        assert remedy in done.stderr


def test_stamps_that_cannot_be_fetched_stop_too(tmp_path, scratch):
    """No copy and no apt-get: never a silent fallback to another world."""
    if os.path.isdir("/usr/share/tuxpaint/stamps"):
        pytest.skip("the stamps are installed on this machine, so nothing would be fetched")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    (tools / "apt-get").chmod(0o755)
    code = "import os; os.environ['PATH'] = %r + ':' + os.environ['PATH']; from slavc.stamps import find_stamps; find_stamps()" % str(tools)
    done = run("python", "-c", code, cwd=scratch, check=False, SLAVC_CACHE=str(tmp_path / "cache"))
    assert done.returncode != 0 and "could not be fetched" in done.stderr and "no network" in done.stderr and "apt-get install" in done.stderr

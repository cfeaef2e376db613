"""The pipeline: committed tables belong to committed code, the smoke profile runs from a fresh copy, and bad input is named."""

import hashlib
import json
import os
import re
import shutil
import time

import pandas as pd
import pytest
import yaml
from conftest import ROOT, copy_of, run

from slavc.cli import run_stage
from slavc.paper.reports import read_results
from slavc.plan import stages_of, write_plan
from slavc.stages import warm_stages
from slavc.train.params import load_params


def test_locks_are_true(scratch):
    """Every committed result was made by the committed code, params and data: nothing would run again (files that are only cached may be absent)."""
    said = run("dvc", "repro", "--dry", "--allow-missing", cwd=scratch).stdout
    stale = set(re.findall(r"Running stage '([^']+)'", said))
    assert stale <= {"plan"} and "plan" in said, (
        f"run these again and commit the lock: {sorted(stale)}"
    )


def test_the_plan_in_the_lock_is_that_of_this_code(scratch, tmp_path):
    """A comment may have changed since, and then `plan` alone is due: every stage was run by the settings and the code that lie here."""
    write_plan(ROOT / "params.yaml", tmp_path / "plan", ROOT / "nbs/pipeline")
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    known = {
        dep["path"]: dep["md5"]
        for stage in lock.values()
        for dep in stage["deps"]
        if dep["path"].startswith("runs/plan/")
    }
    made = {
        f"runs/plan/{path.name}": hashlib.md5(path.read_bytes()).hexdigest()
        for path in (tmp_path / "plan").glob("*.json")
    }
    assert made == known, (
        f"run these again and commit the lock: {sorted(name for name in made.keys() | known if made.get(name) != known.get(name))}"
    )


HOOKS = (
    "dsol",
    "ezvsl",
    "slavc",
    "slavc-long",
)  # a hook between epochs, none, one after every step; tests/test_methods.py trains all


@pytest.fixture(scope="module")
def smoke(scratch, tmp_path_factory):
    """The smoke profile, run once. For reading: what edits a file gives it back (`changed`), what runs a stage works on a copy."""
    root = copy_of(scratch, tmp_path_factory.mktemp("smoke") / "slavc")
    path = root / "profiles/smoke.yaml"
    params = yaml.safe_load(path.read_text())
    params["methods"] = {name: params["methods"][name] for name in HOOKS}
    path.write_text(yaml.safe_dump(params, sort_keys=False, width=1000))
    start = time.time()
    done = run("slavc", "repro", "profiles/smoke.yaml", "--jobs", "2", cwd=root)
    (root.parent / "said.txt").write_text(done.stdout + done.stderr)
    print(f"smoke profile: {time.time() - start:.0f} s")
    return root / "profiles/smoke"


def here(*command, cwd, **more):
    """A command in a profile's folder, with the package of its repository."""
    return run(*command, cwd=cwd, **(dict(PYTHONPATH=str(cwd.parents[1])) | more))


def another(smoke, folder):
    """A copy of the repository in which smoke was run -> the profile's folder in it."""
    return copy_of(smoke.parents[1], folder) / "profiles/smoke"


def test_smoke_profile_runs(smoke):
    folder = smoke / "reports"
    for name in (
        *(
            f"tables/{name}.md"
            for name in ("README", "table1", "table2", "table3", "table5")
        ),
        *(f"ablations/table4{letter}.md" for letter in "abcd"),
        "ablations/ledger.md",
        "ablations/branches.md",
        "findings/findings.md",
        *(
            f"figures/{name}.svg"
            for name in (
                "epochs",
                "losses",
                "figure2",
                "figure3-threshold",
                "figure3-iou",
            )
        ),
        "ablations/ablations.svg",
        "ablations/branches.jpg",
        "figures/qualitative.jpg",
        "figures/qualitative-all.jpg",
        "effects/effects.csv",
        "metrics.json",
        "stages.csv",
        "notebooks/train-slavc.html",
        *(
            f"../runs/scores/slavc/{name}.csv"
            for name in ("results", "kinds", "curves")
        ),
        "../runs/train/ezvsl/history.csv",
    ):
        assert (folder / name).stat().st_size > 0, name
    results = read_results(smoke / "runs/scores")
    assert {
        *HOOKS,
        *(f"{m}+ogl" for m in HOOKS),
        "ogl",
        "random",
        "whole-image",
        "center-prior",
        "accept-all",
        "presence-oracle",
    } == set(results.method)
    assert set(results.protocol) == {"paper", "released", "strict"} and set(
        results.iou
    ) == {0.5, 0.75}
    main = (
        results[
            results.final
            & (results.protocol == "paper")
            & (results.iou == 0.5)
            & (results.subset == "all")
        ]
        .set_index(["method", "metric", "seed"])
        .value
    )
    assert main["presence-oracle", "AP", 0] == pytest.approx(
        main["presence-oracle", "LocAcc", 0], abs=1e-3
    )  # an oracle of presence: AP = LocAcc
    share = main["center-prior", "LocAcc", 0] / 100
    assert main["accept-all", "accept-all F1", 0] == pytest.approx(
        100 * share / (1 + share / 2), abs=1e-3
    )  # the identity of methods.md


def test_repro_says_how_far_it_is_and_nothing_else(smoke):
    """A line for each stage, numbered, with its time and what is left: no line of DVC, of papermill, of a kernel, and no warning."""
    first, *stages, last = (smoke.parents[2] / "said.txt").read_text().splitlines()
    n, lock = len(stages), yaml.safe_load((smoke / "dvc.lock").read_text())["stages"]
    del lock["plan"]  # runs before it is known what else has to
    assert re.fullmatch(
        rf"{n} stages, 2 at a time(; .* left)?", first
    ) and re.fullmatch(rf"{n} stages in [\d.]+ (s|min)", last)
    said = [
        re.fullmatch(
            r"stage (\d+) of (\d+): ([\w -]+), [\d.]+ (s|min)(; now [\w ,-]+(; (about|more than|less than) [\w ]+ left)?)?",
            line,
        )
        for line in stages
    ]
    assert all(said), stages
    assert (
        [int(m[1]) for m in said] == [*range(1, n + 1)]
        and {int(m[2]) for m in said} == {n}
        and {m[3].replace(" ", "@") for m in said} == {*lock}
    )


def test_the_page_stands_alone(smoke):
    """Every part is there, every link leads somewhere, nothing is fetched, and every stage says its minutes."""
    folder = smoke / "reports"
    page = (folder / "index.html").read_text()
    for title in (
        "Table 1",
        "Table 2",
        "Table 3",
        "Figure 2",
        "Figure 3",
        "Table 4",
        "Table 5",
        "Frames and maps",
        "ledger",
    ):
        assert f">{title}" in page or title in re.findall(
            r"<h2[^>]*>(?:Beyond the paper: the )?([^<,]+)", page
        ), title
    assert (
        not re.search(r'(src|href)="(https?:)?//', page)
        and "<script" not in page
        and "(no record)" not in page
    )
    for link in set(re.findall(r'(?:href|src)="([^"]+)"', page)):
        target, _, mark = link.partition("#")
        assert (folder / target).exists() if target else f'id="{mark}"' in page, link
    run(
        "slavc",
        "show",
        "profiles/smoke.yaml",
        "--page",
        "runs/alone.html",
        cwd=smoke.parents[1],
    )
    assert not re.search(
        r'src="(?!data:image/)', (smoke.parents[1] / "runs/alone.html").read_text()
    )  # pictures inside
    records = smoke / "reports/notebooks"
    made = {p.stem for p in records.glob("*.html")}
    costs = pd.read_csv(smoke / "reports/stages.csv")
    assert (
        {"prepare", "train-slavc", "train-one-space", "effects-slavc", "table4-slavc"}
        <= made
        and made >= set(costs.stage)
        and (costs.MiB > 0).all()
    )


def test_a_cold_stage_gives_the_same_bytes(smoke, tmp_path):
    """`slavc stage` by itself, every import its own, trains the weights and draws the maps of the fork of a warm process."""
    copy = another(smoke, tmp_path / "slavc")
    for command in (
        "slavc stage train",
        "slavc train",
    ):  # the second is what `torchrun` starts
        shutil.rmtree(copy / "runs/train/ezvsl")
        here(*command.split(), "params.yaml", "ezvsl", cwd=copy)
        warm, cold = (
            sorted((folder / "runs/train/ezvsl").glob("*.*"))
            for folder in (smoke, copy)
        )
        assert [p.name for p in cold] == [p.name for p in warm] and any(
            p.suffix == ".safetensors" for p in cold
        )
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(cold, warm))


def test_dvc_metrics_and_plots(smoke):
    """`dvc metrics show` and `diff` are readable, and the plots have data."""
    shown = json.loads(here("dvc", "metrics", "show", "--json", cwd=smoke).stdout)[""][
        "data"
    ]
    assert set(shown) == {"reports/metrics.json"} and set(
        shown["reports/metrics.json"]["data"]["slavc"]
    ) == {"AP", "max-F1", "LocAcc", "presence skill"}
    out = smoke / "dvc_plots"
    here("dvc", "plots", "show", "-o", str(out), cwd=smoke)
    page = (out / "index.html").read_text()
    assert page.count("vega-lite/v5.json") == 4 and '"method": "slavc"' in page


def test_the_smoke_world_is_the_same_everywhere(smoke):
    """Its extended benchmark, counted: a function of params.yaml alone."""
    counts = pd.read_csv(smoke / "reports/counts.csv", index_col="key")["count"]
    assert counts.to_dict() == {
        "Small": 2,
        "Medium": 18,
        "Large": 19,
        "Huge": 21,
        "Total Pos": 60,
        "Real Neg": 4,
        "Easy Neg": 42,
        "Hard Neg": 14,
        "Total Neg": 60,
        "Total": 120,
    }


def test_the_pipeline_never_shows_training_the_truth():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert not [
        d for d in stages["train"]["do"]["deps"] if "truth" in d or "score" in d
    ]
    source = "".join(
        "".join(c["source"])
        for c in json.loads((ROOT / "nbs/pipeline/train.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    )
    assert "truth" not in source


@pytest.mark.parametrize("command", ["slavc repro --jobs 2", "dvc repro", "dvc status"])
def test_a_second_run_does_nothing(smoke, command):
    start = time.time()
    said = here(*command.split(), cwd=smoke).stdout
    assert "Running stage" not in said and "up to date" in said
    print(f"nothing to do: {time.time() - start:.1f} s")


def edit(path, text="edited = True"):
    """Code that does something else, or, with another text, the same."""
    if path.suffix == ".ipynb":
        book = json.loads(path.read_text())
        book["cells"][-1]["source"] = "".join(book["cells"][-1]["source"]) + f"\n{text}"
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    else:
        path.write_text(path.read_text() + f"\n{text}\n")


def test_stages_side_by_side_wait_for_what_they_need(smoke, tmp_path):
    """After an edit `slavc repro --jobs` may start what is due and nothing else, each stage after those it needs."""
    code = "import json; from slavc.cli import due_stages; print(json.dumps({k: sorted(v) for k, v in due_stages()[0].items()}))"
    copy = another(smoke, tmp_path / "slavc")
    edit(copy / "slavc/methods/slavc.py")
    order = json.loads(here("python", "-c", code, cwd=copy).stdout.splitlines()[-1])
    rows = {
        f"ablate@{name}"
        for name in load_params(smoke / "params.yaml")["ablations"]["grid"]
    }
    assert {k: set(values) for k, values in order.items()} == {
        row: set() for row in rows
    } | {
        "train@slavc": set(),
        "train@slavc-long": set(),
        "evaluate@slavc": {"train@slavc"},
        "evaluate@slavc-long": {"train@slavc-long"},
        "tables": {"evaluate@slavc", "evaluate@slavc-long"},
        "figures": {"evaluate@slavc", "evaluate@slavc-long"},
        "branches@slavc": {"train@slavc"},
        "effects@slavc": {"train@slavc", "train@slavc-long", "branches@slavc", *rows},
        "table4@slavc": {"effects@slavc"},
        "findings@slavc": {
            "evaluate@slavc",
            "evaluate@slavc-long",
            "effects@slavc",
            "tables",
        },
        "page@slavc": {"tables", "figures", "table4@slavc", "findings@slavc"},
    }


def planned(smoke, folder, change, text="edited = True"):
    """Which files of the plan differ after an edit: the stages that depend on what was edited."""
    for name in ("slavc", "nbs"):
        copy_of(smoke.parents[1] / name, folder / name)
    edit(folder / change, text)
    here(
        "slavc",
        "plan",
        str(smoke / "params.yaml"),
        "plan",
        cwd=folder,
        PYTHONPATH=str(folder),
    )
    before, after = (
        {p.stem: p.read_bytes() for p in where.glob("*.json")}
        for where in (smoke / "runs/plan", folder / "plan")
    )
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


EVALUATES = {"evaluate-controls", *(f"evaluate-{name}" for name in HOOKS)}


@pytest.mark.parametrize(
    "change, due",
    [
        ("slavc/methods/ezvsl.py", {"train-ezvsl"}),
        (
            "slavc/paper/reports.py",
            {
                "tables",
                "figures",
                "effects-slavc",
                "table4-slavc",
                "findings-slavc",
                "page-slavc",
            },
        ),
        (
            "slavc/score/effects.py",
            {"branches-slavc", "effects-slavc", "table4-slavc", *EVALUATES},
        ),
        ("slavc/paper/ablations.py", {"table4-slavc"}),
        ("slavc/paper/figures.py", {"figures", "table4-slavc"}),
        ("slavc/paper/page.py", {"page-slavc"}),
        ("slavc/cli.py", set()),
        ("nbs/pipeline/figures.ipynb", {"figures"}),
        ("nbs/pipeline/tables.ipynb", {"tables"}),
        ("nbs/pipeline/table4.ipynb", {"table4-slavc"}),
    ],
)
def test_an_edit_runs_only_what_depends_on_it(smoke, tmp_path, change, due):
    """A caption, a figure or a table never trains; a method trains itself."""
    assert planned(smoke, tmp_path, change) == due


@pytest.mark.parametrize(
    "change, text",
    [
        ("slavc/model/losses.py", "# a remark"),
        ("slavc/train/training.py", "\n\n"),
        ("nbs/pipeline/train.ipynb", "# a remark"),
    ],
)
def test_a_remark_runs_nothing(smoke, tmp_path, change, text):
    assert planned(smoke, tmp_path, change, text) == set()


def test_a_changed_loss_trains_all(smoke, tmp_path):
    due = planned(smoke, tmp_path, "slavc/model/losses.py")
    assert {name for name in due if name.startswith("train")} == {
        p.stem for p in (smoke / "runs/plan").glob("train-*.json")
    } and not due & {"prepare", "encode", "tables"}


@pytest.mark.parametrize(
    "kind, trained", [("code", {"train-ezvsl"}), ("markdown", set())]
)
def test_editing_a_methods_notebook_trains_that_method_only(
    smoke, tmp_path, kind, trained
):
    """Through the notebook, as an author would: edit, export, ask what is due. Prose trains nothing."""
    copy = another(smoke, tmp_path / "slavc")
    root = copy.parents[1]
    path = root / "nbs/3_methods/01_ezvsl.ipynb"
    book = json.loads(path.read_text())
    cell = next(
        c
        for c in book["cells"]
        if c["cell_type"] == kind
        and (
            "class EZVSL" in "".join(c["source"])
            if kind == "code"
            else len("".join(c["source"])) > 200
        )
    )
    cell["source"] = "".join(cell["source"]) + (
        "\n    edited = True" if kind == "code" else " Edited."
    )
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    module = root / "slavc/methods/ezvsl.py"
    before = module.read_bytes()
    run("nbdev_export", cwd=root)
    assert (module.read_bytes() != before) == (kind == "code")
    here("slavc", "plan", "params.yaml", "runs/new", cwd=copy)
    assert {
        p.stem
        for p in (copy / "runs/new").glob("*.json")
        if p.read_bytes() != (copy / "runs/plan" / p.name).read_bytes()
    } == trained


def test_settings_that_change_no_number_run_nothing(smoke, tmp_path):
    """Neither the machine's, nor a label that only tables print, train anything; a rate trains its method."""
    text, due = (smoke / "params.yaml").read_text(), {}
    for name, old, new in (
        ("machine", "workers: 2", "workers: 1"),
        ("label", "label: SLAVC, long", "label: SLAVC, longer"),
        ("rate", "clusters: 6", "clusters: 5"),
    ):
        assert old in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new))
        write_plan(tmp_path / f"{name}.yaml", tmp_path / name, smoke / "nbs/pipeline")
        due[name] = {
            p.stem
            for p in (tmp_path / name).glob("*.json")
            if p.read_bytes() != (smoke / "runs/plan" / p.name).read_bytes()
        }
    tables = {
        "tables",
        "figures",
        "effects-slavc",
        "table4-slavc",
        "findings-slavc",
        "page-slavc",
    }
    assert due == dict(machine=set(), label=tables, rate=tables | {"train-dsol"})


def test_stages_declare_what_they_read():
    """Each stage depends on its own file of the plan, and what trains on no truth and no score."""
    stages, params = (
        yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"],
        load_params(ROOT / "params.yaml"),
    )
    plans = {
        dep[10:-5]
        for stage in stages.values()
        for dep in stage.get("do", stage)["deps"]
        if dep.startswith("runs/plan/")
    }
    wanted = {
        f"{stage}-{run}" if run else stage for stage, run, *_ in stages_of(params)
    }
    known = {
        "${key}": {*params["methods"], *params["ablations"]["grid"]},
        "${item}": {"slavc"},
    }
    made = {
        name.replace(mark, value)
        for name in plans
        for mark, values in known.items()
        if mark in name
        for value in values
    } | {name for name in plans if "$" not in name}
    assert wanted <= made and all(
        sum(dep.startswith("runs/plan/") for dep in stage.get("do", stage)["deps"])
        == (name != "plan")
        for name, stage in stages.items()
    )


def test_adding_a_method_is_one_line(smoke, tmp_path):
    """A line in a profile makes a training and an evaluation; the others stay as they are."""
    copy = another(smoke, tmp_path / "slavc")
    root = copy.parents[1]
    path = root / "profiles/smoke.yaml"
    path.write_text(
        path.read_text().replace(
            "\nablations:",
            "\n  another: {module: ezvsl, label: Another, seeds: [0], hyper: {dim: 16, temperature: 0.2}}\nablations:",
        )
    )
    code = "import json, sys; from pathlib import Path; from slavc.cli import due_stages, enter; enter(Path('profiles/smoke.yaml')); print(json.dumps(sorted(due_stages()[0])))"
    due = set(json.loads(run("python", "-c", code, cwd=root).stdout.splitlines()[-1]))
    assert {
        name
        for name in due
        if name.startswith(("train", "ablate", "evaluate", "controls"))
    } == {"train@another", "evaluate@another"}


def test_ones_own_profile_is_one_file(smoke, tmp_path):
    """It says what it changes; its folder, with all that runs in it, is made; what another profile has made already is taken from the cache."""
    root = another(smoke, tmp_path / "slavc").parents[1]
    (root / "profiles/mine.yaml").write_text(
        "base: smoke.yaml\ntitle: mine\nreplace: [methods, ablations]\nmethods: {ezvsl: {seeds: [0]}}\n"
        "ablations: {of: [], seeds: [], grid: {}}\nevaluate: {pictured: [ezvsl]}\n"
    )
    run("slavc", "repro", "profiles/mine.yaml", "--jobs", "2", cwd=root)
    said = run("slavc", "show", "profiles/mine.yaml", cwd=root).stdout
    assert "World: mine" in said and "reports: profiles/mine/reports" in said
    assert (
        not run("git", "status", "--porcelain", cwd=root)
        .stdout.replace("?? profiles/mine.yaml\n", "")
        .replace(" M profiles/smoke.yaml\n", "")
    )
    wrong = run("slavc", "show", "profiles/quick.yaml", cwd=root, check=False)
    assert (
        wrong.returncode == 1
        and "Run `slavc repro profiles/quick.yaml` first" in wrong.stderr
    )


@pytest.fixture
def warm():
    """`slavc stage` is handed over to a process that has imported what it needs; for this test alone, the process itself stays."""
    with warm_stages(run_stage):
        yield


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("module: slavc", "module: slavk", "no method 'slavk'; known are"),
        ("temperature: 0.07", "temprature: 0.07", "temprature"),
        (
            "schedule: cosine",
            "schedule: cosin",
            "train.schedule is 'cosin'; choose constant or cosine",
        ),
        ("batch: 32", "bacth: 32", "train.bacth is not known"),
        (
            "name: procedural",
            "name: procedral",
            "world.name is 'procedral'; known worlds",
        ),
        ("momentum: 0.97", "momentum: 1.97", "momentum must lie in [0, 1]"),
    ],
)
def test_typos_in_params_are_named(smoke, warm, tmp_path, old, new, message):
    """Also those that only the stage itself notices. (tests/test_progress.py: a stage that fails stops the rest.)"""
    text = (smoke / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new))
    name = "prepare" if "procedral" in new else "train"
    said = tmp_path / "said.txt"
    done = here(
        "slavc",
        "stage",
        name,
        str(path),
        *(["slavc"] if name == "train" else []),
        cwd=smoke,
        check=False,
        SLAVC_STAGE_OUTPUT=str(said),
    )
    text = (said.read_text() if said.exists() else "") + done.stderr
    assert (
        done.returncode == 1
        and message in text
        and "Traceback" not in text.split("error: ")[-1]
    ), text[-2000:]


def test_missing_stamps_stop_with_the_remedies(tmp_path, scratch):
    done = run("slavc", "assets", cwd=scratch, check=False, SLAVC_STAMPS=str(tmp_path))
    assert done.returncode == 1
    for remedy in ("apt-get install", "SLAVC_STAMPS", "profiles/smoke.yaml"):
        assert remedy in done.stderr


def test_stamps_that_cannot_be_fetched_stop_too(tmp_path, scratch):
    """No copy and no apt-get: never a silent fallback to another world."""
    if os.path.isdir("/usr/share/tuxpaint/stamps"):
        pytest.skip(
            "the stamps are installed on this machine, so nothing would be fetched"
        )
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    (tools / "apt-get").chmod(0o755)
    code = (
        "import os; os.environ['PATH'] = %r + ':' + os.environ['PATH']; from slavc.data.stamps import find_stamps; find_stamps()"
        % str(tools)
    )
    done = run(
        "python",
        "-c",
        code,
        cwd=scratch,
        check=False,
        SLAVC_CACHE=str(tmp_path / "cache"),
    )
    assert (
        done.returncode != 0
        and "could not be fetched" in done.stderr
        and "no network" in done.stderr
        and "apt-get install" in done.stderr
    )

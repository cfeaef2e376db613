"""What `slavc repro` says while it runs, and what is left of it when it is interrupted: on a pipeline of four small stages."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT, eventually, run

pytestmark = pytest.mark.long
STAGES = dict(
    first="open('first.txt', 'w').write('1'); open('counts.txt', 'a').write('first\\n'); import warnings; warnings.warn('chatter'); print('loud')",
    slow="""import os, subprocess, time
from pathlib import Path
Path(f'begun-{run}').write_text(str(subprocess.Popen(['sleep', '300']).pid))
while not Path('go').exists():
    time.sleep(0.1)
if run == 'a' and Path('bad').exists():
    raise ValueError('no such luck')
open(f'slow-{run}.txt', 'w').write('1')""",
    last="open('last.txt', 'w').write('1')",
)
PIPELINE = dict(
    stages=dict(
        first=dict(
            cmd="slavc stage first params.yaml",
            deps=["nbs/pipeline/first.ipynb"],
            outs=["first.txt"],
        ),
        slow=dict(
            foreach=["a", "b"],
            do=dict(
                cmd="slavc stage slow params.yaml ${item}",
                deps=["first.txt"],
                outs=["slow-${item}.txt"],
            ),
        ),
        last=dict(
            cmd="slavc stage last params.yaml",
            deps=["slow-a.txt", "slow-b.txt"],
            outs=["last.txt"],
        ),
    )
)


@pytest.fixture
def place(tmp_path_factory):
    """A repository with the package and four stages: `first`, then `slow` a and b, which wait for a file `go`, then `last`."""
    folder = tmp_path_factory.mktemp("progress")
    (folder / "slavc").symlink_to(ROOT / "slavc")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / "nbs/pipeline").mkdir(parents=True)
    for name, source in STAGES.items():
        cells = [
            nbformat.v4.new_code_cell(
                "params_file = ''\nrun = ''", metadata=dict(tags=["parameters"])
            ),
            nbformat.v4.new_code_cell(source),
        ]
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata.kernelspec = dict(
            name="python3", display_name="python3", language="python"
        )
        nbformat.write(book, folder / f"nbs/pipeline/{name}.ipynb")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    records = folder / "runs/notebooks"
    records.mkdir(parents=True)
    for name, minutes in (("first", 0.1), ("slow-a", 3), ("slow-b", 3), ("last", 2)):
        (records / f"{name}.json").write_text(json.dumps(dict(minutes=minutes, MiB=1)))
    yield folder
    for process in started:  # of a test that failed half-way
        if process.poll() is None:
            process.terminate()
            process.wait()


started = []


def begin(place, *options, **more):
    """`slavc repro --jobs 2` in a session of its own, with what it says in a file -> the process, the file."""
    said = place.parent / f"said-{time.time_ns()}"
    env = os.environ | dict(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH=str(place),
    )
    with said.open("wb") as file:
        started.append(
            subprocess.Popen(
                ["slavc", "repro", "--jobs", "2", *options],
                cwd=place,
                env=env,
                start_new_session=True,
                **(dict(stdout=file, stderr=file) | more),
            )
        )
    return started[-1], said


def processes():
    """{process: the one that started it}, without those that have ended and only wait to be looked at."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (
                    (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                )
            except OSError:
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def family(process):
    """A process and all that it started, directly or not."""
    parents, found = processes(), {process}
    while (
        more := {child for child, parent in parents.items() if parent in found} - found
    ):
        found |= more
    return found


def waits(place):
    """Both `slow` stages, or the one that is left, have begun."""
    files = [
        p
        for p in map(place.joinpath, ("begun-a", "begun-b"))
        if not (place / p.name.replace("begun", "slow")).with_suffix(".txt").exists()
    ]
    return all(p.exists() and p.read_text() for p in files)


def terminated_it_leaves_nothing_running(place):
    process, said = begin(place)
    eventually(lambda: waits(place), 120)
    members = family(process.pid) | {
        int((place / f"begun-{run}").read_text()) for run in "ab"
    }
    assert (
        len(members) > 10
    )  # slavc, the warm process; for each of two stages DVC, its command, the fork, the kernel, its child
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    eventually(lambda: not members & processes().keys(), 5)
    lines = said.read_text().splitlines()
    assert lines[0].startswith("4 stages, 2 at a time; about 5 min left"), (
        lines
    )  # two of 3 minutes side by side, then one of 2
    assert re.fullmatch(
        r"stage 1 of 4: first, \d+ s; now slow [ab], slow [ab]; about [4-6] min left",
        lines[1],
    ), lines
    assert len(lines) == 4 and all(
        line.startswith("interrupted") for line in lines[2:]
    ), lines
    assert "last" not in yaml.safe_load((place / "dvc.lock").read_text())["stages"]


def a_stage_that_fails_shows_its_error(place):
    """The run goes on where the interrupted one was; the other stage comes to its end, and what needs both does not run."""
    (place / "bad").touch(), (place / "go").touch(), (place / "begun-a").unlink()
    process, said = begin(place)
    assert process.wait(120) == 1
    text = said.read_text()
    assert (
        text.startswith("3 stages, 2 at a time")
        and "ValueError: no such luck" in text
        and "error: stopped at slow@a" in text
    )
    assert re.search(
        r"^stage [12] of 3: slow a, stopped after \d+ s", text, re.M
    ) and re.search(r"^stage [12] of 3: slow b, \d+ s", text, re.M), text
    assert (
        not (place / "last.txt").exists()
        and (place / "counts.txt").read_text() == "first\n"
    )


def verbose_says_all_and_nothing_outlives_a_kill(place):
    for name in ("bad", "go", "begun-a"):
        (place / name).unlink()
    (place / "nbs/pipeline/first.ipynb").write_text(
        (place / "nbs/pipeline/first.ipynb").read_text() + "\n"
    )  # all is due again, though nothing but `first` has to run
    process, said = begin(place, "--verbose")
    eventually(lambda: waits(place), 120)
    members = family(process.pid) | {int((place / "begun-a").read_text())}
    text = said.read_text()
    for words in (
        "Running stage 'first'",
        "> slavc stage slow params.yaml a",
        "Updating lock file",
        "loud",
        "chatter",
        "stage 1 of 4: first",
    ):
        assert words in text, text
    process.kill()
    process.wait()
    eventually(lambda: not members & processes().keys(), 20)


def a_bar_in_a_terminal(place):
    """Below the lines of what is done a bar says what runs; the rest of the run comes to its end."""
    (place / "go").touch()
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process, _ = begin(place, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(mine, 4096)
        except OSError:  # its other end is closed
            break
        if not part:
            break
        text += part
    os.close(mine)
    assert process.wait(60) == 0
    lines = [
        line.strip()
        for line in re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text.decode())
        .replace("\r", "\n")
        .splitlines()
        if line.strip()
    ]
    bars = {
        line
        for line in lines
        if re.search(
            r"stage \d of 2: [\w ]+; (about \d min|less than a minute) left$", line
        )
    }
    assert any("stage 1 of 2: slow a;" in line for line in bars) and any(
        "stage 2 of 2: last;" in line for line in bars
    ), lines
    kept = [line for line in lines if line not in bars]
    assert [re.sub(r", \d+ s$", "", line) for line in kept[1:-1]] == [
        "stage 1 of 2: slow a",
        "stage 2 of 2: last",
    ] and kept[-1].startswith("2 stages in "), lines
    assert (place / "counts.txt").read_text() == "first\nfirst\n" and (
        place / "last.txt"
    ).exists()
    assert "up to date" in run("slavc", "repro", cwd=place).stdout


def test_one_run_terminated_failing_killed_and_ended(place):
    """Each part goes on where the one before left the pipeline, so they are one test."""
    for part in (
        terminated_it_leaves_nothing_running,
        a_stage_that_fails_shows_its_error,
        verbose_says_all_and_nothing_outlives_a_kill,
        a_bar_in_a_terminal,
    ):
        part(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_to_end_a_run(number, tmp_path):
    code = "import os, sys; from slavc.cli import interruptible\nwith interruptible(): [os.kill(os.getpid(), int(sys.argv[1])) for _ in range(3)]"
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(number))], capture_output=True, text=True
    )
    assert done.returncode == 128 + number and done.stderr.count("interrupted") == 1

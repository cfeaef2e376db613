"""What several tests share: the repository, a copy of it to run things in, and where the optional material is."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG = (
    "test_pipeline",
    "test_notebooks",
    "test_paper",
    "test_distributed",
    "test_collection",
    "test_training",
    "test_methods",
    "test_progress",  # a minute and more each
    "test_bootstrap",
    "test_calibration",
    "test_audit",
    "test_findings",
    "test_model",
    "test_accumulator",
    "test_worlds",  # ten seconds and more
    "test_golden_evaluator",
    "test_negative_audio",
    "test_localize",
    "test_figures",
    "test_predictions",
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whatever the order (it is random), files that take long begin first, so that the processes end together; `make check` leaves them out."""
    for item in items:
        if item.path.stem in LONG:
            item.add_marker(pytest.mark.long)
    yield  # here they are shuffled, and selected by their marks
    items.sort(
        key=lambda item: (
            LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)
        )
    )


FORKS = multiprocessing.get_context(
    "forkserver"
)  # imports the heavy packages once; every process of `alone` starts from there
FORKS.set_forkserver_preload(
    ["torch", "torchvision", "pandas", "scipy.stats", "matplotlib.pyplot", "nbdev.test"]
)


def _alone(function, arguments):
    multiprocessing.set_start_method(
        None, force=True
    )  # the platform's own, as in a process started by hand
    function(*arguments)


def alone(function, *arguments):
    """function(*arguments), importable by name, in a process of its own, with which its memory ends -> exit status, 0 if it returned."""
    process = FORKS.Process(target=_alone, args=(function, arguments))
    process.start()
    process.join()
    return process.exitcode


def run(*command, cwd, check=True, **more):
    """Run a command of the environment with the package taken from `cwd`; its output is part of a failure."""
    env = (
        os.environ
        | dict(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            PYTHONPATH=str(cwd),
        )
        | more
    )
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if check and done.returncode:
        pytest.fail(
            f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done


def eventually(condition, seconds=30):
    """Wait until condition() holds."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came"
        time.sleep(0.05)


def copy_of(folder, target):
    """A copy of a repository, to change at will."""
    return Path(shutil.copytree(folder, target, symlinks=True))


@contextmanager
def changed(path, *replacements):
    """The file with each (old, new) replaced, or just another byte at its end; afterwards it is as before, whatever happened."""
    before = path.read_bytes()
    text = before.decode() + ("" if replacements else "\n")
    for old, new in replacements:
        assert old in text, f"{path}: no {old!r}"
        text = text.replace(old, new)
    path.write_text(text)
    try:
        yield path
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A git repository with the files of the work tree as they are now: tracked ones and new ones that git does not ignore.

    It is for reading: what would change it works on `copy_of(scratch, ...)`, or the last test of the session fails."""
    folder = tmp_path_factory.mktemp("scratch") / "slavc"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "-qm",
            "scratch",
        ],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    yield folder
    differs = subprocess.run(
        ["git", "status", "--porcelain"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not differs, (
        f"a test has changed the repository that others read:\n{differs}"
    )

"""The environment: the lock is whole and true, what drifts from it is noticed, stages run in it, and `make env` says what it lacks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, eventually, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from slavc.cli import app
from slavc.environment import Imports, differences, read_lock
from slavc.stages import execute, warm_stages

LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked_for():
    """Every requirement that pyproject.toml states, extras included."""
    lines = PROJECT["dependencies"] + [
        line for extra in PROJECT["optional-dependencies"].values() for line in extra
    ]
    return [need for need in map(Requirement, lines) if need.name != "slavc"]


@pytest.mark.parametrize("need", asked_for(), ids=lambda need: need.name)
def test_the_lock_satisfies_pyproject(need):
    locked = {canonicalize_name(name): pin for name, pin in read_lock(LOCK).items()}
    assert need.specifier.contains(locked[canonicalize_name(need.name)]), (
        f"{need} but the lock has {locked[need.name]}: run `make lock`"
    )


def test_the_lock_names_no_address_and_hashes_everything():
    text = LOCK.read_text()
    assert not re.search(
        r"://|^\s*-{1,2}(i|index-url|extra-index-url|find-links|f)\b", text, re.M
    )
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) > 200
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==[\w.]+ ", block) and re.search(
            r"--hash=sha256:[0-9a-f]{64}$", block, re.M
        ), block[:200]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_is_for_every_platform_at_once(python, machine):
    """What the markers leave on another machine still has everything that pyproject.toml asks for, each name once."""
    there = dict(
        python_version=python,
        python_full_version=f"{python}.7",
        platform_machine=machine,
        sys_platform="linux",
        os_name="posix",
        platform_system="Linux",
        implementation_name="cpython",
        platform_python_implementation="CPython",
        extra="",
    )
    names = [
        need.name
        for line in LOCK.read_text().splitlines()
        if re.match(r"[a-z0-9]", line)
        for need in [Requirement(line.removesuffix("\\").strip())]
        if need.marker is None or need.marker.evaluate(there)
    ]
    assert len(names) == len(set(names)) and {
        canonicalize_name(n.name) for n in asked_for()
    } <= set(names)


def imported_names(path):
    """Top-level names that a module or a notebook imports, also inside functions."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, 4).cells
        source = "\n".join(
            re.sub(r"^[%!].*$", "", c.source, flags=re.M)
            for c in cells
            if c.cell_type == "code"
        )
    else:
        source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_import_is_in_the_lock_and_in_pyproject():
    """What package, pipeline, benchmarks and tests import comes from a package that is asked for by name and locked."""
    ours = {"slavc"} | {
        p.stem for folder in ("tests", "bench") for p in (ROOT / folder).glob("*.py")
    }
    stated, homes = (
        {canonicalize_name(n.name) for n in asked_for()},
        packages_distributions(),
    )
    for pattern in (
        "slavc/**/*.py",
        "nbs/pipeline/*.ipynb",
        "tests/*.py",
        "bench/*.py",
    ):
        for path in sorted(ROOT.glob(pattern)):
            for name in set(imported_names(path)) - ours - set(sys.stdlib_module_names):
                assert {
                    canonicalize_name(home) for home in homes.get(name, [])
                } & stated, (
                    f"{path.name} imports {name}, which pyproject.toml does not ask for"
                )


def test_this_environment_is_the_locked_one():
    """The results of every other test are of these versions. (It fails in an environment that `make env` did not make.)"""
    assert differences(read_lock(LOCK)) == []


def test_the_doctor_notices_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr("slavc.environment.direct_packages", lambda: ["tqdm"])
    other = tmp_path / "other.lock"
    other.write_text(
        re.sub(r"^tqdm==\S+", "tqdm==0.0.1", LOCK.read_text(), flags=re.M)
        + "no-such-package==1.0 \\\n    --hash=sha256:"
        + "0" * 64
        + "\n"
    )
    done = CliRunner().invoke(app, ["doctor", "--lock", str(other)])
    assert done.exit_code == 1 and "2 problems" in done.output
    assert (
        f"tqdm is {version('tqdm')}, the lock says 0.0.1" in done.output
        and "no-such-package 1.0 is not installed" in done.output
        and "make env" in done.output
    )


def test_the_doctor_names_a_lock_that_is_not_there(tmp_path):
    done = CliRunner().invoke(app, ["doctor", "--lock", str(tmp_path / "none.lock")])
    assert done.exit_code == 1 and "none.lock: no lock" in done.output


def test_the_doctor_is_content_with_this_environment():
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    for word in (
        "slavc",
        "python",
        "packages",
        "imports",
        "kernel",
        "assets",
        "machine",
        "GPU",
        "processors",
        "disk",
    ):
        assert word in done.output


@pytest.mark.parametrize(
    "body, said",
    [
        (
            "raise OSError('libtorchaudio.so: undefined symbol: gone')",
            "undefined symbol: gone",
        ),
        ("import os; os.kill(os.getpid(), 11)", "status -11"),
    ],
)
def test_an_import_that_fails_is_named(tmp_path, monkeypatch, body, said):
    (tmp_path / "torchaudio.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    errors, _ = Imports(["json", "torchaudio"]).result()
    assert list(errors) == ["torchaudio"] and said in errors["torchaudio"]


@pytest.mark.parametrize(
    "body",
    [
        "raise OSError('libtorchaudio.so: undefined symbol: gone')",
        "raise ModuleNotFoundError('no torchaudio')",
    ],
)
def test_torchaudio_that_does_not_load_is_one_message(tmp_path, body):
    """Everything imports without it, and what needs it says what to install."""
    (tmp_path / "torchaudio.py").write_text(body)
    code = "import torch, slavc.data.audio, slavc.data.media\nslavc.data.audio.resample(torch.zeros(10), 3, 3)\ntry: slavc.data.audio.resample(torch.zeros(10), 3, 2)\nexcept ImportError as error: print(error)"
    said = run(
        sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}"
    ).stdout
    assert (
        "does not load beside torch" in said
        and "'torchaudio==" in said
        and len(said.splitlines()) == 1
    )


def test_a_foreign_kernel_cannot_take_a_stage(tmp_path, monkeypatch):
    """A `python3` on JUPYTER_PATH that starts something else, and a start-up file of the user: neither has a say."""
    spec = tmp_path / "jupyter/kernels/python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/bin/false", "{connection_file}"], "display_name": "python3", "language": "python"}'
    )
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("hostile = True")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from jupyter_client.kernelspec import KernelSpecManager

    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == "/bin/false", (
        "the trap is set"
    )
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import sys; print(sys.executable, 'hostile' in globals())"
            )
        ]
    )
    book.metadata.kernelspec = dict(
        name="python3", display_name="python3", language="python"
    )
    nbformat.write(book, tmp_path / "which.ipynb")
    done = execute(tmp_path / "which.ipynb", tmp_path / "done.ipynb", {})
    assert done.cells[-1].outputs[0].text.split() == [sys.executable, "False"]
    assert os.environ["IPYTHONDIR"] == str(tmp_path / "ipython")


# `make env`, on machines that lack something: a folder of chosen programs is all that PATH has


def machine(folder, **programs):
    """A copy of what `make env` reads, and a PATH with a few plain tools and `programs` {name: shell text}."""
    (folder / "tools").mkdir()
    for name in ("tools/env.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    path = folder / "bin"
    path.mkdir()
    for name in (
        "sh",
        "awk",
        "cat",
        "cksum",
        "cut",
        "dirname",
        "echo",
        "grep",
        "head",
        "printf",
        "rm",
        "tail",
        "touch",
        "tr",
    ):
        (path / name).symlink_to(shutil.which(name))
    for name, text in (
        dict(df="printf 'Filesystem\\nx 9 9 99999999 9 /\\n'") | programs
    ).items():
        (path / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
        (path / name).chmod(0o755)
    return subprocess.run(
        ["sh", "tools/env.sh"],
        cwd=folder,
        env=dict(PATH=str(path)),
        capture_output=True,
        text=True,
    )


VENV = (
    r"""case "$*" in
  *"import sys; sys.exit"*) exit 0;;                                  # it is of a supported version
  *"import ensurepip"*) exit {ensurepip};;
  *"print("*) echo python3.12-venv;;
  *"-m venv"*) %s -c "import os, sys; os.makedirs('.venv/bin'); os.symlink(os.path.abspath('bin/python3.12'), '.venv/bin/python')";;
  *"pip --version"*) exit 0;;
  *"pip install"*) echo "{pip}"; exit {status};;
  *-V*) echo Python 3.12.1;;
esac"""
    % sys.executable
)


def python(ensurepip=0, pip="", status=0):
    return VENV.format(ensurepip=ensurepip, pip=pip, status=status)


def test_make_env_without_a_python(tmp_path):
    done = machine(
        tmp_path, **{"python3.13": "exit 1"}
    )  # a shim with no Python behind it
    assert (
        done.returncode == 1
        and "no Python 3.11 to 3.13 was found: install one" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_make_env_without_venv(tmp_path):
    done = machine(tmp_path, **{"python3.12": python(ensurepip=1)})
    assert (
        done.returncode == 1
        and "python3.12 has no venv module" in done.stderr
        and "apt-get install python3.12-venv" in done.stderr
        and not (tmp_path / ".venv").exists()
    )


def test_make_env_without_room(tmp_path):
    done = machine(
        tmp_path,
        **{"python3.12": python(), "df": "printf 'Filesystem\\nx 9 9 2097152 9 /\\n'"},
    )
    assert (
        done.returncode == 1
        and "2 GB of disk are free here, and the environment needs 8" in done.stderr
    )


@pytest.mark.parametrize(
    "pip, said",
    [
        (
            "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by NewConnectionError",
            "the package index cannot be reached: connect to a network",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full: free 8 GB",
        ),
        ("ERROR: something else", "pip could not install what requirements.lock names"),
    ],
)
def test_make_env_when_pip_fails(tmp_path, pip, said):
    done = machine(tmp_path, **{"python3.12": python(pip=pip, status=1)})
    assert (
        done.returncode == 1
        and said in done.stderr
        and not (tmp_path / ".venv/made").exists()
    )


def test_make_env_takes_the_newest_python_and_is_done_once(tmp_path):
    """The newest that works is taken; a second run installs nothing from the lock; a changed lock makes the environment anew."""
    done = machine(
        tmp_path,
        **{"python3.13": "exit 1", "python3.12": python(), "python3.11": "exit 9"},
    )
    assert done.returncode == 0 and "for Python 3.12.1" in done.stdout, done.stderr
    again = lambda: subprocess.run(
        ["sh", "tools/env.sh"],
        cwd=tmp_path,
        env=dict(PATH=str(tmp_path / "bin")),
        capture_output=True,
        text=True,
    )
    assert "Installing" not in again().stdout
    (tmp_path / ".venv/mine").touch()
    (tmp_path / "requirements.lock").write_text(LOCK.read_text() + "\n")
    assert (
        "is not what .venv was made from: making .venv anew" in again().stdout
        and not (tmp_path / ".venv/mine").exists()
    )


def copy_without_git(scratch, folder):
    shutil.copytree(
        scratch, folder, symlinks=True, ignore=shutil.ignore_patterns(".git")
    )
    return folder


@pytest.mark.long
def test_a_copy_without_git_runs(scratch, tmp_path):
    """A ZIP of the repository: DVC is told, and a stage runs and is recorded."""
    copy = copy_without_git(scratch, tmp_path / "zip")
    code = "from slavc.cli import allow_no_git, run_stages; allow_no_git(); print('FAILED', run_stages({'plan': [], 'audit': ['plan']}, 1, {}))"
    record = copy / "reports/paper_audit.md"
    record.unlink()
    done = run(sys.executable, "-c", code, cwd=copy)
    assert (
        "FAILED []" in done.stdout and "no .git here" in done.stderr and record.exists()
    )
    said = run(
        "slavc", "repro", "profiles/smoke.yaml", "--jobs", "0", cwd=copy, check=False
    )
    assert said.returncode == 2 and "--jobs" in said.stderr


def linger(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.long
def test_work_that_is_handed_over(tmp_path):
    """Without a warm process nobody answers; with one its exit status comes back; and when the asker is killed, its work ends too."""
    ask = [
        sys.executable,
        "-c",
        "import sys; from slavc.stages import hand_over; print(hand_over(*sys.argv[1:]))",
    ]
    answer = lambda *words: subprocess.run(
        [*ask, *words], capture_output=True, text=True
    ).stdout.strip()
    assert answer() == "None"
    with warm_stages(sys.exit):
        assert (answer(), answer("any word")) == ("0", "1")
    mark = tmp_path / "begun"
    with warm_stages(linger):
        asker = subprocess.Popen([*ask, str(mark)])
        eventually(lambda: mark.exists() and mark.read_text())
        asker.kill()
        asker.wait()
        eventually(lambda: not Path("/proc", mark.read_text()).exists())
    assert answer() == "None"


@pytest.mark.parametrize(
    "where, arguments, message",
    [
        ("nbs", [], "params.yaml: no such params file. Run from the repository's root"),
        (
            "nbs",
            ["../params.yaml"],
            "is not the root of slavc's repository. Go there first: cd ",
        ),
        (
            "profiles",
            ["smoke.yaml"],
            "is not the root of slavc's repository. Go there first: cd ",
        ),
        (
            "..",
            ["{root}/params.yaml"],
            "is not the root of slavc's repository. Go there first: cd ",
        ),
        (".", ["nosuch.yaml"], "nosuch.yaml: no such params file"),
        (".", ["{lone}"], "dvc.yaml: not there"),
    ],
)
def test_repro_in_the_wrong_place(tmp_path, monkeypatch, where, arguments, message):
    """One message and an exit code that is not 0, and nothing runs."""
    lone = tmp_path / "params.yaml"
    lone.write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(ROOT / where)
    done = CliRunner().invoke(
        app, ["repro", *[a.format(root=ROOT, lone=lone) for a in arguments]]
    )
    assert (
        done.exit_code == 1
        and message in done.output
        and "Traceback" not in done.output
    ), done.output


def test_stages_of_another_checkout_are_refused(scratch):
    """This environment's command in another clone would run our code and record theirs."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "slavc"), "repro", "profiles/smoke.yaml"],
        cwd=scratch,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert (
        done.returncode == 1
        and "this command belongs to the package in" in done.stderr
        and "make env" in done.stderr
    )

"""What several tests share: the repository, a copy of it to run things in, and where the optional material is."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd, check=True, **more):
    """Run a command of the environment with the package taken from `cwd`; its output is part of a failure."""
    env = os.environ | dict(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PYTHONPATH=str(cwd), **more)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if check and done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A git repository with the files of the work tree as they are now: tracked ones and new ones that git does not ignore."""
    folder = tmp_path_factory.mktemp("scratch") / "slavc"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "scratch"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder

"""`nbdev_test`, one test per chapter, each in a process of its own: what a chapter leaves in memory ends with it."""

import os
import sys

import pytest
from conftest import ROOT, alone
from nbdev.test import test_nb as run_notebook

CHAPTERS = [ROOT / "nbs/index.ipynb", *sorted((ROOT / "nbs").glob("[0-9]_*/*.ipynb"))]


def run_chapter(path, skip, force):
    os.environ |= dict(MPLBACKEND="agg", IN_TEST="1")
    ok, _ = run_notebook(path, skip_flags=skip, force_flags=force, basepath=ROOT)
    sys.exit(not ok)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path):
    skip, force = ["notest", "gpu", "slow", "stamps"], []
    if "#| stamps" in path.read_text():
        from slavc.data.stamps import find_stamps

        try:
            find_stamps(fetch=False)
            skip.remove("stamps")
            force = ["stamps"]
        except FileNotFoundError:
            pass
    status = alone(run_chapter, path, skip, force)
    assert status == 0, (
        f"{path.name} failed (exit status {status}); run it in JupyterLab to see where"
    )

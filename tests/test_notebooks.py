"""`nbdev_test`, one test per chapter."""
from contextlib import chdir

import pytest
from conftest import ROOT
from nbdev.test import test_nb as run_notebook

CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path, monkeypatch):
    skip = ["notest", "gpu", "slow", "stamps"]
    if "#| stamps" in path.read_text() or '"#| stamps' in path.read_text():
        from slavc.stamps import find_stamps
        try:
            find_stamps(fetch=False)
            skip.remove("stamps")
        except FileNotFoundError:
            pass
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IN_TEST", "1")                             # nbdev sets it and leaves it; with it `nbdev_export` does nothing, also in later tests
    ok, _ = run_notebook(path, skip_flags=skip, force_flags=[f for f in ("stamps",) if f not in skip], basepath=ROOT)
    assert ok, f"{path.name} failed; run it in JupyterLab to see where"

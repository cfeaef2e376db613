"""`nbdev_test`, one test per chapter."""
from contextlib import chdir

import pytest
from conftest import ROOT
from nbdev.test import test_nb as run_notebook

CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path):
    import os
    skip = ["notest", "gpu", "slow", "stamps"]
    if "#| stamps" in path.read_text() or '"#| stamps' in path.read_text():
        from slavc.stamps import find_stamps
        try:
            find_stamps(fetch=False)
            skip.remove("stamps")
        except FileNotFoundError:
            pass
    os.environ["MPLBACKEND"] = "agg"
    ok, _ = run_notebook(path, skip_flags=skip, force_flags=[f for f in ("stamps",) if f not in skip], basepath=ROOT)
    assert ok, f"{path.name} failed; run it in JupyterLab to see where"

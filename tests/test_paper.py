"""The rehearsal of profiles/paper: from MP4 files (H.264, AAC) and lists in the released layout to every table, by the command of the README."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from conftest import changed, copy_of, run

from slavc.data.media import write_video
from slavc.data.procedural import procedural_bank
from slavc.data.scenes import SceneWorld
from slavc.data.worlds import prepare
from slavc.model.checkpoints import load_checkpoint
from slavc.train.params import load_params

TEST, TRAIN = (
    [f"testtest{k:03d}_{k:06d}" for k in range(18)],
    [f"traintr{k:04d}_{k:06d}" for k in range(24)],
)
BF16_UNITS = bool(
    {"avx512_bf16", "amx_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split())
)  # without, bf16 is emulated, 40 times slower than fp32
GONE = TEST[15]  # its video has vanished


def make_data(root, seconds=4.0):
    """Videos of drawn objects with their sounds, and lists: 16 positives, 16 negatives (2 real, the last two of TEST), a training list with 3 clips of the test."""
    world = SceneWorld(
        procedural_bank(sounding=4, silent_things=4),
        "train",
        8,
        1,
        96,
        kinds=["positive"] * 8,
    )
    for k, name in enumerate([*TEST, *TRAIN]):
        if name != GONE:
            clip = world[k % 8]
            frame = np.concatenate([clip.frame, clip.frame[:, :48]], axis=1)
            write_video(
                root / "videos" / f"class{k % 4}" / f"{name}.mp4",
                [frame] * int(seconds * 5),
                5,
                np.tile(clip.waveform, 9)[: int(seconds * clip.rate)],
                clip.rate,
            )
    lists = root / "metadata"
    lists.mkdir()
    (lists / "vggss.json").write_text(
        json.dumps(
            [
                {
                    "file": i,
                    "class": f"class{k % 4}",
                    "bbox": [[0.1, 0.1, 0.3 + 0.04 * k, 0.8]],
                }
                for k, i in enumerate(TEST[:16])
            ]
        )
    )
    (lists / "vggss_test.csv").write_text("".join(f"{i}\n" for i in TEST[:16]))
    pairs = [(TEST[16], TEST[16]), (TEST[17], TEST[17])] + [
        (TEST[k], TEST[(k + (4 if k < 6 else 1)) % 14]) for k in range(14)
    ]
    (lists / "vggss_test_plus_silent.csv").write_text(
        "video,audio,label\n" + "".join(f"{v},{a},non-sounding\n" for v, a in pairs)
    )
    (lists / "vggss_144k.txt").write_text(
        "".join(f"{i}\n" for i in sorted(TRAIN + TEST[:3]))
    )


def small(params):
    """The paper's profile at a size for two cores: the same world, methods SLAVC alone, one row of ablations."""
    params["world"] |= dict(frame=64, side=70)
    params["audio"] |= dict(hop=3 * 238)  # spectrograms a third as wide
    params["machine"] |= dict(workers=2, processes=1, loaders=1)
    params["train"] |= dict(device="cpu", threads=1)
    if not BF16_UNITS:  # tests/test_methods.py trains every method in bf16 all the same
        params["train"]["precision"] = "fp32"
    params["methods"] = {
        "slavc": dict(seeds=[0], train=dict(batch=8, epochs=2), hyper=dict(dim=16))
    }
    params["ablations"]["grid"] = {"momentum-900": {"of": "slavc", "momentum": 0.9}}
    params["evaluate"] = dict(showcase=6, pictured=["slavc"])
    return params


@pytest.fixture(scope="module")
def rehearsed(scratch, tmp_path_factory):
    folder = copy_of(scratch, tmp_path_factory.mktemp("rehearsal") / "slavc")
    make_data(folder / "data/vggsound")
    home = tmp_path_factory.mktemp("torch")  # in place of the download
    (home / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(
        torchvision.models.resnet18(weights=None).state_dict(),
        home
        / "hub/checkpoints"
        / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1],
    )
    path = folder / "profiles/paper.yaml"
    path.write_text(
        yaml.safe_dump(
            small(yaml.safe_load(path.read_text())), sort_keys=False, width=1000
        )
    )
    run("slavc", "repro", "profiles/paper.yaml", cwd=folder, TORCH_HOME=str(home))
    return folder


def settings(rehearsed):
    return load_params(rehearsed / "profiles/paper/params.yaml")


def test_the_paper_profile_runs_from_videos_to_tables(rehearsed):
    reports, data = (
        rehearsed / "profiles/paper/reports",
        rehearsed / "profiles/paper/runs/data",
    )
    for name in (
        *(
            f"tables/{name}.md"
            for name in ("table1", "table2", "table3", "table5", "README")
        ),
        "ablations/table4b.md",
        "findings/findings.md",
        "figures/figure2.svg",
        "figures/qualitative.jpg",
    ):
        assert (reports / name).stat().st_size > 0, name
    train = json.loads((data / "train/ids.json").read_text())
    assert train == sorted(TRAIN)  # without the three clips of the test
    counts = pd.read_csv(reports / "counts.csv").set_index("key")["count"]
    missing = pd.read_csv(data / "truth/missing.csv")
    assert (
        counts["Missing"] == len(missing)
        and (missing.video.eq(GONE) | missing.audio.eq(GONE)).all()
    )
    assert counts["Total"] + counts["Missing"] == 32
    said = (reports / "tables/README.md").read_text()
    assert "{" not in said and "another world" not in said
    assert "smaller world" not in (reports / "index.html").read_text()
    assert (
        "31 test pairs (of the official 32; videos are missing)" in said
        and "as released" not in said
    )
    about = load_checkpoint(
        rehearsed / "profiles/paper/runs/train/slavc/seed-0.safetensors"
    )[1]
    assert (
        about["train"]["precision"] == ("bf16" if BF16_UNITS else "fp32")
        and about["encoders"]["preset"] == "resnet18"
        and about["seconds"] == 3.0
    )
    assert "| ok" in (rehearsed / "data/vggsound/packed/report.md").read_text()


def test_prepared_again_nothing_changes(rehearsed, tmp_path):
    """Packing goes on from what is there, and the lists come out the same."""
    from contextlib import chdir

    params = settings(rehearsed)
    with chdir(rehearsed):
        packed = rehearsed / "data/vggsound/packed"
        before = {file.name: file.read_bytes() for file in packed.glob("*.*")}
        prepare(params, tmp_path)
        assert {
            file.name: file.read_bytes() for file in packed.glob("*.*")
        } == before  # a source done twice would be a second line of the journal
    assert (tmp_path / "train/ids.json").read_bytes() == (
        rehearsed / "profiles/paper/runs/data/train/ids.json"
    ).read_bytes()
    assert (tmp_path / "train/digest.txt").read_bytes() == (
        rehearsed / "profiles/paper/runs/data/train/digest.txt"
    ).read_bytes()


def test_the_released_list_is_said(rehearsed, tmp_path):
    """With `keep_test` the test's clips stay in, and the captions say so; without the videos `packed/` alone is enough."""
    from contextlib import chdir

    from slavc.paper.reports import setting

    params = settings(rehearsed)
    params["world"]["keep_test"] = True
    alone = tmp_path / "alone"
    copy_of(rehearsed / "data/vggsound/packed", alone / "data/vggsound/packed")
    copy_of(rehearsed / "data/vggsound/metadata", alone / "data/vggsound/metadata")
    with chdir(alone):
        prepare(params, tmp_path)
    assert set(TEST[:3]) < set(json.loads((tmp_path / "train/ids.json").read_text()))
    assert "clips of the test are among them" in setting(
        params, pd.read_csv(rehearsed / "profiles/paper/reports/counts.csv")
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(missing="raise"),
            "1 of 18 clips of the test are not there, first testtest015_000015.*Prepare their videos, or set world.missing to drop",
        ),
        (dict(missing="perhaps"), "world.missing must be raise or drop"),
        (dict(data_root="data/nowhere"), "no such folder .world.data_root"),
        (dict(rate=16000), "was begun with|must|not with"),
        (dict(sides=3), "sides is not known; a collection world needs data_root"),
    ],
)
def test_bad_settings_are_named(rehearsed, tmp_path, change, message):
    from contextlib import chdir

    params = settings(rehearsed)
    params["world"] |= change
    with (
        chdir(rehearsed),
        pytest.raises((ValueError, FileNotFoundError), match=message),
    ):
        prepare(params, tmp_path)


def test_a_changed_collection_is_refused(rehearsed):
    from contextlib import chdir

    from slavc.data.prepared import open_clips

    params = settings(rehearsed)
    table = rehearsed / "data/vggsound/packed/clips.csv"
    first = (
        pd.read_csv(table, dtype=str, keep_default_na=False)
        .set_index("id")
        .loc[TRAIN[0], "sha256"]
    )
    with (
        changed(table, (first, "0" * 64)),
        chdir(rehearsed),
        pytest.raises(ValueError, match="not what it was when .*prepared"),
    ):
        open_clips(params, "profiles/paper/runs/data", "train")


def test_videos_that_come_later(rehearsed, tmp_path):
    """The command of the README packs them beside the others, and what was trained and scored without them is known to be old."""
    rehearsed = copy_of(rehearsed, tmp_path / "slavc")
    clip = SceneWorld(
        procedural_bank(sounding=4, silent_things=4),
        "train",
        1,
        1,
        96,
        kinds=["positive"],
    )[0]
    write_video(
        rehearsed / f"data/vggsound/videos/{GONE}.mp4",
        [clip.frame] * 20,
        5,
        np.tile(clip.waveform, 9)[: 4 * clip.rate],
        clip.rate,
    )
    packed = rehearsed / "data/vggsound/packed/journal.jsonl"
    before = packed.read_bytes()
    run(
        "dvc",
        "repro",
        "--force",
        "--single-item",
        "prepare",
        cwd=rehearsed / "profiles/paper",
        PYTHONPATH=str(rehearsed),
    )
    assert (
        packed.read_bytes().startswith(before)
        and packed.read_bytes().count(b"\n") == before.count(b"\n") + 1
    )
    assert GONE in json.loads(
        (rehearsed / "profiles/paper/runs/data/test/ids.json").read_text()
    )
    assert not (rehearsed / "profiles/paper/runs/data/truth/missing.csv").exists()
    stale = run(
        "dvc",
        "repro",
        "--dry",
        cwd=rehearsed / "profiles/paper",
        PYTHONPATH=str(rehearsed),
    ).stdout
    assert all(
        f"Running stage '{stage}'" in stale
        for stage in ("train@slavc", "evaluate@slavc", "tables")
    )

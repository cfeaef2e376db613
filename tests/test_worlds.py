"""Worlds: deterministic clips, honest shares, and packs that keep no truth."""

import json

import numpy as np
import pytest
from conftest import ROOT

from slavc.data.benchmark import table1
from slavc.data.clips import Clip, Pack, write_pack
from slavc.data.procedural import procedural_bank
from slavc.data.scenes import EDGES, SceneWorld, world_settings
from slavc.data.test_sets import read_truth
from slavc.data.worlds import prepare
from slavc.train.params import load_params


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(sounding=6, silent_things=6, seconds=1.0)


def test_clips_depend_on_seed_split_and_index_only(bank):
    settings = world_settings(seconds=1.0)
    a = SceneWorld(bank, "train", 50, 1, 56, settings)
    b = SceneWorld(bank, "train", 20, 1, 56, settings)
    for i in (19, 3, 3, 0):
        assert (a[i].frame == b[i].frame).all() and (
            a[i].waveform == b[i].waveform
        ).all()
    assert (SceneWorld(bank, "train", 20, 2, 56, settings)[3].frame != a[3].frame).any()


def test_workers_change_nothing(bank, tmp_path):
    world = SceneWorld(bank, "train", 70, 1, 56, world_settings(seconds=1.0))
    write_pack(world, tmp_path / "one", workers=1, progress=False)
    write_pack(world, tmp_path / "two", workers=2, progress=False)
    for name in ("frames.npy", "waves.npy", "pack.json"):
        assert (tmp_path / "one" / name).read_bytes() == (
            tmp_path / "two" / name
        ).read_bytes()


def test_sizes_and_noise_shares(bank):
    """Large enough a draw that the shares of Table 1 and of the 379 in 1,000 show; the bounds are four standard errors."""
    world = SceneWorld(bank, "train", 1200, 7, 56, world_settings(seconds=0.1))
    clips = [world[i] for i in range(len(world))]
    noise = np.mean([c.kind != "positive" for c in clips])
    assert abs(noise - 0.38) < 4 * (0.38 * 0.62 / 1200) ** 0.5
    boxes = np.array([c.boxes[0] for c in clips if c.kind == "positive"])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    share = np.histogram(area, (0, *EDGES[1:4], 1.01))[0] / len(area)
    assert (
        np.abs(share - world.settings["sizes"]).max() < 0.08
    )  # occlusion and thin shapes move some boxes down a group


def test_a_positive_box_lies_on_the_object(bank):
    world = SceneWorld(
        bank,
        "test",
        30,
        1,
        112,
        world_settings(seconds=0.1, distractors=0),
        ["positive"] * 30,
    )
    for i in range(30):
        scene, frame, silhouette = world._settle(i)
        x0, y0, x1, y1 = (world[i].boxes[0] * 112).round().astype(int)
        seen = silhouette > 127
        assert (
            seen[y0:y1, x0:x1].sum() == seen.sum()
            and seen[y0].any()
            and seen[y1 - 1].any()
            and seen[:, x0].any()
            and seen[:, x1 - 1].any()
        )


def test_ids_twice_and_wrong_kinds(bank, tmp_path):
    class Twice:
        ids = ["a", "b", "a"]

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return Clip(
                self.ids[i], np.zeros((4, 4, 3), np.uint8), np.zeros(10, np.float32), 10
            )

    with pytest.raises(ValueError, match="ids must be unique; repeated: a"):
        write_pack(Twice(), tmp_path, progress=False)
    with pytest.raises(ValueError, match="2 kinds for 3 clips"):
        SceneWorld(bank, "test", 3, 0, 56, kinds=["positive"] * 2)


def test_prepare_smoke_world(tmp_path):
    params = load_params(ROOT / "profiles/smoke.yaml")
    params["world"] |= dict(train=20, positives=40)
    prepare(params, tmp_path)
    pairs, boxes = read_truth(tmp_path)
    counts = table1(pairs, boxes)
    assert counts["Total Pos"] == counts["Total Neg"] == 40 and counts[
        "Hard Neg"
    ] == round(0.25 * (40 - counts["Real Neg"]))
    visible = {p.name for p in (tmp_path / "test").iterdir()}
    assert visible == {
        "frames.npy",
        "waves.npy",
        "pack.json",
        "pairs.csv",
        "other.csv",
        "unheard",
    }
    assert {p.name for p in (tmp_path / "test/unheard").iterdir()} == visible - {
        "unheard"
    }
    wrong = params | dict(world=params["world"] | dict(name="procedral"))
    with pytest.raises(ValueError, match="known worlds"):
        prepare(wrong, tmp_path)  # a typo takes nothing away
    assert len(read_truth(tmp_path, "unheard")[1]) == 20
    assert set(json.loads((tmp_path / "test" / "pack.json").read_text())) == {
        "rate",
        "ids",
    }
    for name in ("pairs", "other"):
        assert (tmp_path / "test" / f"{name}.csv").read_text().splitlines()[
            0
        ] == "video,audio"
    assert Pack(tmp_path / "train")[0].category == ""


def test_stamps_are_checked_and_rendered(tmp_path):
    from slavc.data.stamps import find_stamps, problems, read_manifest, stamps_bank

    try:
        folder = find_stamps(fetch=False)
    except FileNotFoundError:
        pytest.skip(
            "the Tux Paint stamps are not on this machine: `slavc assets` fetches them"
        )
    import shutil

    manifest = read_manifest()
    copy = tmp_path / "tuxpaint"
    shutil.copytree(
        folder,
        copy,
        symlinks=True,
        ignore=lambda d, names: [
            n
            for n in names
            if n not in {p for m in manifest.path for p in m.split("/")}
        ],
    )
    spoiled = copy / manifest.path[0]
    spoiled.write_bytes(spoiled.read_bytes()[:-1])
    assert problems(copy, manifest) == [
        f"{spoiled}: not the expected content (SHA-256 differs)"
    ]
    world = SceneWorld(
        stamps_bank(folder, seconds=1.0),
        "test",
        4,
        0,
        112,
        world_settings(seconds=1.0),
        ["positive"] * 4,
    )
    assert all(
        world[i].boxes.shape == (1, 4) and world[i].frame.std() > 5 for i in range(4)
    )


@pytest.mark.parametrize("cached", [False, True])
def test_a_folder_world_goes_through_the_pipeline(tmp_path, cached, monkeypatch):
    """Frames, sounds and lists in the released layout train and are scored like any other world, from frames and from features."""
    import soundfile
    from PIL import Image

    from slavc.data.prepared import open_clips
    from slavc.model.encoders import PRESETS, trunk
    from slavc.model.features import encode
    from slavc.paper.evaluation import evaluate_controls, evaluate_method
    from slavc.train.training import load_method, predict, read_maps, train_method

    root, rng = tmp_path / "vggss", np.random.default_rng(0)
    (root / "frames").mkdir(parents=True), (root / "audio").mkdir()
    ids = [f"clip{i:02d}_000010" for i in range(20)]
    for i, name in enumerate(ids):
        Image.fromarray(rng.integers(0, 256, (60 + i, 80, 3), np.uint8)).save(
            root / "frames" / f"{name}.jpg"
        )
        soundfile.write(
            root / "audio" / f"{name}.wav",
            rng.normal(size=12000).clip(-1, 1) * 0.3,
            16000 if i % 2 else 8000,
        )
    test, real = ids[:6], ids[6]
    (root / "vggss.json").write_text(
        json.dumps(
            [
                dict(file=n, **{"class": "ab"[k % 2]}, bbox=[[0.1, 0.2, 0.8, 0.9]])
                for k, n in enumerate(test)
            ]
        )
    )
    (root / "vggss_test.csv").write_text("\r\n".join(test))
    rows = [f"{real},{real},non-sounding"] + [
        f"{test[k]},{test[(k + 1) % 6]},non-sounding" for k in range(5)
    ]
    (root / "vggss_test_plus_silent.csv").write_text(
        "video,audio,label\r\n" + "\r\n".join(rows)
    )
    (root / "vggss_144k.txt").write_text("\n".join(ids))
    params = load_params(ROOT / "profiles/smoke.yaml")
    params["world"] = dict(
        name="folder",
        seed=0,
        frame=56,
        rate=8000,
        seconds=1.0,
        train=0,
        positives=0,
        root=str(root),
        dataset="vggss",
        train_list="vggss_144k.txt",
        keep_test=False,
    )
    params["encoders"]["channels"] = 16
    if not cached:
        params["encoders"] |= dict(
            preset="narrow",
            map_stride=16,
            visual_weights="imagenet",
            frozen_stages=3,
            resolution=0,
            channels=0,
            adapter="none",
            cache=False,
        )
        monkeypatch.setattr(
            "slavc.model.encoders._imagenet",
            lambda preset: trunk(3, PRESETS[preset]).state_dict(),
        )  # no narrow network has seen ImageNet
    params["methods"] = {
        "ezvsl": params["methods"]["ezvsl"]
        | dict(
            seeds=[0],
            train=params["train"] | dict(epochs=1, batch=4),
            encoders=params["encoders"],
        )
    }
    pairs = prepare(params, tmp_path / "data")
    assert pairs.kind.value_counts().to_dict() == {"positive": 6, "easy": 5, "real": 1}
    assert (
        len(json.loads((tmp_path / "data/train/ids.json").read_text())) == 13
    )  # 20 less the 7 of the test
    trunk_file = tmp_path / "encoder/trunk.safetensors"
    facts = encode(params, tmp_path / "data", tmp_path / "encoder", progress=False)
    assert (
        (tmp_path / "encoder/train/visual.npy").exists()
        == cached
        == ("variance kept" in facts)
    )
    train_method(
        params, "ezvsl", tmp_path / "data", trunk_file, tmp_path / "run", progress=False
    )
    tables, _ = evaluate_controls(
        params, tmp_path / "data", trunk_file, tmp_path / "controls"
    )
    listened, unheard = tables["listening"], tables["unheard"]
    assert (
        set(listened.method) == {"ogl", "center-prior", "whole-image"}
        and (listened["drop"] == 0).all()
    )
    tables, shown = evaluate_method(
        params,
        "ezvsl",
        tmp_path / "data",
        tmp_path / "run",
        tmp_path / "controls/maps-ogl.npz",
    )
    assert (
        set(tables["results"].method) == {"ezvsl", "ezvsl+ogl"}
        and shown["ezvsl"]
        and tables["listening"].seeds.tolist() == [1]
    )
    assert len(unheard) == len(tables["unheard"]) == 0 and set(
        tables["unheard"]
    ) == set(tables["results"])  # real data has no second test
    method, inputs = load_method(
        tmp_path / "run/seed-0.safetensors"
    )  # on frames, whatever it was trained on
    tests = open_clips(params, tmp_path / "data", "test")
    written, maps, _ = read_maps(tmp_path / "run/maps-0.npz")
    np.testing.assert_allclose(
        predict(method.localize, tests, written, inputs),
        maps[-1],
        atol=2e-2 if cached else 1e-5,
    )


@pytest.mark.filterwarnings("ignore:.*kinds of negatives")
@pytest.mark.parametrize("fixed", [False, True])
def test_flickr_is_scored_by_its_consensus(tmp_path, monkeypatch, fixed):
    """Ids that are numbers stay text, zeros in front and all; boxes of several annotators count by consensus, from the packed pairs to the scores. Also from a disk for reading only."""
    import soundfile
    from PIL import Image

    from slavc.data.boxes import Boxes, areas, best_ciou
    from slavc.data.packing import pack_sources
    from slavc.paper.curves import ceiling_curve, curves
    from slavc.paper.evaluation import score_maps, showcase
    from slavc.score.protocols import PROTOCOLS, score_clips

    root, rng = tmp_path / "flickr", np.random.default_rng(0)
    for name in ("videos/frames", "videos/audio", "metadata", "Annotations"):
        (root / name).mkdir(parents=True)
    ids = [f"0{10000130166 + i}" for i in range(8)]
    for name in ids:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(
            root / "videos/frames" / f"{name}.jpg"
        )
        soundfile.write(
            root / "videos/audio" / f"{name}.wav",
            rng.normal(size=12000).clip(-1, 1) * 0.3,
            8000,
        )
    box = "<bbox><label>x</label><xmin>{}</xmin><ymin>0</ymin><xmax>{}</xmax><ymax>256</ymax></bbox>"
    for name in ids[
        :4
    ]:  # two annotators agree on a quarter of the frame, one adds another
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<a><p>{box.format(0, 64)}</p><p>{box.format(0, 128)}</p></a>"
        )
    (root / "metadata/flickr_test.csv").write_text(
        "\n".join(f"{n},{k}" for k, n in enumerate(ids[:4]))
    )
    (root / "metadata/flickr_test_plus_silent.csv").write_text(
        "video,audio,label\n"
        + "".join(f"{ids[k]},{ids[(k + 1) % 4]},non-sounding\n" for k in range(4))
    )
    (root / "metadata/flickr_144k.txt").write_text("\n".join(ids))
    params = load_params(ROOT / "profiles/smoke.yaml")
    params["world"] = dict(
        name="collection",
        seed=0,
        frame=56,
        rate=8000,
        seconds=1.0,
        train=0,
        positives=0,
        data_root=str(root),
        dataset="flickr",
        train_list="flickr_144k.txt",
        keep_test=False,
        missing="raise",
        frames="jpeg",
        side=64,
    )
    if fixed:
        pack_sources(
            root / "videos",
            root / "packed",
            frames="jpeg",
            side=64,
            rate=8000,
            seconds=1.0,
            progress=False,
        )
        before = sorted(path.name for path in (root / "packed").iterdir())
        monkeypatch.setattr("slavc.data.worlds.os.access", lambda *_: False)
    prepare(params, tmp_path / "data")
    if fixed:
        assert (
            sorted(path.name for path in (root / "packed").iterdir()) == before
            and "100.0" in (tmp_path / "data/packed/report.md").read_text()
        )
    else:
        assert "The test." in (root / "packed/report.md").read_text()
    assert json.loads((tmp_path / "data/train/ids.json").read_text()) == ids[4:]
    pairs, boxes = read_truth(tmp_path / "data")
    assert (
        set(pairs.video) == set(boxes) == set(ids[:4])
        and boxes.kind == "flickr"
        and set(areas(boxes).values()) == {0.75 * 112 * 224}
    )
    counts = table1(pairs, boxes)
    assert (
        counts["Total Pos"] == 4
        and counts["Huge"] == 0
        and counts["Large"] == 4
        and table1(pairs, dict(boxes))["Huge"] == 4
    )  # the union is larger
    maps = np.zeros((1, len(pairs), 7, 7), np.float32)
    maps[:] = np.linspace(1, 0, 7)
    rows = score_maps(
        maps, (-1, 1), pairs, boxes, "paper", PROTOCOLS, method="x", seed=0
    )
    clips = score_clips(maps[0], (-1, 1), pairs, boxes)
    assert clips[clips.kind == "positive"].ciou.min() > 0.9 and rows
    middle = np.broadcast_to(1 - np.abs(np.arange(7) - 3) / 3, maps[0].shape)
    consensus, union = (
        score_clips(middle, (-1, 1), pairs, own).ciou[0] for own in (boxes, dict(boxes))
    )
    assert consensus == pytest.approx(28 / 140, abs=0.01) and union == pytest.approx(
        56 / 168, abs=0.01
    )
    assert showcase(params, pairs, boxes, maps[0], (-1, 1)) and len(
        curves(maps[0], (-1, 1), pairs, boxes, method="x", seed=0)
    )
    highest = {
        row["x"]: row["value"]
        for row in ceiling_curve(pairs, boxes, "paper", (0.1, 0.25, 0.5))
        if row["metric"] == "LocAcc" and row["subset"] == "all"
    }
    assert highest == {
        share: 100 * (value > 0.5)
        for share, value in zip(
            (0.1, 0.25, 0.5),
            best_ciou(Boxes(boxes, "flickr"), shares=(0.1, 0.25, 0.5))[0],
        )
    }

"""A folder in the released layout: every kind of bad input, and the official lists."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from slavc.data.audio import log_spectrogram, middle, read_wave
from slavc.data.benchmark import read_positives, table1
from slavc.data.boxes import degenerate_boxes, to_grid
from slavc.data.folder import (
    FolderWorld,
    folder_benchmark,
    read_annotations,
    read_frame,
    read_ids,
    training_ids,
)

torch.set_num_threads(1)
METADATA = Path(__file__).parents[2] / "shared" / "metadata"
official = pytest.mark.skipif(
    not METADATA.is_dir(), reason="reference material ../shared is absent"
)
IDS = [
    "bell_a_000001",
    "bell_b_000002",
    "-cat_c_000003",
    "-cat_d_000004",
    "real_e.f_000005",
]


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("frames", "audio", "Annotations"):
        (tmp_path / name).mkdir()
    for n, (i, suffix) in enumerate(
        zip(IDS, (".jpg", ".jpeg", ".png", ".JPG", ".jpg"))
    ):
        pixels = rng.integers(0, 255, (40 + n, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{i}{suffix}")
        rate = (22050, 44100, 16000, 8000, 22050)[n]
        samples = rng.uniform(-1, 1, (rate * (1 + 2 * n), 1 + n % 2))
        soundfile.write(tmp_path / "audio" / f"{i}.wav", samples, rate)
    truth = [
        {"file": i, "class": i[:5], "bbox": [[0.1, 0.2, 0.5, 0.9], [0.0, 0, 1, 0.25]]}
        for i in IDS[:4]
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(truth))
    (tmp_path / "vggss_test.csv").write_bytes(
        "".join(f"{i}\r\n" for i in IDS[:4]).encode()
    )
    rows = [(4, 4), (0, 1), (1, 2), (3, 0)]
    (tmp_path / "vggss_test_plus_silent.csv").write_bytes(
        "\r\n".join(
            ["video,audio,label", *(f"{IDS[v]},{IDS[a]},non-sounding" for v, a in rows)]
        ).encode()
    )
    return tmp_path


def edit(path, change):
    truth = json.loads(path.read_text())
    change(truth)
    path.write_text(json.dumps(truth))


def test_clips(root):
    world = FolderWorld(root, IDS, annotations="vggss.json")
    assert (
        world.ids == IDS
        and len(world) == 5
        and not len(world.missing)
        and not len(world.degenerate)
    )
    for n in range(5):
        clip = world[n]
        assert (
            clip.id == IDS[n]
            and clip.frame.shape == (40 + n, 50, 3)
            and clip.frame.dtype == np.uint8
        )
        assert (
            clip.rate == 22050
            and clip.waveform.shape == (66150,)
            and clip.waveform.dtype == np.float32
        )
        assert np.abs(clip.waveform).max() <= 1
        expected = (IDS[n][:5], "positive", 2) if n < 4 else ("", "unknown", 0)
        assert (clip.category, clip.kind, len(clip.boxes)) == expected
        assert clip.boxes.shape[1] == 4 and clip.boxes.dtype == np.float64
    np.testing.assert_array_equal(
        world[2].frame, np.array(Image.open(root / "frames" / f"{IDS[2]}.png"))
    )
    waveform, rate = read_wave(root / "audio" / f"{IDS[4]}.wav")
    np.testing.assert_array_equal(
        world[4].waveform, middle(waveform, rate)
    )  # its own rate: untouched
    np.testing.assert_array_equal(world[-1].waveform, world[4].waveform)
    batch = torch.tensor(np.stack([world[n].waveform for n in range(5)]))
    assert log_spectrogram(batch).shape == (5, 1, 257, 276)
    with pytest.raises(IndexError):
        world[5]


def test_picklable_and_deterministic(root):
    world = FolderWorld(root, IDS, annotations="vggss.json", rate=11025, seconds=1.5)
    again = pickle.loads(pickle.dumps(world))
    for a, b in zip((world[n] for n in range(5)), (again[n] for n in range(5))):
        assert (
            a.id == b.id and a.rate == 11025 and len(a.waveform) == round(1.5 * 11025)
        )
        for field in ("frame", "waveform", "boxes"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_own_rate(root):
    world = FolderWorld(root, IDS, rate=None)
    assert [world[n].rate for n in range(5)] == [22050, 44100, 16000, 8000, 22050]
    assert [len(world[n].waveform) for n in range(5)] == [
        66150,
        132300,
        48000,
        24000,
        66150,
    ]
    assert all(world[n].category == "" and world[n].kind == "unknown" for n in range(5))


@pytest.mark.parametrize(
    "more", [dict(missing="skip"), dict(rate=0), dict(rate=22050.5), dict(seconds=0)]
)
def test_bad_arguments(root, more):
    with pytest.raises(ValueError, match="missing|rate"):
        FolderWorld(root, IDS, **more)


def test_missing_files(root):
    (root / "frames" / f"{IDS[0]}.jpg").unlink()
    (root / "audio" / f"{IDS[0]}.wav").unlink()
    (root / "audio" / f"{IDS[2]}.wav").unlink()
    (root / "audio" / f"{IDS[3]}.wav").unlink()
    (root / "audio" / f"{IDS[3]}.wav").mkdir()
    (root / "frames" / f"{IDS[4]}.jpg").unlink()
    (root / "frames" / f"{IDS[4]}.jpg").symlink_to(root / "nowhere.jpg")
    with pytest.raises(FileNotFoundError) as error:
        FolderWorld(root, "vggss_test.csv")
    for part in (
        str(root),
        "3 of 4",
        "vggss_test.csv",
        "1 frames, 3 sounds",
        f"{IDS[0]} (frame)",
        "report",
    ):
        assert part in str(error.value)
    world = FolderWorld(root, IDS, annotations="vggss.json", missing="report")
    assert world.ids == [IDS[1]] and world[0].id == IDS[1]
    assert sorted(world.missing.itertuples(index=False, name=None)) == sorted(
        [
            (IDS[0], "frame"),
            (IDS[0], "audio"),
            (IDS[2], "audio"),
            (IDS[3], "audio is not a file"),
            (IDS[4], "frame is not a file"),
        ]
    )
    with pytest.raises(
        FileNotFoundError, match="1 of 1"
    ):  # nothing is left: never an empty world
        FolderWorld(root, [IDS[0]], missing="report")
    shutil.rmtree(root / "audio")
    with pytest.raises(FileNotFoundError, match="audio: no such folder"):
        FolderWorld(root, IDS, missing="report")


def test_two_files_of_one_id(root):
    Image.new("RGB", (9, 9)).save(root / "frames" / f"{IDS[0]}.png")
    with pytest.raises(ValueError, match=f"{IDS[0]}.jpg and {IDS[0]}.png"):
        FolderWorld(root, IDS, missing="report")


@pytest.mark.parametrize("damage", ["truncated", "headless", "empty", "text"])
def test_corrupt_frame(root, damage):
    path = root / "frames" / f"{IDS[0]}.jpg"
    data = path.read_bytes()
    damaged = {
        "truncated": data[:-200],
        "headless": data[20:],
        "empty": b"",
        "text": b"<html>",
    }
    path.write_bytes(damaged[damage])
    world = FolderWorld(root, IDS)
    with pytest.raises(
        ValueError, match=f"{IDS[0]}.jpg: cannot be decoded.*Extract the frame again"
    ):
        world[0]
    world[1]


@pytest.mark.parametrize(
    "damage", ["header only", "cut short", "empty", "text", "no samples", "nan"]
)
def test_corrupt_audio(root, damage):
    path = root / "audio" / f"{IDS[0]}.wav"
    data = path.read_bytes()
    if damage in ("no samples", "nan"):
        soundfile.write(
            path, np.full(2 * (damage == "nan"), np.nan), 22050, subtype="FLOAT"
        )
    else:
        damaged = {
            "header only": data[:30],
            "cut short": data[:9000],
            "empty": b"",
            "text": b"<html>",
        }
        path.write_bytes(damaged[damage])
    world = FolderWorld(root, IDS)
    with pytest.raises(ValueError, match=f"{IDS[0]}.wav: .*Extract the sound again"):
        world[0]
    world[1]


def test_strange_rate(root):
    soundfile.write(root / "audio" / f"{IDS[0]}.wav", np.zeros(100), 44101)
    with pytest.raises(ValueError, match=f"{IDS[0]}.wav: .*44101"):
        FolderWorld(root, IDS)[0]


def test_fuzz_frames(root):
    """Damaged pictures give an image or a ValueError naming the file; cut ones never an image."""
    rng = np.random.default_rng(1)
    for suffix in (".jpg", ".png"):
        path = root / f"good{suffix}"
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(path)
        good = path.read_bytes()
        for trial in range(60):
            data = bytearray(good)
            if trial % 2:
                data = data[: rng.integers(0, len(good) * 9 // 10)]
            else:
                for _ in range(5):
                    data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(bytes(data))
            try:
                assert read_frame(path).shape[2] == 3 and trial % 2 == 0
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_frame_modes(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (7, 5)).save(path)
    if mode == "I;16":
        with pytest.raises(ValueError, match="8 bits"):
            read_frame(path)
    else:
        assert read_frame(path).shape == (5, 7, 3)
    with pytest.raises(FileNotFoundError, match="lost.jpg"):
        read_frame(tmp_path / "lost.jpg")
    with pytest.raises(ValueError, match="a folder"):
        read_frame(tmp_path)


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    for data in (
        b"a\nb\nc",
        b"a\nb\nc\n",
        b"a\r\nb\r\nc\r\n",
        b"a\r\nb\r\nc",
        b"\xef\xbb\xbfa\nb\nc\n",
    ):
        path.write_bytes(data)
        assert read_ids(path) == ["a", "b", "c"]
    for data, message in [
        (b"", "no id"),
        (b"a\n\nb\n", "line 2"),
        (b"a\nb \n", "line 2"),
        (b"a\nb\na\n", "1 there twice: a"),
        (b"a,b\n", "line 1"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"\n", "line 1"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            read_ids(path)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="lost.txt"):
        read_ids(tmp_path / "lost.txt")
    with pytest.raises(FileNotFoundError):
        read_ids(tmp_path)
    path.write_text("a\nb\nc\nd")
    (tmp_path / "test.csv").write_bytes(b"b,0\r\nx,17\r\nd,5")
    assert training_ids(path, ["b", "x"]) == (["a", "c", "d"], 1)
    assert training_ids(path, tmp_path / "test.csv") == (["a", "c"], 2)
    assert training_ids(path, str(tmp_path / "test.csv"), keep_test=True) == (
        ["a", "b", "c", "d"],
        0,
    )


def test_ids_given_directly(root):
    for ids, told in [
        (IDS[:1] * 2, "twice"),
        ([], "no id"),
        ([3], "text"),
        ([""], "text"),
        (["a "], "text"),
    ]:
        with pytest.raises(ValueError, match=told):
            FolderWorld(root, ids)
    with pytest.raises(FileNotFoundError, match="1 of 1"):  # ids are names, never paths
        FolderWorld(root, [f"../frames/{IDS[0]}"])


def test_benchmark(root):
    pairs, boxes = folder_benchmark(root)
    assert pairs["kind"].tolist() == ["positive"] * 4 + ["real", "hard", "easy", "easy"]
    assert set(boxes) == set(IDS[:4]) and boxes[IDS[0]].tolist() == [
        [22, 44, 112, 201],
        [0, 0, 224, 56],
    ]
    assert table1(pairs, boxes)["Total"] == 8
    world = FolderWorld(root, IDS, annotations="vggss.json")
    for clip in (world[n] for n in range(4)):
        np.testing.assert_array_equal(to_grid(clip.boxes), boxes[clip.id])
    with pytest.raises(ValueError, match="dataset"):
        folder_benchmark(root, "vgg")


@pytest.mark.parametrize(
    "box, message",
    [
        ([0.1, 0.2, 1.5, 0.7], r"bell_a.*bbox.*leaves the frame"),
        ([-0.2, 0.2, 0.5, 0.7], r"bell_a.*bbox.*leaves the frame"),
        ([0.1, 0.2, 0.5], r"bell_a.*bbox.*4 finite numbers"),
        ([0.1, 0.2, "x", 0.7], r"bell_a.*bbox.*4 finite numbers"),
        (None, r"bell_a.*bbox"),
    ],
)
def test_bad_boxes(root, box, message):
    edit(
        root / "vggss.json",
        lambda truth: truth[0].update(bbox=[] if box is None else [box]),
    )
    for call in (
        lambda: folder_benchmark(root),
        lambda: FolderWorld(root, IDS, annotations="vggss.json"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "vggss.json" in str(error.value)


def test_boxes_without_area_are_reported(root):
    edit(
        root / "vggss.json",
        lambda truth: truth[0].update(bbox=[[-2.8823037615171176e16, 0.2, 0.0, 0.5]]),
    )
    edit(
        root / "vggss.json", lambda truth: truth[1]["bbox"].append([0.5, 0.5, 0.5, 0.5])
    )
    with pytest.warns(
        UserWarning, match=f"1 positives have no ground-truth area.*{IDS[0]}"
    ):
        pairs, boxes = folder_benchmark(root)
    assert table1(pairs, boxes)["Small"] == 1
    world = FolderWorld(root, IDS, annotations="vggss.json")
    assert world.degenerate[["id", "empty"]].values.tolist() == [
        [IDS[0], True],
        [IDS[1], False],
    ]
    assert (
        world[0].boxes.min() >= 0
        and world[0].boxes.max() <= 1
        and len(world[1].boxes) == 3
    )


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        (
            "vggss_test_plus_silent.csv",
            "video,audio",
            "frame,audio",
            "column 'video' is missing",
        ),
        ("vggss_test_plus_silent.csv", "label", "kind", "column 'label' is missing"),
        ("vggss_test_plus_silent.csv", ",non-sounding", "", "line 2"),
        ("vggss_test.csv", IDS[0], IDS[1], "twice"),
        ("vggss_test.csv", IDS[0], f"{IDS[0]},1,2", "line 1"),
        ("vggss_test.csv", IDS[0], IDS[4], "not annotated"),
        ("vggss.json", '"class"', '"label"', "'class' is missing"),
        ("vggss.json", IDS[1], IDS[0], "twice"),
        ("vggss.json", "[", "", "JSON"),
    ],
)
def test_bad_benchmark_files(root, name, old, new, message):
    path = root / name
    times = 1 if old in ("[", IDS[0], IDS[1]) else -1
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), times))
    with pytest.raises(ValueError, match=message) as error:
        folder_benchmark(root)
    assert name in str(error.value)


def test_missing_benchmark_files(root):
    (root / "vggss.json").unlink()
    (root / "vggss_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match="vggss_test.csv.*vggss.json.*missing"):
        folder_benchmark(root)
    with pytest.raises(FileNotFoundError, match="vggss.json: no such annotations"):
        FolderWorld(root, IDS, annotations="vggss.json")


def flickr(root, second=""):
    (root / "flickr_test.csv").write_bytes(
        b"\r\n".join(f"{i},{n}".encode() for n, i in enumerate(IDS[:2]))
    )
    (root / "flickr_test_plus_silent.csv").write_text(
        f"video,audio,label\n{IDS[0]},{IDS[1]},non-sounding\n{IDS[1]},{IDS[0]},non-sounding"
    )
    box = "<bbox><label>x</label><xmin>64</xmin><ymin>32</ymin><xmax>192</xmax><ymax>{}</ymax></bbox>"
    first = f"<a><p>{box.format(128)}</p><p>{box.format(256)}</p></a>"
    (root / "Annotations" / f"{IDS[0]}.xml").write_text(first)
    (root / "Annotations" / f"{IDS[1]}.xml").write_text(
        f"<a><p>{second.format(box=box.format(100))}</p></a>"
    )


@pytest.mark.filterwarnings("ignore:.*kinds of negatives")
def test_flickr(root):
    flickr(root, "{box}")
    pairs, boxes = folder_benchmark(root, "flickr")
    assert pairs["kind"].tolist() == ["positive"] * 2 + ["unknown"] * 2
    assert (
        boxes[IDS[0]].tolist() == [[56, 28, 168, 112], [56, 28, 168, 224]]
        and len(boxes) == 2
    )
    world = FolderWorld(root, "flickr_test.csv", annotations="Annotations")
    np.testing.assert_array_equal(to_grid(world[0].boxes), boxes[IDS[0]])
    assert world[0].kind == "positive" and world[0].category == ""

    flickr(root, "")
    with pytest.warns(UserWarning, match="1 positives have no ground-truth area"):
        folder_benchmark(root, "flickr")
    world = FolderWorld(root, "flickr_test.csv", annotations="Annotations")
    assert world.degenerate["id"].tolist() == [IDS[1]]
    flickr(root, "<bbox><xmin>3</xmin></bbox>")
    with pytest.raises(ValueError, match=f"{IDS[1]}.xml.*ymin"):
        folder_benchmark(root, "flickr")
    flickr(root, "{box}")
    (root / "Annotations" / f"{IDS[1]}.xml").write_text("<a><p>")
    with pytest.raises(ValueError, match=f"{IDS[1]}.xml.*not a readable XML"):
        FolderWorld(root, IDS, annotations="Annotations")
    (root / "Annotations" / f"{IDS[1]}.xml").unlink()
    with pytest.raises(ValueError, match=f"Annotations: 1 positives.*{IDS[1]}"):
        folder_benchmark(root, "flickr")


def test_flickr_fractions_keep_their_pixel(tmp_path):
    k = np.arange(225)
    fractions = np.ceil(k / 224 * 1e6) / 1e6
    for stored in (
        fractions,
        fractions.round(6),
        np.array(json.loads(json.dumps(fractions.tolist()))),
    ):
        np.testing.assert_array_equal(to_grid(np.tile(stored[:, None], 4))[:, 2], k)


@official
@pytest.mark.parametrize(
    "name, count",
    [
        ("vggss_144k.txt", 144000),
        ("vggss_10k.txt", 10000),
        ("vggss_heard.txt", 59468),
        ("flickr_10k.txt", 10000),
        ("flickr_144k.txt", 144000),
        ("flickr_sup_train.txt", 4750),
        ("vggss_test.csv", 5158),
        ("vggss_heard_test.csv", 2564),
        ("vggss_unheard_test.csv", 2575),
        ("flickr_test.csv", 250),
    ],
)
def test_official_lists(name, count):
    assert len(read_ids(METADATA / name)) == count


@official
@pytest.mark.parametrize(
    "train, test, removed, left",
    [
        ("vggss_144k.txt", "vggss_test.csv", 3709, 140291),
        ("vggss_10k.txt", "vggss_test.csv", 238, 9762),
        ("vggss_heard.txt", "vggss_test.csv", 0, 59468),
        ("flickr_144k.txt", "flickr_test.csv", 20, 143980),
        ("flickr_10k.txt", "flickr_test.csv", 1, 9999),
        ("flickr_sup_train.txt", "flickr_test.csv", 0, 4750),
    ],
)
def test_official_overlap(train, test, removed, left):
    ids, gone = training_ids(METADATA / train, METADATA / test)
    assert (gone, len(ids)) == (removed, left) and not set(ids) & set(
        read_positives(METADATA / test)
    )
    assert training_ids(METADATA / train, METADATA / test, keep_test=True) == (
        read_ids(METADATA / train),
        0,
    )


@official
def test_official_benchmark(root):
    with pytest.warns(
        UserWarning, match="2 positives have no ground-truth area.*M1P1xla8rg0_000000"
    ):
        pairs, boxes = folder_benchmark(root, "vggss", metadata=METADATA)
    assert table1(pairs, boxes).to_dict() == {
        "Small": 134,
        "Medium": 1796,
        "Large": 1726,
        "Huge": 1502,
        "Total Pos": 5158,
        "Real Neg": 379,
        "Easy Neg": 3594,
        "Hard Neg": 1185,
        "Total Neg": 5158,
        "Total": 10316,
    }
    report = degenerate_boxes(read_annotations(METADATA / "vggss.json"))
    assert (
        report["id"].nunique() == 18
        and report.loc[report["empty"], "id"].nunique() == 2
    )
    with pytest.raises(FileNotFoundError, match="5158 of 5158 ids"):
        FolderWorld(
            root, METADATA / "vggss_test.csv", annotations=METADATA / "vggss.json"
        )
    with pytest.raises(ValueError, match="250 positives.*not annotated"):
        folder_benchmark(root, "flickr", metadata=METADATA)

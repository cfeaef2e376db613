"""`slavc prepare`: every file accounted for, the same bytes after a kill, full disks and dead workers said and survived."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from slavc.cli import app
from slavc.data import packing
from slavc.data.collection import Collection, read_journal
from slavc.data.media import write_video
from slavc.data.packing import (
    by_video,
    clip_id,
    coverage,
    find_sources,
    official_lists,
    pack_shards,
    pack_sources,
    report,
    write_lists,
)

METADATA = ROOT.parent / "shared" / "metadata"
needs_metadata = pytest.mark.skipif(
    not METADATA.is_dir(), reason=f"the official metadata are not at {METADATA}"
)
COUNT = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Forty short videos, every tenth damaged."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        path = root / f"class{k % 3}" / f"{k:011d}_{k:06d}.mp4"
        picture = np.kron(
            rng.integers(0, 255, (9, 16, 3)), np.ones((20, 20, 1))
        ).astype(np.uint8)
        write_video(path, [picture] * 35, 10, rng.normal(0, 0.1, 56000), 16000)
        if k % 10 == 9:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return root


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    pack_sources(videos, out, workers=2, progress=False)
    return out


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}


def command(videos, out):
    return [
        sys.executable,
        "-c",
        "import sys; from slavc.data.packing import pack_sources; pack_sources(sys.argv[1], sys.argv[2], workers=2, progress=False)",
        str(videos),
        str(out),
    ]


def test_a_killed_run_goes_on_to_the_same_bytes(videos, packed, tmp_path):
    out, kills = tmp_path / "out", 0
    for target in (
        2,
        9,
        20,
    ):  # clips after which the process and its workers are killed
        run = subprocess.Popen(
            command(videos, out),
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        while run.poll() is None and not (
            (out / "journal.jsonl").exists()
            and (out / "journal.jsonl").read_bytes().count(b"\n") > target
        ):
            time.sleep(0.001)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
    assert kills and len(read_journal(out)) > 3
    subprocess.run(command(videos, out), cwd=ROOT, check=True)
    assert contents(out) == contents(packed)
    lines = (out / "journal.jsonl").read_text().splitlines()
    assert (
        len(lines) == COUNT + 1
        and len({json.loads(line)["source"] for line in lines[1:]}) == COUNT
    )  # none twice, none lost


def test_every_file_is_accounted_for(videos, packed):
    table = pd.read_csv(packed / "clips.csv", keep_default_na=False)
    assert len(table) == COUNT and table.status.value_counts().to_dict() == {
        "ok": 36,
        "corrupt": 4,
    }
    assert table.note[table.status == "corrupt"].str.contains("cut short").all()
    clips = Collection(packed)
    again = pickle.loads(pickle.dumps(clips))
    assert (
        len(clips) == 36
        and np.array_equal(clips[7].waveform, again[7].waveform)
        and clips[7].frame.shape == (180, 320, 3)
    )


@pytest.mark.parametrize("file", ["frames.bin", "waves.bin"])
def test_a_damaged_byte_is_found_by_the_report(packed, tmp_path, file):
    """Raw frames and sounds would give a picture and a noise whatever their bytes are: only the checksum knows."""
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    report(out)
    row = Collection(out).table.set_index("id").loc["00000000007_000007"]
    raw = bytearray((out / file).read_bytes())
    raw[int(row.frame_start if file == "frames.bin" else row.wave_start) + 700] ^= 1
    (out / file).write_bytes(raw)
    with pytest.raises(
        ValueError, match="bytes of 1 of 36 clips are damaged: 00000000007_000007"
    ):
        report(out)


def test_a_full_disk_is_said_and_survived(videos, packed, tmp_path):
    """A limit on the size of files stands in for the full disk: the write fails in the same place."""
    out = tmp_path / "out"
    limit = (packed / "waves.bin").stat().st_size // 2
    done = subprocess.run(
        command(videos, out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
    )
    assert (
        done.returncode
        and "waves.bin: cannot be written" in done.stderr
        and "run the same command again" in done.stderr
    )
    assert 10 < len(read_journal(out)) - 1 < COUNT
    pack_sources(videos, out, workers=2, progress=False)
    assert contents(out) == contents(packed)


def test_a_worker_that_dies_loses_nothing(videos, packed, tmp_path):
    out = tmp_path / "out"
    run = subprocess.Popen(command(videos, out), cwd=ROOT)
    while not (
        (out / "journal.jsonl").exists()
        and (out / "journal.jsonl").read_bytes().count(b"\n") > 5
    ):
        time.sleep(0.002)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert run.wait() == 0 and contents(out) == contents(packed)


def test_what_may_pass_is_tried_again(videos, packed, tmp_path):
    """A file that the system cannot give now is no damaged file: the next visit takes it. A folder that cannot be listed stops at once."""
    root = Path(shutil.copytree(videos, tmp_path / "videos"))
    gone = root / "class1/00000000001_000001.mp4"
    gone.rename(tmp_path / "elsewhere.mp4")
    gone.symlink_to(tmp_path / "not-yet-mounted.mp4")
    table = pack_sources(root, tmp_path / "out", progress=False).set_index("id")
    assert (
        table.loc["00000000001_000001", "status"] == "corrupt"
        and table.loc["00000000001_000001", "note"]
        == "could not be read (No such file or directory)"
    )
    (tmp_path / "elsewhere.mp4").rename(tmp_path / "not-yet-mounted.mp4")
    table = pack_sources(root, tmp_path / "out", progress=False)
    assert (table.status == pd.read_csv(packed / "clips.csv").status).all()
    lines = (tmp_path / "out/journal.jsonl").read_bytes().count(b"\n")
    pack_sources(root, tmp_path / "out", progress=False)
    assert (
        (tmp_path / "out/journal.jsonl").read_bytes().count(b"\n") == lines == COUNT + 2
    )


def test_what_cannot_be_listed_or_locked_is_said(videos, tmp_path, monkeypatch):
    def walk(root, onerror=None, **more):
        onerror(PermissionError(13, "Permission denied", f"{root}/class1"))

    with monkeypatch.context() as patch:
        patch.setattr("slavc.data.packing.os.walk", walk)
        with pytest.raises(
            OSError, match="class1: this folder cannot be listed .Permission denied"
        ):
            find_sources(videos)
    monkeypatch.setattr(
        "slavc.data.packing.fcntl.flock",
        lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")),
    )
    with pytest.raises(OSError, match="cannot lock files .Function not implemented"):
        pack_sources(videos, tmp_path / "out", progress=False)


def test_one_writer_at_a_time(videos, packed):
    import fcntl

    with open(packed / "journal.jsonl", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is packing here"):
            pack_sources(videos, packed, progress=False)


def test_shards_on_an_engine_one_killed(videos, packed, tmp_path):
    """Two jobs of submitit on this machine; one is killed, the call names it, the same call again completes it."""
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    code = "import sys; from slavc.data.packing import pack_shards; pack_shards(sys.argv[1], sys.argv[2], 2, 'local', workers=1)"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(videos), str(out)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    victim = out / "shard-0001" / "journal.jsonl"
    while (
        run.poll() is None and not victim.exists()
    ):  # it is there before the first video is decoded
        time.sleep(0.002)
    for process in [
        p for p in Path("/proc").iterdir() if p.name.isdigit() and holds(p, victim)
    ]:
        os.kill(int(process.name), signal.SIGKILL)
    _, said = run.communicate(timeout=300)
    assert run.returncode and "1 of 2 shards stopped" in said and "shard 1" in said
    with pytest.raises(ValueError, match="1 finished shards? of 2"):
        Collection(out)
    pack_shards(videos, out, 2, "local", workers=1)
    clips, one = Collection(out), Collection(packed)
    assert clips.ids == one.ids and all(
        clips.wave(i).tobytes() == one.wave(i).tobytes()
        and np.array_equal(clips.frame(i), one.frame(i))
        for i in range(len(one))
    )


def holds(process, path):
    try:
        return any(os.readlink(fd) == str(path) for fd in (process / "fd").iterdir())
    except OSError:
        return False


def test_a_source_keeps_its_shard_when_others_come(videos, tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    copies = sorted(videos.rglob("*.mp4"))[10:16]
    for path in copies[1:]:
        (root / path.name).write_bytes(path.read_bytes())
    tables = [
        pack_sources(root, out / f"shard-{k}", shard=(k, 2), progress=False)
        for k in range(2)
    ]
    (root / copies[0].name).write_bytes(copies[0].read_bytes())
    again = [
        pack_sources(root, out / f"shard-{k}", shard=(k, 2), progress=False)
        for k in range(2)
    ]
    assert sum(map(len, again)) == sum(map(len, tables)) + 1 == 6
    assert (
        sum(
            (out / f"shard-{k}/journal.jsonl").read_bytes().count(b"\n")
            for k in range(2)
        )
        == 2 + 6
    )  # nothing decoded twice
    clips = Collection(out)
    assert (
        len(set(clips.ids))
        == len(clips.ids)
        == sum(t.status.isin(["ok"]).sum() for t in again)
    )


def test_odd_files_are_rows_not_crashes(videos, tmp_path):
    """A dead link, a linked folder, a name that is no text, small and large letters, one clip twice in two shards."""
    root = tmp_path / "root"
    root.mkdir()
    good = sorted(videos.rglob("*.mp4"))[0]
    (root / "linked").symlink_to(good.parent)
    (root / "00000000001_000099.mp4").symlink_to(tmp_path / "nowhere")
    (root / "00000000002_000099.MP4").write_bytes(good.read_bytes())
    with open(os.fsencode(root) + b"/\xff\xfe.mp4", "wb") as file:
        file.write(b"x")
    (root / "00000000003_000099.mp4.part").touch()
    table = pack_sources(root, tmp_path / "out", progress=False).set_index("source")
    assert (
        table.status["00000000001_000099.mp4"] == "corrupt"
        and table.status["00000000002_000099.MP4"] == "ok"
    )
    assert (
        table.status["00000000003_000099.mp4.part"] == "unfinished"
        and table.id["00000000003_000099.mp4.part"] == "00000000003_000099"
    )
    assert (
        table.status["\\udcff\\udcfe.mp4"] == "unnamed"
        and table.index.str.startswith("linked/").sum() > 5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        dict(side=0),
        dict(rate=0),
        dict(seconds=0),
        dict(workers=0),
        dict(shard=(0, 0)),
        dict(frames="png"),
    ],
)
def test_bad_settings_leave_nothing_behind(videos, tmp_path, wrong):
    with pytest.raises(ValueError):
        pack_sources(videos, tmp_path / "out", progress=False, **wrong)
    assert not (tmp_path / "out").exists()


def test_the_command_reports_and_fails_in_one_message(videos, tmp_path):
    done = CliRunner().invoke(
        app, ["prepare", str(videos), str(tmp_path / "out"), "--workers", "2"]
    )
    assert (
        done.exit_code == 0
        and "36 clips; 36 ok, 4 corrupt" in done.output
        and (tmp_path / "out" / "report.md").exists()
    )
    for wrong in (
        ["--side", "128"],
        ["--frames", "png"],
        ["--train-list", "mine"],
        ["--names", "any"],
    ):
        done = CliRunner().invoke(
            app,
            ["prepare", str(videos), str(tmp_path / "out"), "--workers", "1", *wrong],
        )
        assert done.exit_code == 1 and done.output.startswith("error: "), done.output
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(
        app, ["prepare", str(tmp_path / "empty"), str(tmp_path / "other")]
    )
    assert done.exit_code == 1 and "holds no videos" in done.output


@needs_metadata
def test_official_names_and_lists(tmp_path):
    """Every official id is understood in every way of writing it; the released training list loses its 3,709 test clips."""
    lists = official_lists(METADATA, "vggss")
    ids = {i for own in lists.values() for i in own}
    known = by_video(lists)
    for i in ids:
        video, start = i[:11], int(i[12:])
        assert (
            i
            == clip_id(i)
            == clip_id(f"{video}_{start}_{start + 10}")
            == clip_id(f"{video}_{1000 * start}_{1000 * start + 10000}")
        )
        assert clip_id(video, known) == (i if len(known[video]) == 1 else "")
    assert all(
        clip_id(i) == i
        for own in official_lists(METADATA, "flickr").values()
        for i in own
    )
    table = pd.DataFrame(dict(id=sorted(ids), status="ok"))
    made = write_lists(table, lists, tmp_path).set_index("list")
    positives = set(lists["vggss_test"])
    assert (
        len(positives & set(lists["vggss_144k"])) == 3709
        and made.loc["vggss_144k", "test clips in it"] >= 3709
    )
    assert (
        made.loc["vggss_144k", "written"]
        == 144000 - made.loc["vggss_144k", "test clips in it"]
    )
    seen = coverage(table[table.id.isin(lists["vggss_10k"])], lists).set_index("list")
    assert (
        seen.loc["vggss_10k", "used"] == 10000
        and seen.loc["vggss_test", "no file"] == 5158 - 238
    )


def test_a_list_of_negatives_without_its_columns_is_named(tmp_path):
    (tmp_path / "vggss_test_plus_silent.csv").write_text("a,b\nx,y\n")
    with pytest.raises(
        ValueError, match="vggss_test_plus_silent.csv: column 'video' is missing"
    ):
        official_lists(tmp_path, "vggss")


def test_find_sources_reads_no_file(videos):
    found = find_sources(videos)
    assert (
        [f["source"] for f in found] == sorted(f["source"] for f in found)
        and len(found) == COUNT
        and all(f["id"] for f in found)
    )


def test_what_fails_again_leaves_no_new_line(videos, tmp_path):
    """A source that cannot be read stays one line however often it is tried, so a stopped run still ends in the bytes of an undisturbed one."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "00000000000_000099.mp4").symlink_to("nowhere.mp4")
    for k, path in enumerate(sorted(videos.rglob("*.mp4"))[:3]):
        (root / f"{k + 1:011d}_000099.mp4").write_bytes(path.read_bytes())
    pack_sources(root, tmp_path / "whole", progress=False)
    wanted = contents(tmp_path / "whole")
    pack_sources(root, tmp_path / "whole", progress=False)
    assert (
        contents(tmp_path / "whole") == wanted
        and wanted["journal.jsonl"].count(b"\n") == 1 + 4
    )
    (tmp_path / "cut").mkdir()
    for name in ("journal.jsonl", "frames.bin", "waves.bin"):
        (tmp_path / "cut" / name).write_bytes(
            wanted[name]
            if name != "journal.jsonl"
            else b"".join(wanted[name].splitlines(True)[:3])
        )
    pack_sources(root, tmp_path / "cut", progress=False)
    assert contents(tmp_path / "cut") == wanted


@pytest.mark.parametrize("file", ["frames.bin", "waves.bin"])
def test_the_next_visit_repairs_a_damaged_clip(videos, packed, tmp_path, file):
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    before = Collection(out)
    i = before.ids.index("00000000007_000007")
    frame, wave = before.frame(i).copy(), before.wave(i).copy()
    row = before.table.set_index("id").loc[before.ids[i]]
    raw = bytearray((out / file).read_bytes())
    raw[int(row.frame_start if file == "frames.bin" else row.wave_start) + 700] ^= 1
    (out / file).write_bytes(raw)
    pack_sources(videos, out, progress=False)
    report(out)
    clips = Collection(out)
    assert (
        clips.ids == before.ids
        and np.array_equal(clips.frame(i), frame)
        and np.array_equal(clips.wave(i), wave)
    )
    assert (out / "journal.jsonl").read_bytes().count(
        b"\n"
    ) == COUNT + 2  # one line more: nothing else was done twice


def test_pairs_of_pictures_and_sounds_as_they_come(tmp_path):
    """Class folders, MP3, two files of one clip."""
    import av
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in (
        "dog/10000000001.jpg",
        "dog/10000000001.png",
        "cat/10000000002.jpg",
        "10000000003.jpg",
    ):
        (tmp_path / "in/frames" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(
            tmp_path / "in/frames" / name
        )
    wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(5 * 22050) / 22050)).astype(
        np.float32
    )
    for name in (
        "dog/10000000001.mp3",
        "cat/10000000002.wav",
        "cat/10000000002.flac",
        "10000000004.mp3",
    ):
        path = tmp_path / "in/audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".mp3"):
            with av.open(str(path), "w") as container:
                stream = container.add_stream("mp3", rate=22050)
                stream.layout = "mono"
                part = av.AudioFrame.from_ndarray(
                    wave[None], format="fltp", layout="mono"
                )
                part.sample_rate, part.pts = 22050, 0
                container.mux(stream.encode(part)), container.mux(stream.encode(None))
        else:
            import soundfile

            soundfile.write(path, wave, 22050)
    table = pack_sources(tmp_path / "in", tmp_path / "out", progress=False)
    found = {
        (row.source, row.sound): (row.id, row.status) for row in table.itertuples()
    }
    assert found == {
        ("frames/dog/10000000001.jpg", "audio/dog/10000000001.mp3"): (
            "10000000001",
            "ok",
        ),
        ("frames/dog/10000000001.png", "audio/dog/10000000001.mp3"): (
            "10000000001",
            "duplicate",
        ),
        ("frames/cat/10000000002.jpg", "audio/cat/10000000002.flac"): (
            "10000000002",
            "ok",
        ),
        ("frames/cat/10000000002.jpg", "audio/cat/10000000002.wav"): (
            "10000000002",
            "duplicate",
        ),
        ("frames/10000000003.jpg", ""): ("10000000003", "no audio"),
        ("", "audio/10000000004.mp3"): ("10000000004", "no video"),
    }
    clips = Collection(tmp_path / "out")
    spectrum = np.abs(np.fft.rfft(clips[0].waveform))
    assert abs(spectrum.argmax() / 3 - 440) < 2  # the MP3's own tone
    assert "| audio/10000000004.mp3" in report(tmp_path / "out")


def test_sources_that_are_gone_are_no_rows(videos, tmp_path):
    """Moved into a class folder, downloaded again under another name, deleted: the table is what is there."""
    root = tmp_path / "root"
    root.mkdir()
    good = [path.read_bytes() for path in sorted(videos.rglob("*.mp4"))[4:8]]
    names = [f"{k:011d}_000099" for k in range(4)]
    for name, data in zip(names, good):
        (root / f"{name}.mp4").write_bytes(data)
    (root / f"{names[1]}.mp4").rename(root / f"{names[1]}.mp4.part")
    pack_sources(root, tmp_path / "out", progress=False)
    (root / "dog").mkdir()
    (root / f"{names[0]}.mp4").rename(root / "dog" / f"{names[0]}.mp4")
    (root / f"{names[1]}.mp4.part").rename(root / f"{names[1]}.mp4")
    (root / f"{names[3]}.mp4").unlink()
    table = pack_sources(root, tmp_path / "out", progress=False)
    assert table[["source", "status"]].values.tolist() == [
        [f"{names[1]}.mp4", "ok"],
        [f"{names[2]}.mp4", "ok"],
        [f"{names[3]}.mp4", "ok"],
        [f"dog/{names[0]}.mp4", "ok"],
    ]
    assert table.note.tolist() == [
        "",
        "",
        "its file is gone, what was packed of it is used",
        "",
    ]


def test_a_failing_disk_is_a_row_and_no_memory_names_the_file(
    videos, tmp_path, monkeypatch
):
    import errno

    real = packing._digest

    def broken(*paths):
        if "00000000001_" in str(paths[0]):
            raise error
        return real(*paths)

    monkeypatch.setattr(packing, "_digest", broken)
    error = OSError(errno.EIO, "Input/output error")
    table = pack_sources(videos, tmp_path / "out", progress=False).set_index("id")
    assert (
        table.note["00000000001_000001"] == "could not be read (Input/output error)"
        and (table.status == "ok").sum() == 35
    )
    for error, words in (
        (MemoryError(), "memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    ):
        with pytest.raises(OSError, match=f"00000000001_000001.mp4: .*{words}"):
            pack_sources(videos, tmp_path / "out", progress=False)
    error = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(packing, "_digest", real)
    assert (
        pack_sources(videos, tmp_path / "out", progress=False).status == "ok"
    ).sum() == 36


def test_parameters_of_the_engine(videos, tmp_path):
    """Numbers stay numbers; what submitit refuses is said before anything runs."""
    pytest.importorskip("submitit")
    for wrong in ("no_such_parameter=1", "slurm_no_such=1", "mem_gb=much"):
        done = CliRunner().invoke(
            app,
            [
                "prepare",
                str(videos),
                str(tmp_path / "out"),
                "--shards",
                "2",
                "--cluster",
                "local",
                "--slurm",
                wrong,
            ],
        )
        assert (
            done.exit_code == 1
            and "submitit refuses" in done.output
            and isinstance(done.exception, SystemExit)
        ), (done.output, done.exception)
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        import submitit

        patch.setattr(
            submitit.AutoExecutor,
            "update_parameters",
            lambda self, **given: (
                seen.update(given) or (_ for _ in ()).throw(TypeError("seen"))
            ),
        )
        CliRunner().invoke(
            app,
            [
                "prepare",
                str(videos),
                str(tmp_path / "out"),
                "--shards",
                "2",
                "--workers",
                "3",
                "--cluster",
                "local",
                "--slurm",
                "slurm_array_parallelism=10",
                "--slurm",
                "timeout_min=5",
                "--slurm",
                "slurm_partition=cpu",
            ],
        )
    assert seen == dict(
        name="slavc-prepare",
        timeout_min=5,
        cpus_per_task=3,
        slurm_array_parallelism=10,
        slurm_partition="cpu",
    )


def test_missing_lists_are_said_before_packing_or_in_the_report(videos, tmp_path):
    done = CliRunner().invoke(
        app,
        [
            "prepare",
            str(videos),
            str(tmp_path / "out"),
            "--annotations",
            str(tmp_path / "typo.json"),
        ],
    )
    assert (
        done.exit_code == 1
        and "typo.json: no such annotations" in done.output
        and not (tmp_path / "out").exists()
    )
    lists = tmp_path / "lists"
    lists.mkdir()
    ids = [f"{k:011d}_{k:06d}" for k in range(3)]
    (lists / "vggss.json").write_text(
        json.dumps(
            [dict(file=i, **{"class": "c"}, bbox=[[0, 0, 0.5, 0.9]]) for i in ids]
        )
    )
    (lists / "vggss_10k.txt").write_text(f"{ids[2]}\n")
    done = CliRunner().invoke(
        app, ["prepare", str(videos), str(tmp_path / "out"), "--metadata", str(lists)]
    )
    assert (
        done.exit_code == 0
        and "No list of the test" in (tmp_path / "out/report.md").read_text()
    )
    (lists / "vggss_test.csv").write_text(
        "".join(f"{i}\n" for i in ids[:2])
    )  # no list of negatives
    done = CliRunner().invoke(
        app, ["prepare", str(videos), str(tmp_path / "out"), "--metadata", str(lists)]
    )
    assert done.exit_code == 0 and "| official | 2 | 0 |" in " ".join(
        (tmp_path / "out/report.md").read_text().split()
    )

"""Media files as they come: late and broken sound, many channels, edited cuts, tracks of different length."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from slavc.data.media import (
    Media,
    MediaError,
    frame_at,
    frames_at,
    read_sound,
    write_video,
)

RATE = 16000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.float32)


def film(seconds, fps=10):
    """Frames whose brightness tells the time: 25 a second."""
    return [
        np.full((64, 64, 3), round(25 * k / fps), np.uint8)
        for k in range(round(seconds * fps))
    ]


def write(path, blocks, seconds=8):
    """A file of film with PCM sound in blocks of (second, samples)."""
    with av.open(str(path), "w") as container:
        video, audio = (
            container.add_stream("libx264", rate=10),
            container.add_stream("pcm_f32le", rate=RATE),
        )
        video.width = video.height = 64
        video.pix_fmt, audio.layout = "yuv420p", "mono"
        for picture in film(seconds):
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            )
        container.mux(video.encode(None))
        for at, samples in blocks:
            frame = av.AudioFrame.from_ndarray(
                samples[None], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = (
                RATE,
                round(at * RATE),
                Fraction(1, RATE),
            )
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def test_a_gap_in_the_sound_is_silence(tmp_path):
    write(tmp_path / "gap.mkv", [(0, TONE[:RATE]), (4, TONE[:RATE])])
    with Media(tmp_path / "gap.mkv") as media:
        wave, start = read_sound(media, RATE)
    assert start == pytest.approx(0, abs=0.01) and len(wave) == pytest.approx(
        5 * RATE, abs=40
    )
    assert (
        np.abs(wave[: RATE - 200]).max() > 0.4
        and np.abs(wave[RATE + 200 : 4 * RATE - 200]).max() == 0
        and np.abs(wave[4 * RATE + 200 :]).max() > 0.4
    )


def test_sound_that_starts_late_says_so(tmp_path):
    write(tmp_path / "late.mkv", [(3, TONE)])
    with Media(tmp_path / "late.mkv") as media:
        assert read_sound(media, RATE)[1] == pytest.approx(3, abs=0.01)


def test_the_start_of_aac_is_that_of_what_is_decoded(tmp_path):
    """An encoder fills its window before the sound begins; a click at second 1 stays at second 1."""
    click = np.zeros(3 * RATE, np.float32)
    click[RATE : RATE + 40] = 0.9
    write_video(tmp_path / "click.mp4", film(3), 10, click, RATE)
    with Media(tmp_path / "click.mp4") as media:
        wave, start = read_sound(media, RATE)
    assert np.abs(wave).argmax() / RATE + start == pytest.approx(1, abs=0.005)


def test_tracks_of_different_length_are_whole(tmp_path):
    for name in ("short.mkv", "short.mp4"):
        write_video(tmp_path / name, film(4), 10, TONE[: 2 * RATE], RATE)
        with Media(tmp_path / name) as media:
            assert media.end == pytest.approx(4, abs=0.2)


def test_many_channels(tmp_path):
    """More than FFmpeg's frames hold side by side: sixteen."""
    soundfile.write(tmp_path / "many.wav", np.repeat(TONE[:, None], 16, 1), RATE)
    with Media(tmp_path / "many.wav", need=("audio",)) as media:
        wave, _ = read_sound(media, RATE)
    np.testing.assert_allclose(wave, TONE, atol=1e-3)


def test_a_cut_without_encoding_shows_its_own_middle(tmp_path):
    """Cutting by copying packets keeps those from the key frame on, marked as not to be shown."""
    write_video(tmp_path / "whole.mp4", film(8), 10, np.tile(TONE, 2), RATE)
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "cut.mp4"), "w") as cut,
    ):
        streams = {s.index: cut.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.pts is None or not packet.size:
                continue
            packet.dts -= round(Fraction(3) / packet.time_base)
            packet.pts -= round(Fraction(3) / packet.time_base)
            packet.stream = streams[packet.stream.index]
            cut.mux(packet)
    with Media(tmp_path / "cut.mp4") as media:
        assert media.start > -0.2 and media.end == pytest.approx(5, abs=0.3)
        assert frame_at(media).mean() == pytest.approx(25 * (3 + 2.5), abs=12)


def test_mostly_damaged_video_is_corrupt(tmp_path):
    write_video(
        tmp_path / "good.mkv",
        [
            np.random.default_rng(k).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            for k in range(60)
        ],
        10,
        TONE,
        RATE,
    )
    data = bytearray((tmp_path / "good.mkv").read_bytes())
    data[4000:-4000] = bytes(len(data) - 8000)
    (tmp_path / "bad.mkv").write_bytes(data)
    with pytest.raises(MediaError):
        with Media(tmp_path / "bad.mkv") as media:
            list(frames_at(media, [0, 3, 5]))


def test_a_video_that_fails_leaves_nothing(tmp_path):
    def pictures():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(tmp_path / "x.mp4", pictures(), 10)
    assert not list(tmp_path.iterdir())


def test_colons_and_unknown_formats(tmp_path):
    with pytest.raises(ValueError, match="no video format that is written here"):
        write_video(tmp_path / "x.gif", film(1))
    path = tmp_path / "a: b.mp4"
    write_video(path, film(1), 10)
    with Media(path, need=("video",)) as media:
        assert frame_at(media).shape == (64, 64, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a: b.mp4"]


def test_a_wrong_time_stamp_is_no_silence_of_days(tmp_path):
    write(tmp_path / "jump.mkv", [(0, TONE[:RATE]), (20000, TONE[:RATE])])
    with (
        Media(tmp_path / "jump.mkv") as media,
        pytest.raises(MediaError, match="its sound jumps by 19999 s"),
    ):
        read_sound(media, RATE)


def test_a_rate_that_changes_keeps_its_pitch(tmp_path):
    """Two transport streams joined, as recorders leave them: 4 s at 32 kHz behind 4 s at 16 kHz."""
    for name, rate in (("a.ts", 16000), ("b.ts", 32000)):
        write_video(
            tmp_path / name,
            film(4),
            10,
            0.5 * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate),
            rate,
            sound_codec="mp2",
        )
    (tmp_path / "joined.ts").write_bytes(
        (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    )
    with Media(tmp_path / "joined.ts") as media:
        wave, _ = read_sound(media, 22050)
    assert len(wave) / 22050 == pytest.approx(8, abs=0.3)
    for part in (wave[22050 : 3 * 22050], wave[5 * 22050 : 7 * 22050]):
        assert np.abs(np.fft.rfft(part)).argmax() / 2 == pytest.approx(440, abs=3)


def test_a_flash_video_cut_short_is_corrupt(tmp_path):
    write_video(
        tmp_path / "whole.flv", film(10), 10, np.tile(TONE, 3)[: 10 * RATE], RATE
    )
    Media(tmp_path / "whole.flv").close()
    data = (tmp_path / "whole.flv").read_bytes()
    (tmp_path / "cut.flv").write_bytes(data[: len(data) * 55 // 100])
    with pytest.raises(MediaError, match="cut short"):
        Media(tmp_path / "cut.flv")

"""How fast clips come from videos and from a packed dataset: `make bench`. Prints numbers and ratios, asserts nothing.

One core, the same clips, in one run: the released loader re-stated in our words (open a JPEG, shrink and crop it with Pillow; read a WAV, cut its middle,
SciPy's spectrogram) against the batches of our training loop from a packed collection (crops of raw or JPEG frames, 16-bit waveforms). Mirroring, normalising and the
spectrogram are left to the device that trains: first without them, which is what a machine with a GPU does on its cores, then with them on the same core. Then packing itself, videos a second.
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from scipy import signal

from slavc.data.collection import Collection
from slavc.data.media import Media, frame_at, read_sound, write_video
from slavc.data.packing import pack_sources
from slavc.train.training import Inputs, epoch_batches

CLIPS, SIZE = 64, 224


def released_item(folder, name, rng):
    """What the released data set does for one clip, in training: a frame (3, 224, 224) and a spectrogram (1, 257, 276)."""
    picture = Image.open(folder / "frames" / f"{name}.jpg").convert("RGB")
    width, height = picture.size
    short = int(1.1 * SIZE)
    scale = short / min(width, height)
    picture = picture.resize(
        (max(short, round(width * scale)), max(short, round(height * scale))),
        Image.BICUBIC,
    )
    left, top = (
        rng.integers(picture.width - SIZE + 1),
        rng.integers(picture.height - SIZE + 1),
    )
    frame = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    frame = (
        torch.from_numpy(
            frame[:, ::-1].copy() if rng.random() < 0.5 else frame
        ).permute(2, 0, 1)
        / 255
    )
    frame = (frame - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    samples, rate = soundfile.read(folder / "audio" / f"{name}.wav", dtype="int16")
    samples = samples / 32767.0
    start = max(0, len(samples) // 2 - 3 * rate // 2)
    _, _, power = signal.spectrogram(
        samples[start : start + 3 * rate], rate, nperseg=512, noverlap=274
    )
    return frame, torch.from_numpy(np.log(power + 1e-7) / 12)[None].float()


def timed(what, *args, repeat=3):
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        what(*args)
        best = min(best, time.perf_counter() - start)
    return best


def batches(clips):
    "An epoch of training batches, as the training loop gets them without extra processes."
    return list(epoch_batches(clips, SIZE, 0, 0, 32, 0, 0))


def finished(read, inputs):
    "What a GPU makes of these batches, here on the same core."
    return [
        inputs(frames, waves, index, None, flips)
        for frames, waves, index, flips in read
    ]


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        names = [f"{k:011d}_{k:06d}" for k in range(CLIPS)]
        for k, clip in enumerate(names):
            picture = np.asarray(
                Image.fromarray(rng.integers(0, 255, (12, 20, 3), np.uint8)).resize(
                    (640, 360), Image.BICUBIC
                )
            )
            write_video(
                folder / "videos" / f"{clip}.mp4",
                (np.roll(picture, 2 * t, 1) for t in range(250)),
                25,
                rng.normal(0, 0.1, 441000),
                44100,
            )
            with Media(folder / "videos" / f"{clip}.mp4") as media:
                (
                    (folder / "frames").mkdir(exist_ok=True),
                    (folder / "audio").mkdir(exist_ok=True),
                )
                Image.fromarray(frame_at(media)).save(
                    folder / "frames" / f"{clip}.jpg", quality=90
                )
                soundfile.write(
                    folder / "audio" / f"{clip}.wav", read_sound(media, 22050)[0], 22050
                )
        slow = (
            timed(lambda: [released_item(folder, clip, rng) for clip in names]) / CLIPS
        )
        print(
            f"released loader, re-stated: {1000 * slow:.1f} ms a clip (640x360 JPEG, 10 s WAV), one core"
        )
        for kind, side in (("jpeg", 256), ("raw", 256), ("raw", int(1.1 * SIZE))):
            start = time.perf_counter()
            pack_sources(
                folder / "videos",
                folder / f"{kind}{side}",
                workers=1,
                frames=kind,
                side=side,
                progress=False,
            )
            pack = (time.perf_counter() - start) / CLIPS
            clips = Collection(folder / f"{kind}{side}")
            fast = timed(batches, clips) / CLIPS
            rest = (
                timed(
                    finished,
                    batches(clips),
                    Inputs(SIZE, 22050, dict(window=512, hop=238, mean=0.0, std=1.0)),
                )
                / CLIPS
            )
            print(
                f"packed, {kind} {side} px: {1000 * fast:.2f} ms a clip to bytes and waveform in a batch, {slow / fast:.1f} times as fast; to the network's input on the same core "
                f"{1000 * (fast + rest):.2f} ms, {slow / (fast + rest):.1f} times. Packing: {1 / pack:.1f} videos/s of 10 s on one core"
            )
    print(
        f"largest process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()

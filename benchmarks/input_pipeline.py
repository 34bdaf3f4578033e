"""Does the loader keep up with the model? Images a second of the loader alone, of training alone, and of both together.

    python benchmarks/input_pipeline.py [--seconds 4] [--threads N] [--workers N]

Cases: the embedded digits at 32 px with the gentle augmentation for mixer_nano (batch 64), and 400 JPEG files of
500 x 375 pixels, crops of two photographs, at 224 px with RandAugment and erasing for mixer_s16 (batch 32). The peer is
the same work by the usual means: torchvision's transforms or timm's loader, image by image, with as many workers. The
ceiling is a float32 matrix product on as many threads; a training step counts as three forward passes.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

import allmlp
from allmlp.data import (
    AugmentSettings,
    ClassificationData,
    ClassificationDataset,
    EpochBatchSampler,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
)
from allmlp.data.loader import default_workers


def write_photos(folder: Path, images: int = 400) -> Path:
    """JPEG files of 500 x 375 pixels in two classes: random crops of scikit-learn's two photographs."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(images):
        x, y = int(rng.integers(0, 140)), int(rng.integers(0, 52))
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        photos[number % 2].crop((x, y, x + 500, y + 375)).save(path, quality=90)
    return folder


class Pictures(Dataset):
    """The pictures of a source through a transform, one by one."""

    def __init__(self, data: ClassificationData, transform: Callable[[Any], Any], channels: int):
        self.source, self.transform, self.channels = data.train, transform, channels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.source.load(index, self.channels)), self.source.label(index)


def peer_loader(data: ClassificationData, spec: ImageSpec, settings: AugmentSettings, batch: int, workers: int) -> Any:
    """What one would write without this package: the same augmentation by torchvision or timm."""
    if settings.recipe == "imagenet":
        transform = timm.data.create_transform(
            (3, *spec.size),
            is_training=True,
            auto_augment=settings.auto_augment,
            interpolation=settings.interpolation,
            re_prob=settings.erase,
            re_mode="pixel",
        )
    else:
        transform = v2.Compose(
            [
                v2.PILToTensor(),
                v2.Resize(spec.size, v2.InterpolationMode.BICUBIC, antialias=True),
                v2.ToDtype(torch.float32, scale=True),
                v2.RandomAffine(
                    settings.rotate,
                    (settings.shift, settings.shift),
                    (1 - settings.zoom, 1 + settings.zoom),
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.Normalize(spec.mean, spec.std),
            ]
        )
    dataset = Pictures(data, transform, spec.channels)
    return DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)


def our_loader(data: ClassificationData, spec: ImageSpec, settings: AugmentSettings, batch: int, workers: int) -> Any:
    """This package's loader of training batches."""
    dataset = ClassificationDataset(data.train, build_transform(spec, settings, training=True))
    return make_loader(dataset, EpochBatchSampler(len(dataset), batch, drop_last=True), workers)


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    for epoch in count():
        if isinstance(getattr(loader, "batch_sampler", None), EpochBatchSampler):
            loader.batch_sampler.set_epoch(epoch)
        yield from loader


def rates(batches: Iterator[Any], use: Callable[[Any], None], seconds: float, warm_up: int) -> list[float]:
    """Images a second of taking and using batches, in about four stretches, each at least a batch long."""
    for _ in range(warm_up):
        use(next(batches))
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        images, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 4 or images == 0:
            batch = next(batches)
            use(batch)
            images += len(batch[0])
        found.append(images / spent)
    return found


def training_step(name: str, spec: ImageSpec, classes: int) -> tuple[Callable[[Any], None], float]:
    """A function that trains on a batch, and its floating-point operations an image."""
    model = allmlp.create_model(name, num_classes=classes, img_size=spec.size, in_chans=spec.channels).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, spec.channels, *spec.size))

    def step(batch: Any) -> None:
        loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, 3 * counter.get_total_flops()


def matmul_flops(side: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations a second of a square float32 matrix product: the best of some."""
    a = torch.randn(side, side)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def report(
    title: str,
    data: ClassificationData,
    spec: ImageSpec,
    settings: AugmentSettings,
    name: str,
    batch: int,
    workers: int | None,
    seconds: float,
) -> None:
    """Measure and print one case."""
    if workers is None:
        workers = default_workers(our_loader(data, spec, settings, batch, workers=0).dataset)
    ours = endless(our_loader(data, spec, settings, batch, workers))
    peer = endless(peer_loader(data, spec, settings, batch, workers))
    step, flops = training_step(name, spec, len(data.classes))
    for _ in range(len(data.train) // batch):  # small images are kept in memory from now on
        still = next(ours)
    filled = 2 * workers + 1  # batches that may lie ready from before
    rows: dict[str, tuple[Iterator[Any], Callable[[Any], None], int]] = {
        "loader alone": (ours, lambda _: None, filled),
        "peer loader": (peer, lambda _: None, filled),
        "model alone": (iter(lambda: still, None), step, 1),
        "both together": (ours, step, 1),
    }
    speeds: dict[str, list[float]] = {row: [] for row in rows}
    for row in [*rows] * 2:  # in turns, so that what else the machine does falls on all
        speeds[row] += rates(*rows[row][:2], seconds / 2, rows[row][2])
    print(f"\n{title}, {name}, batch {batch}, {workers} workers")
    for row, found in speeds.items():
        middle = statistics.median(found)
        print(f"  {row:14} {middle:9,.0f} images/s   spread {100 * (max(found) - min(found)) / middle:3.0f} %")
    loader, peers, model, both = (statistics.median(found) for found in speeds.values())
    print(f"  loader / peer  {loader / peers:9.2f}")
    print(f"  loader / model {loader / model:9.2f}")
    print(f"  both / model   {both / model:9.2f}")
    print(f"  model / matrix product ceiling {flops * model / matmul_flops():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each of the four measurements of a case")
    parser.add_argument("--threads", type=int, default=None, help="of the model; default torch's own number")
    parser.add_argument("--workers", type=int, default=None, help="of the loaders; default as in training")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"Pillow {Image.__version__}, allmlp {allmlp.__version__}"
    )
    digits = open_classification("digits")
    spec = ImageSpec(32, 32, crop_pct=1.0)
    small = AugmentSettings("small")
    report("digits at 32 px", digits, spec, small, "mixer_nano", 64, arguments.workers, arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        photos = open_classification(write_photos(Path(folder)))
        # The usual policy has mstd0.5 besides, with which the peer stops: timm 1.0.31 asks Pillow 13 for 0 bits.
        spec, settings = ImageSpec(224, 224), AugmentSettings("imagenet", auto_augment="rand-m9-inc1", erase=0.25)
        report("JPEG files at 224 px", photos, spec, settings, "mixer_s16", 32, arguments.workers, arguments.seconds)


if __name__ == "__main__":
    main()

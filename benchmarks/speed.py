"""Speed of the six architectures: what docs/performance.md shows.

    python benchmarks/speed.py infer train resolution

- infer: batches of 1 and 8 by eager, compile, ONNX Runtime and OpenVINO, against the authors' form and timm on the
  same. Compiling takes most of the time; `--batch 8 --backend eager onnxruntime openvino` leaves it out;
- train: a step at batch 8 against the same in eager;
- resolution: one image of 224 to 896 pixels.

Each writes its numbers to docs/results/, its figure to docs/figures/, and its table into docs/performance.md. Close
everything else before: what is busy beside it is measured with it.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on the command line, before torch is loaded

import allmlp
from allmlp.speed.results import Row, Verdict, groups, judge
from allmlp.verbs.benchmark import Benchmark

MODELS = ("mixer_b16", "resmlp_s24", "ff_base", "eamlp_14", "as_mlp_t", "repmlpnet_t224")
BACKENDS = ("eager", "compile", "onnxruntime", "openvino")
SIZES = (224, 448, 672, 896)
DOCS = Path(__file__).parents[1] / "docs"


def infer(arguments: argparse.Namespace) -> None:
    """Inference at small batches."""
    result = measure(
        arguments,
        "infer",
        batch=arguments.batch or (1, 8),
        backend=arguments.backend or BACKENDS,
        rounds=arguments.rounds or 10,
    )
    write_table("speed_infer", [["model", "batch", *TITLES], *summary(result.rows)])
    shutil.copy(result.folder / "speed.png", DOCS / "figures" / "speed_infer.png")


def train(arguments: argparse.Namespace) -> None:
    """Training steps."""
    result = measure(
        arguments, "train", mode="train", batch=arguments.batch or 8, backend="eager", rounds=arguments.rounds or 5
    )
    write_table("speed_train", [["model", "batch", *TITLES], *summary(result.rows)])
    shutil.copy(result.folder / "speed.png", DOCS / "figures" / "speed_train.png")


def resolution(arguments: argparse.Namespace) -> None:
    """One image at growing sizes."""
    result = measure(
        arguments,
        "resolution",
        batch=1,
        img_size=SIZES,
        against="none",
        backend="eager",
        memory=False,
        rounds=arguments.rounds or 5,
    )
    titles = ["model", *(f"{size} px, ms" for size in SIZES), f"time a pixel, {SIZES[-1]} px over {SIZES[0]}"]
    rows = []
    for model in arguments.models:
        found = [row for row in result.rows if row.model == model and row.own]
        # In units of the matrix product of the same round, so that sizes that were not timed together can be compared.
        first, *_, last = ((row.macs or 0) / (row.share_of_ceiling or 1) for row in found)
        growth = last / first / (SIZES[-1] / SIZES[0]) ** 2
        rows.append([model, *(f"{row.median_ms:,.0f}" for row in found), f"{growth:.2f}"])
    write_table("speed_resolution", [titles, *rows])
    shutil.copy(result.folder / "resolution.png", DOCS / "figures" / "speed_resolution.png")


def measure(arguments: argparse.Namespace, part: str, **settings: Any) -> Benchmark:
    """Run the benchmark; every row of it becomes docs/results/speed_PART_all.csv."""
    out = Path("runs") / "benchmark" / f"speed_{part}"
    shutil.rmtree(out, ignore_errors=True)
    result = allmlp.benchmark(*arguments.models, threads=arguments.threads, out=out, **settings)
    if result.interrupted:
        raise KeyboardInterrupt
    shutil.copy(out / "results.csv", DOCS / "results" / f"speed_{part}_all.csv")
    machine, versions = result.environment["machine"], result.environment["versions"]
    told = {
        "processor": machine["processor"],
        "threads": f"{machine['threads']} of {machine['cores']} cores",
        "system": machine["system"],
        "matrix product": f"{' x '.join(map(str, result.ceiling_shape))}, "
        f"{statistics.median(row.ceiling_gflops for row in result.rows if row.ceiling_gflops):,.0f} GFLOP/s",
        "versions": ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions),
        "rounds": str(max(row.rounds for row in result.rows)),
        "measured": result.environment["time"][:10],
    }
    write_table(f"speed_{part}_machine", [["", ""], *([key, value] for key, value in told.items())])
    return result


SHOWN = ("python", "torch", "onnxruntime", "openvino", "timm", "allmlp")
TITLES = (
    "ours, fastest on",
    "median ms",
    "p95 ms",
    "images/s",
    "of ceiling %",
    "peak MiB",
    "fastest peer",
    "times as fast (quartiles)",
    "times as fast as authors' in eager (quartiles)",
    "its peak MiB",
)


def summary(rows: Sequence[Row]) -> list[list[str]]:
    """A line for what was timed together, and geometric means over models of the same batch."""
    verdicts = {part[0].group: judge(part) for part in groups(rows)}
    lines = [[model, str(batch), *line(found)] for (model, _, batch, *_), found in verdicts.items() if found.best]
    for batch in sorted({batch for _, _, batch, *_ in verdicts}):
        same = [found for (_, _, size, *_), found in verdicts.items() if size == batch]
        lines.append(["geometric mean", str(batch), *means(same)])
    return lines


def line(found: Verdict) -> list[str]:
    """The numbers of one model."""
    best, peer, authors = found.best, found.peer, found.authors
    assert best is not None  # noqa: S101 - the caller has looked
    return [
        best.backend,
        f"{best.median_ms:,.1f}",
        f"{best.p95_ms:,.1f}",
        f"{best.images_per_second:,.1f}",
        f"{100 * (best.share_of_ceiling or 0):.0f}",
        memory(best),
        "none" if peer is None else peer.name,
        times(peer),
        times(authors),
        "" if authors is None else memory(authors),
    ]


def memory(row: Row) -> str:
    """Peak memory, if it was measured."""
    return "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:,.0f}"


def times(row: Row | None) -> str:
    """How many times as fast ours is."""
    return "" if row is None else f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"


def means(found: Sequence[Verdict]) -> list[str]:
    """Geometric means of shares and ratios."""

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value]
        return f"{statistics.geometric_mean(known):.2f}" if known else ""

    shares = [v.best.share_of_ceiling for v in found if v.best]
    share = f"{100 * float(mean(shares) or 0):.0f}"
    peers = mean([v.peer.ratio for v in found if v.peer])
    authors = mean([v.authors.ratio for v in found if v.authors])
    return ["", "", "", "", share, "", "", peers, authors, ""]


def write_table(name: str, rows: Sequence[Sequence[str]]) -> None:
    """A CSV file beside those of other results."""
    with open(DOCS / "results" / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"infer": infer, "train": train, "resolution": resolution}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, help="of infer and train")
    parser.add_argument("--backend", nargs="+", help=f"of infer; default {' '.join(BACKENDS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, help="default torch's own number")
    arguments = parser.parse_args()
    for part in arguments.parts:
        PARTS[part](arguments)
    subprocess.run([sys.executable, str(DOCS / "make_results.py")], check=True)


if __name__ == "__main__":
    main()

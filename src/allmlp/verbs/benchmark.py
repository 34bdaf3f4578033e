"""Measure speed against peers and the machine's ceiling: `allmlp benchmark mixer_b16 batch=8 backend=eager,compile`."""

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.verbs._console import counting as progress_bar
from allmlp.verbs._console import make_console, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from allmlp.speed.ceiling import Ceiling
    from allmlp.speed.results import Row

_NEEDED = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


@dataclass
class Benchmark:
    """What a benchmark gives back.

    rows: one a contestant. ceiling_shape: (m, k, n) of the fastest matrix product. environment: machine, threads and
    versions. interrupted: whether Ctrl-C ended it; what was finished by then is there.
    """

    folder: Path
    rows: "list[Row]"
    ceiling_shape: tuple[int, int, int]
    environment: dict[str, Any]
    interrupted: bool = False


@dataclass(frozen=True)
class _Settings:
    against: Sequence[str] | None
    backends: Sequence[str]
    mode: str
    rounds: int
    seconds: float
    threads: int
    memory: bool
    seed: int


def benchmark(
    *models: str,
    against: str | Sequence[str] | None = None,
    batch: int | Sequence[int] = (1, 8, 32),
    img_size: int | Sequence[int] | None = None,
    backend: str | Sequence[str] | None = None,
    mode: str = "infer",
    rounds: int = 10,
    seconds: float = 0.1,
    threads: int | None = None,
    memory: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    progress: str = "auto",
) -> Benchmark:
    """Time every form of a model on every backend in turns, beside the largest sustained float32 matrix product.

    All forms of a model hold the same weights, new ones that are spread so that none is without effect. A form whose
    outputs differ from those of the unfolded network in eager mode is listed as wrong and has no time.

    Args:
        models: names, `timm/NAME`, or run folders. Ours are folded for inference.
        against: "authors" (the authors' own operations, unfused), "timm" (its network of the same function), names of
            other models, which compute something else, or "none"; default all built-in peers that there are.
        batch: numbers of images at a time.
        img_size: sides in pixels; default the model's own.
        backend: of eager, compile, onnxruntime, openvino, pt2; default eager and those of the middle two that are
            installed. Of training: eager (the default) and compile.
        mode: "infer", or "train": forward, cross-entropy, backward and AdamW, of the unfolded model.
        rounds: how often each contestant has its turn.
        seconds: that a turn should last at least.
        threads: default PyTorch's own number.
        memory: whether to measure peak memory too, each contestant in a process of its own.
        seed: of the weights.
        out: a new folder; default `runs/benchmark/MODEL`, with a number behind it if that exists.
        progress: "none" for silence.

    Returns:
        All rows. In the folder are results.csv, results.json, speed.png, and resolution.png of several image sizes.

    Raises:
        InputError: an unknown model, peer, backend or mode, a number that is not positive, or a missing extra.
    """
    if not models:
        raise InputError("Wanted at least one model to measure, such as mixer_b16. `allmlp list` shows them all.")
    batches, sizes = _positive("batch", batch), [None] if img_size is None else _positive("img_size", img_size)
    _positive("rounds", rounds)
    if seconds <= 0:
        raise InputError(f"seconds: wanted more than 0; got {seconds}.")
    backends = _backends(backend, mode)
    others = None if against is None else [name for name in _list(against) if name != "none"]
    from allmlp.backends import set_threads
    from allmlp.runs import describe_environment
    from allmlp.runs.folder import new_folder
    from allmlp.speed.ceiling import find_ceiling
    from allmlp.speed.subject import check_subject

    for model in models:
        check_subject(model, others)
    settings = _Settings(others, backends, mode, rounds, seconds, set_threads(threads), memory, seed)
    console = make_console(progress)
    folder = new_folder(out, Path("runs") / "benchmark" / (Path(models[0]).name if len(models) == 1 else "models"))
    ceiling = find_ceiling()
    result = Benchmark(folder, [], ceiling.shape, describe_environment())
    try:
        for model, size, images in product(models, sizes, batches):
            result.rows += _measure(model, size, images, settings, ceiling, console)
            _write(result, settings)
    except KeyboardInterrupt:
        result.interrupted = True
    _draw(result)
    return result


def _list(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int)) else list(value)


def _positive(key: str, value: int | Sequence[int]) -> list[int]:
    numbers = _list(value)
    if not numbers or min(numbers) < 1:
        raise InputError(f"{key}: wanted whole numbers of at least 1; got {', '.join(map(str, numbers)) or 'none'}.")
    return numbers


def _backends(backend: str | Sequence[str] | None, mode: str) -> list[str]:
    from allmlp.backends import BACKENDS

    if mode not in ("infer", "train"):
        raise InputError(f"mode: wanted infer or train; got {mode!r}.")
    known = BACKENDS if mode == "infer" else ("eager", "compile")
    if backend is None:
        return ["eager", *(name for name in known if name in _NEEDED and not _missing(name))]
    names = _list(backend)
    for name in names:
        if name not in known:
            raise InputError(f"backend: wanted some of {', '.join(known)} with mode={mode}; got {name!r}.")
        if _missing(name):
            raise InputError(
                f"backend={name} needs {', '.join(_missing(name))}, which is not installed. "
                "Type: pip install 'allmlp[export]'"
            )
    return list(dict.fromkeys(names))


def _missing(backend: str) -> list[str]:
    return [name for name in _NEEDED.get(backend, ()) if find_spec(name) is None]


def _measure(
    model: str, size: int | None, batch: int, settings: _Settings, ceiling: "Ceiling", console: "Console"
) -> "list[Row]":
    """Prepare all contestants of one model, size and batch, time them in turns, and measure their memory."""
    from allmlp.speed.contestants import prepare
    from allmlp.speed.memory import peak_memory
    from allmlp.speed.results import CEILING, make_rows
    from allmlp.speed.rounds import run_rounds
    from allmlp.speed.subject import open_subject

    train = settings.mode == "train"
    subject = open_subject(model, size, settings.against, train, settings.seed)
    _, height, width = subject.input_size
    say(console, f"{subject.name}, {height} x {width} pixels, batch {batch}")
    for why in subject.left_out:
        say(console, f"  {why}")
    with tempfile.TemporaryDirectory() as place:
        contestants = prepare(
            subject,
            settings.backends,
            batch,
            train,
            Path(place),
            settings.threads,
            lambda name: say(console, f"  preparing {name}"),
        )
        for contestant in contestants:
            if contestant.problem:
                say(console, f"  {contestant.name}: {contestant.problem}")
        counting = [contestant for contestant in contestants if contestant.counts]
        peaks = peak_memory([c.job for c in counting if c.job], Path(place)) if settings.memory else []
        calls: dict[str, Any] = {CEILING: ceiling, **{c.name: c.call for c in counting if c.call}}
        say(console, f"  timing {len(counting)} of them and the matrix product in {settings.rounds} rounds")
        with progress_bar(console, "rounds") as begin:
            times = run_rounds(calls, settings.rounds, settings.seconds, begin(settings.rounds))
    memory = {c.name: peak for c, peak in zip(counting, peaks)}
    return make_rows(subject, contestants, times, ceiling, batch, settings.mode, memory)


def _write(result: Benchmark, settings: _Settings) -> None:
    from allmlp.runs import write_json, write_text
    from allmlp.speed.contestants import TOLERANCE
    from allmlp.speed.results import Row

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in fields(Row))
    writer.writerows(asdict(row).values() for row in result.rows)
    write_text(result.folder / "results.csv", text.getvalue())
    write_json(
        result.folder / "results.json",
        {
            **result.environment,
            "settings": {**asdict(settings), "ceiling_shape": result.ceiling_shape, "tolerance": TOLERANCE},
            "rows": [asdict(row) for row in result.rows],
        },
    )


def _draw(result: Benchmark) -> None:
    if find_spec("matplotlib") is None or not any(row.median_ms for row in result.rows):
        return
    from allmlp.figures.speed import draw_resolution, draw_speed
    from allmlp.figures.style import save_figure

    save_figure(draw_speed(result.rows), result.folder / "speed.png")
    if len({(row.height, row.width) for row in result.rows}) > 1:
        save_figure(draw_resolution(result.rows), result.folder / "resolution.png")


def show(result: Benchmark) -> "RenderableType":
    """What the command line prints: a table for what was timed together, and what it says."""
    from rich.console import Group

    from allmlp.speed.results import groups, judge

    parts: list[Any] = []
    for rows in groups(result.rows):
        parts += [_heading(rows[0]), _table(rows), *_told(judge(rows)), ""]
    machine, versions = result.environment["machine"], result.environment["versions"]
    shown = ("python", "torch", "onnxruntime", "openvino", "timm", "allmlp")
    parts += [
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, {machine['system']}",
        ", ".join(f"{name} {versions[name]}" for name in shown if name in versions),
        "Ceiling: the largest sustained float32 matrix product, in the same rounds. Memory: what a process of its own "
        "grows by.",
        *(["Stopped before the end."] if result.interrupted else []),
        str(result.folder),
    ]
    return Group(*parts)


def _heading(row: "Row") -> str:
    macs = "" if row.macs is None else f", {row.macs / 1e9:.2f} G MACs an image"
    return f"{row.model}, {row.mode}, batch {row.batch}, {row.height} x {row.width} pixels{macs}"


def _table(rows: "Sequence[Row]") -> Any:
    from rich.table import Table

    table = Table("form", "backend", box=None, pad_edge=False)
    for title in ("median ms", "p95 ms", "spread", "images/s", "of ceiling", "peak MiB", "time / ours", "difference"):
        table.add_column(title, justify="right")
    for row in rows:
        apart = "" if row.difference is None else f"{row.difference:.0e}"
        if row.median_ms is None:
            table.add_row(row.form, row.backend, "none", *[""] * 6, apart)
            continue
        table.add_row(
            row.form,
            row.backend,
            f"{row.median_ms:,.2f}",
            f"{row.p95_ms:,.2f}",
            f"{row.spread:.0%}",
            f"{row.images_per_second:,.1f}",
            f"{row.share_of_ceiling:.0%}",
            "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:,.0f}",
            "" if row.ratio is None else f"{row.ratio:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})",
            apart,
        )
    return table


def _told(verdict: Any) -> list[str]:
    best, told = verdict.best, []
    if best is None:
        return ["No form of the model itself could be timed."]
    told.append(f"Fastest: {best.name}, {best.share_of_ceiling:.0%} of {best.ceiling_gflops:,.0f} GFLOP/s.")
    if verdict.peer is not None:
        told.append(f"{verdict.peer.ratio:.2f} times as fast as the fastest peer, {verdict.peer.name}.")
    if verdict.authors is not None:
        told.append(f"{verdict.authors.ratio:.2f} times as fast as {verdict.authors.name}.")
    return told


def status(result: Benchmark) -> int:
    """130 if it was stopped."""
    return 130 if result.interrupted else 0

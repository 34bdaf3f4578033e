"""Train several models with one recipe, compare them: `allmlp compare models=mixer_nano,vit_nano data=PATH seeds=3`."""

import csv
import io
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.recipes import Recipe, dump_recipe, load_recipe
from allmlp.verbs._console import make_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType

# What judges a run of each task, in metrics.json.
_SCORES = {"classify": "top1", "detect": "box_ap", "segment": "miou"}
_GROUPS = ("MLP", "attention", "convolution", "")


@dataclass
class Member:
    """One model of a comparison.

    scores: one a finished seed, fractions; `also` the same on other data. train_seconds, cpu_seconds: medians over
    seeds of the time of training steps and of all processor time, which a busy machine lengthens less.
    images_per_second: of inference, all members measured in turns in one process. failures: what went wrong, by seed.
    """

    model: str
    group: str = ""
    scores: list[float] = field(default_factory=list)
    also: list[float] = field(default_factory=list)
    parameters: int | None = None
    macs: int | None = None
    train_seconds: float | None = None
    cpu_seconds: float | None = None
    images_per_second: float | None = None
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """The median over seeds."""
        return statistics.median(self.scores) if self.scores else None


@dataclass
class Comparison:
    """What a comparison gives back: its folder, the members, the score's name, and whether a signal stopped it."""

    folder: Path
    members: list[Member]
    score: str
    interrupted: bool = False
    signum: int | None = None


def compare(
    recipe: str | Path | None = None,
    *,
    models: Sequence[str] = (),
    seeds: int = 3,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    also: str | Path | None = None,
    progress: str = "auto",
    **nested: Any,
) -> Comparison:
    """Train every model with every seed by one recipe, one after the other, and put the results in one table.

    A member that fails does not end the others; its row says why. A stopped comparison goes on with `resume`, as each
    of its runs does; finished runs are not trained again.

    Args:
        recipe: a recipe file or the name of a shipped one; None takes the task's small-data default.
        models: names as `model` takes them.
        seeds: how many, counted from 0.
        out: the folder; default `runs/compare/DATA`, with a number behind it if that exists.
        resume: the folder of an earlier comparison to finish.
        also: other labelled images to judge every run on, such as the same things drawn in another style.
        progress: of each training; see the recipe.
        nested: recipe keys, the same for all members.

    Returns:
        The comparison; table.csv, table.md, compare.json and pareto.png are in its folder.

    Raises:
        InputError: no model or seed, an unknown model name or key, or `out` exists.
    """
    if resume is not None:
        folder, names, seeds, settings = _reopen(Path(resume))
    else:
        names = list(dict.fromkeys(models))
        settings = load_recipe(recipe, nested)
        folder = _begin(names, seeds, settings, out)
    console = make_console(progress)
    members = [Member(name) for name in names]
    for seed in range(seeds):
        for member in members:
            say(console, f"\n{member.model}, seed {seed}")
            signum = _train(member, folder, settings, seed, progress)
            if signum is not None:
                say(console, f"Stopped. Go on with: allmlp compare resume={folder}")
                return Comparison(folder, members, _SCORES[settings.task], interrupted=True, signum=signum)
    if also is not None:
        _judge_also(members, folder, str(also), _SCORES[settings.task])
    _collect(members, folder)
    result = Comparison(folder, members, _SCORES[settings.task])
    _write(result, settings)
    return result


def _begin(names: list[str], seeds: int, settings: Recipe, out: str | Path | None) -> Path:
    from allmlp.models import check_name
    from allmlp.runs import write_json, write_text
    from allmlp.runs.folder import new_folder

    if not names or seeds < 1:
        raise InputError(f"Wanted models=NAME,NAME,... and at least one seed; got {len(names)} models, {seeds} seeds.")
    for name in names:
        check_name(name)
    data = Path(settings.data.name)
    folder = new_folder(out, Path("runs") / "compare" / (data.stem or data.name))
    write_text(
        folder / "recipe.yaml", dump_recipe(settings, "What all members were trained with, but for model and seed.")
    )
    write_json(folder / "members.json", {"models": names, "seeds": seeds})
    return folder


def _reopen(folder: Path) -> tuple[Path, list[str], int, Recipe]:
    if not (folder / "members.json").is_file():
        raise InputError(f"Wanted the folder of a comparison to go on with; {folder} has no members.json.")
    spec = json.loads((folder / "members.json").read_text(encoding="utf-8"))
    return folder, spec["models"], spec["seeds"], load_recipe(folder / "recipe.yaml")


def _run_folder(folder: Path, model: str, seed: int) -> Path:
    return folder / re.sub(r"[^\w.-]+", "-", model) / f"seed-{seed}"


def _train(member: Member, folder: Path, settings: Recipe, seed: int, progress: str) -> int | None:
    """Train one member with one seed, or go on with it; the signal's number if it was stopped."""
    from allmlp.verbs.train import train

    place = _run_folder(folder, member.model, seed)
    try:
        if (place / "recipe.yaml").is_file():
            result = train(resume=place, progress=progress)
        else:
            result = train(settings, out=place, model=member.model, seed=seed, progress=progress)
    except Exception as error:  # whatever a member raises must not end the others
        member.failures[seed] = f"{type(error).__name__}: {error}"
        return None
    if result.interrupted:
        return result.signum or 2
    member.scores.append(result.metrics[_SCORES[settings.task]])
    return None


def _judge_also(members: Sequence[Member], folder: Path, data: str, score: str) -> None:
    """Judge every finished run on other data; its files lie in the run, as those of `evaluate` do."""
    from allmlp.verbs.evaluate import evaluate

    for member in members:
        for run in _finished(member, folder):
            member.also.append(evaluate(run, data=data, progress="none").metrics[score])


def _finished(member: Member, folder: Path) -> list[Path]:
    """The finished runs of a member, by seed."""
    return sorted(path.parent for path in _run_folder(folder, member.model, 0).parent.glob("seed-*/metrics.json"))


def _collect(members: Sequence[Member], folder: Path) -> None:
    """Costs from the members' runs, and speed measured of all in turns."""
    from allmlp.metrics.cost import measure_throughputs
    from allmlp.runs import load_model

    networks = {}
    for member in members:
        runs = _finished(member, folder)
        if not runs:
            continue
        metrics = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in runs]
        member.parameters, member.macs = metrics[0]["parameters"], metrics[0]["macs"]
        member.train_seconds = statistics.median(one["train_seconds"] for one in metrics)
        member.cpu_seconds = statistics.median(one["cpu_seconds"] for one in metrics)
        saved = load_model(runs[0])
        member.group = _group(saved.name, saved.network)
        networks[member.model] = (saved.network, (saved.spec.channels, *saved.spec.size))
    for name, rate in measure_throughputs(networks).items():
        next(member for member in members if member.model == name).images_per_second = rate


def _group(name: str, network: Any) -> str:
    """How tokens are mixed: as registered, or for timm's models by what is in them."""
    from torch import nn

    from allmlp.models._registry import entry

    if not name.startswith("timm/"):
        return entry(name).mixing
    modules = list(network.modules())
    if any(type(module).__name__.endswith("Attention") for module in modules):
        return "attention"
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return "convolution" if len(convolutions) > 1 else "MLP"


def _write(result: Comparison, settings: Recipe) -> None:
    from allmlp.figures.comparison import Point, draw_pareto
    from allmlp.figures.style import save_figure
    from allmlp.runs import write_json, write_text

    folder, (titles, rows) = result.folder, _table(result)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([titles, *rows])
    write_text(folder / "table.csv", text.getvalue())
    lines = [" | ".join(row) for row in [titles, ["---"] * len(titles), *rows]]
    write_text(folder / "table.md", "".join(f"| {line} |\n" for line in lines))
    write_json(folder / "compare.json", [asdict(member) for member in result.members])
    points = [
        Point(m.model, m.group, m.score, {"parameters": m.parameters, "MACs": m.macs, "images/s": m.images_per_second})
        for m in result.members
        if m.score is not None
    ]
    if points:
        save_figure(draw_pareto(points, result.score), folder / "pareto.png")


def _table(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Titles, and rows by group, the best first in each; failures at the end."""
    judged = [f"{result.score} median %", "range %"]
    titles = ["group", "model", *judged, *(["on other data %"] if any(m.also for m in result.members) else []), "seeds"]
    titles += ["parameters", "MACs", "training s", "CPU s", "images/s"]
    order = sorted(result.members, key=lambda m: (_GROUPS.index(m.group), -(m.score if m.score is not None else -1)))
    return titles, [_row(member, titles) for member in order]


def _row(member: Member, titles: Sequence[str]) -> list[str]:
    if member.score is None:
        return [member.group, member.model, "failed", *[""] * (len(titles) - 3)]
    row = [member.group, member.model, f"{100 * member.score:.2f}"]
    row.append(f"{100 * min(member.scores):.2f} to {100 * max(member.scores):.2f}")
    if "on other data %" in titles:
        row.append(f"{100 * statistics.median(member.also):.2f}")
    row += [str(len(member.scores)), f"{member.parameters:,}", f"{member.macs:,}"]
    return [*row, *(f"{value:,.0f}" for value in (member.train_seconds, member.cpu_seconds, member.images_per_second))]


def show(result: Comparison) -> "RenderableType | None":
    """What the command line prints."""
    from rich.console import Group
    from rich.table import Table

    if result.interrupted:
        return None
    table = Table(box=None, pad_edge=False)
    titles, rows = _table(result)
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    told = [f"{m.model}, seed {seed}: {why}" for m in result.members for seed, why in m.failures.items()]
    return Group(table, *told, str(result.folder))


def status(result: Comparison) -> int:
    """128 + the signal's number after an interruption, 1 if any member failed."""
    if result.interrupted:
        return 128 + (result.signum or 2)
    return 1 if any(member.failures for member in result.members) else 0

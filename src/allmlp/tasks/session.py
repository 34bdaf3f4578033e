"""One run from data to report: prepare, train, finish. What is on disk after each step is enough to go on from."""

import json
from typing import Any

from rich.console import Console
from torch import nn

from allmlp.errors import InputError
from allmlp.metrics.cost import count_macs, count_parameters, measure_latency
from allmlp.runs import (
    RunFolder,
    describe_environment,
    is_writer,
    not_finite,
    report_as_json,
    save_weights,
    write_json,
    write_text,
)
from allmlp.runs.network import input_size
from allmlp.tasks.guard import DivergedError
from allmlp.tasks.interruption import Interruption
from allmlp.tasks.module import TrainingModule, seed_all
from allmlp.tasks.progress import Progress
from allmlp.tasks.task import Task


class Session:
    """Args: the run folder, the task, the signals, and where to write what a person reads."""

    module: TrainingModule
    network: nn.Module

    def __init__(self, run: RunFolder, task: Task, interruption: Interruption, console: Console) -> None:
        self.run = run
        self.task = task
        self.recipe = task.recipe
        self.interruption = interruption
        self.console = console if is_writer() else Console(quiet=True)

    # ---- before training

    def prepare(self) -> None:
        """Open the data, build the network, write what is known so far."""
        if is_writer():
            write_json(self.run.environment, describe_environment())
        self.task.open_data()
        self._write_data()
        self._say(self.task.summary())
        seed_all(self.recipe.seed, 0, 0)
        self.network, report = self.task.build_network()
        if report is not None:
            self._say(f"started from {self.recipe.init}\n{report}")
        if is_writer():
            write_json(self.run.config, self.task.model_config(self.network))
            if report is not None:
                write_json(self.run.load_report, report_as_json(report, self.recipe.init or ""))
                write_text(self.run.load_report.with_suffix(".txt"), f"{report}\n")
        learning = count_parameters(self.network, trainable=True)
        frozen = count_parameters(self.network) - learning
        self._say(f"{self.recipe.model.name}: {learning:,} parameters" + (f" and {frozen:,} frozen" if frozen else ""))
        batches = len(self.task.train_loader(0, self.recipe.devices * self.recipe.num_nodes))
        self.module = self.task.make_module(self.network, batches)

    def _write_data(self) -> None:
        """data.json; a continued run must find the images that it began with."""
        if not is_writer():
            return
        found = self.task.describe_data()
        if self.run.last.is_file() and self.run.data.is_file():
            before = json.loads(self.run.data.read_text()).get("fingerprint")
            if before is not None and before != found.get("fingerprint"):
                raise InputError(
                    f"Wanted the images that {self.run} began with; {self.recipe.data.name} holds others now (files or "
                    f"labels were added, removed or renamed). Put them back, or start a new run with init={self.run}"
                )
        write_json(self.run.data, found)

    # ---- training

    def train(self) -> bool:
        """Train what is left; True when all epochs are done, False after a stop."""
        from allmlp.tasks.checkpoint_io import read_training_state
        from allmlp.tasks.engine import fit

        resume = self.run.last.is_file()
        if resume:
            progress = Progress.from_dict(read_training_state(self.run.last)["allmlp"]["progress"])
            self._check_batches(progress)
            self.module.progress = progress
            self._say(f"going on in epoch {min(progress.epoch + 1, self.recipe.epochs)} after {progress.step} steps")
            if progress.done(self.recipe.epochs):
                self._restore()
                return True
        try:
            return fit(self.task, self.module, self.run, self.interruption, self.console, resume)
        except DivergedError as error:
            raise InputError(f"{error} {self._after_divergence()}") from error

    def _check_batches(self, progress: Progress) -> None:
        if progress.batches != self.module.progress.batches:
            raise InputError(
                f"{self.run} was trained with {progress.batches} batches an epoch, now there are "
                f"{self.module.progress.batches}: the number of images or devices changed. "
                "Go on with what it began with."
            )

    def _restore(self) -> None:
        """Weights of a run that was stopped after its last epoch, before its evaluation."""
        from allmlp.tasks.checkpoint_io import read_training_state

        self.module.on_load_checkpoint(checkpoint := read_training_state(self.run.last))
        self.module.load_state_dict(checkpoint["state_dict"])

    def _after_divergence(self) -> str:
        """Keep the last good weights as the model, and say how to go on."""
        hint = "Look at these images; if they are sound, train with a lower optim.lr or a longer schedule.warmup_epochs"
        if not is_writer():
            return hint + "."
        state = self.module.evaluated.state_dict()
        if not not_finite(state):
            save_weights(self.run.weights, state)
        kept = [str(path) for path in (self.run.weights, self.run.last) if path.is_file()]
        start = f", from the last good weights: allmlp train {self.run.recipe} init={self.run} lr=..." if kept else "."
        return hint + start + (f" Kept: {', '.join(kept)}" if kept else "")

    # ---- after training

    def finish(self) -> dict[str, Any]:
        """Write the model, judge it, write metrics.json and the report."""
        run, progress = self.run, self.module.progress
        device = str(self.module.device)
        network = self.module.evaluated
        kept = "last"
        if self.recipe.keep == "best" and run.best.is_file():
            from safetensors.torch import load_file

            save_weights(run.checkpoints / "last.safetensors", network.state_dict())
            network.load_state_dict(load_file(run.best))
            kept = "best"
        save_weights(run.weights, network.state_dict())
        metrics = self.task.evaluate(network, run.evaluation, device)
        write_json(run.data, self.task.describe_data())  # again: reading the images may have found bad ones
        metrics |= self._costs(network.to("cpu"))
        metrics |= {
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            f"best_{self.task.monitor.removeprefix('val_')}": progress.best_value,
            "kept": kept,
            "stopped_early": progress.stopped_early,
            "train_seconds": round(progress.train_seconds, 2),
            "evaluation_seconds": round(progress.evaluation_seconds, 2),
            "cpu_seconds": round(progress.cpu_seconds, 2),
        }
        write_json(run.metrics, metrics)
        self._report()
        return json.loads(run.metrics.read_text())

    def _costs(self, network: nn.Module) -> dict[str, Any]:
        size = input_size(network, self.recipe.model)
        return {
            "parameters": count_parameters(network),
            "macs": count_macs(network, size),
            "latency_ms": round(measure_latency(network, size), 3),
        }

    def _report(self) -> None:
        """Draw report.html; a figure that fails must not lose a run that is finished."""
        try:
            from allmlp.figures.report import write_report
        except ImportError as error:
            self._say(f"No report.html: {error}.")
            return
        try:
            page = write_report(self.run.path)
        except Exception as error:  # whatever a drawing library raises; the run is complete without it
            self._say(f"report.html could not be drawn ({type(error).__name__}: {error}); the run itself is complete.")
        else:
            self._say(f"report {page}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

"""The training step that all tasks share, as a Lightning module: seeds, rate, clipping, averages, sums, checkpoints."""

import random
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from allmlp.data import sample_seed
from allmlp.recipes import Recipe
from allmlp.tasks.averaging import Average
from allmlp.tasks.guard import FiniteGuard
from allmlp.tasks.optim import Schedule, create_optimizer, peak_rate
from allmlp.tasks.progress import Progress

CHECKPOINT_FORMAT = 1


class TrainingModule(lightning.LightningModule):
    """A network that learns by a recipe. A task subclasses it and implements `learn`, `judge` and `summarise`.

    A run that was stopped and continued gives the same bits as one that was not: before each batch all generators are
    seeded from (seed, number of the batch, rank), the rate is a function of the step, and what is left to remember is
    in `progress`. Lightning's own loop counters are not restored; `TrainStream` starts at `progress` instead.

    Args:
        recipe: the whole recipe.
        network: the network; it is changed.
        batches: batches in an epoch, of each process.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, batches: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = network
        self.average = Average(network, recipe.ema.decay, recipe.ema.warmup) if recipe.ema.decay else None
        self.progress = Progress(batches=batches)
        steps = -(-batches // recipe.accumulate)
        self.schedule = Schedule(recipe.schedule, peak_rate(recipe), steps, recipe.epochs)
        self.rate = 0.0
        self.guard: FiniteGuard | None = None
        self.gradient_norm: Tensor | None = None
        self.last_loss: Tensor | None = None
        self.sums: dict[str, Tensor] = {}
        self.evaluation_sums: dict[str, Tensor] = {}
        self._clipped = [parameter for parameter in network.parameters() if parameter.requires_grad]

    # ---- what a task says

    def learn(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a training batch (mean over its images), and sums over its images to add up over the epoch."""
        raise NotImplementedError

    def judge(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Sums over an evaluation batch, to add up over the split."""
        raise NotImplementedError

    def summarise(self, training: Mapping[str, Tensor], evaluation: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers of an epoch, as columns of metrics.csv, from its sums over all processes."""
        raise NotImplementedError

    # ---- Lightning's hooks

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights count: the averaged one, if there is one."""
        return self.average.network if self.average is not None else self.network

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return create_optimizer(self.network, self.recipe)

    def on_fit_start(self) -> None:
        if self.average is not None:
            self.average.to(self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_all(self.recipe.seed, self.progress.total_batch, self.global_rank)
        self.rate = self.schedule.apply(self.trainer.optimizers[0], self.progress.step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, sums = self.learn(batch)
        self.last_loss = loss.detach()
        if self.guard is not None:
            self.guard.check("loss", self.last_loss)
        add_up(self.sums, sums)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.recipe.optim.clip is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(self._clipped, self.recipe.optim.clip)
            # A 16-bit float gradient that overflows is the loss scaler's business: it skips the step.
            if self.guard is not None and self.recipe.precision != "fp16":
                self.guard.check("gradient", self.gradient_norm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        self.progress.step += 1
        if self.average is not None:
            self.average.update(self.network)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)

    def on_validation_epoch_start(self) -> None:
        self.evaluation_sums = {}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        add_up(self.evaluation_sums, self.judge(self.evaluated, batch))

    def close_epoch(self) -> dict[str, float]:
        """The numbers of the epoch that ended, summed over all processes; the sums start anew."""
        numbers = self.summarise(self._over_processes(self.sums), self._over_processes(self.evaluation_sums))
        self.sums, self.evaluation_sums = {}, {}
        return numbers

    def _over_processes(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.world_size == 1:
            return dict(sums)
        return {key: self.trainer.strategy.reduce(value.clone(), reduce_op="sum") for key, value in sums.items()}

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sums = {key: value.detach().cpu() for key, value in self._over_processes(self.sums).items()}
        checkpoint["allmlp"] = {"format": CHECKPOINT_FORMAT, "progress": self.progress.to_dict(), "sums": sums}
        if self.average is not None:
            checkpoint["allmlp"]["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["allmlp"]
        self.progress = Progress.from_dict(own["progress"])
        # The saved sums are over all processes; one of them carries them on.
        carried = own["sums"] if self.global_rank == 0 else {key: value * 0 for key, value in own["sums"].items()}
        self.sums = {key: value.to(self.device) for key, value in carried.items()}
        if self.average is not None:
            self.average.load_state_dict(own["average"], self.progress.step)
        # Lightning's counters say where *it* was; the stream and `progress` already do, and only they are exact.
        checkpoint.pop("loops", None)


def seed_all(seed: int, batch: int, rank: int) -> None:
    """Make every random draw of a training step a function of (seed, batch, rank)."""
    value = sample_seed(seed, batch, rank)
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)


def add_up(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add a batch's sums to an epoch's, in place and without waiting for the device."""
    for key, value in more.items():
        if key in sums:
            sums[key] += value
        else:
            sums[key] = value.detach().clone()

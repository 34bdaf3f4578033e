"""What every task gives to the verbs: data, network, loaders, training module, evaluation."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from allmlp.recipes import Recipe

if TYPE_CHECKING:
    from allmlp.models import LoadReport
    from allmlp.tasks.module import TrainingModule


class Task(abc.ABC):
    """One recipe's task. `open_data` comes first, then `build_network`, then the rest in any order.

    A subclass imports lightning only inside `make_module`, so that evaluation and prediction do without.

    Attributes:
        name: as in the recipe's `task`.
        monitor: the column of metrics.csv that decides which epoch was the best; `higher_is_better` says how.
    """

    name: ClassVar[str]
    monitor: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abc.abstractmethod
    def open_data(self) -> None:
        """Find and check the training data.

        Raises:
            InputError: it cannot be trained on.
        """

    @abc.abstractmethod
    def describe_data(self) -> dict[str, Any]:
        """What data.json says."""

    @abc.abstractmethod
    def summary(self) -> str:
        """The data and its problems for a person, in a few lines."""

    @abc.abstractmethod
    def build_network(self) -> "tuple[nn.Module, LoadReport | None]":
        """The network with its first weights, and the report of what `init` gave."""

    @abc.abstractmethod
    def model_config(self, network: nn.Module) -> dict[str, Any]:
        """What config.json says."""

    @abc.abstractmethod
    def train_loader(self, rank: int = 0, world_size: int = 1) -> Any:
        """Training batches: a loader with `batch_sampler.set_epoch`, `load_state_dict` and a length."""

    @abc.abstractmethod
    def evaluation_loader(self, rank: int = 0, world_size: int = 1) -> Any:
        """Evaluation batches, with a length."""

    @abc.abstractmethod
    def batch_names(self, epoch: int, batch: int, rank: int, world_size: int) -> list[str]:
        """The names of the images of one training batch."""

    @abc.abstractmethod
    def make_module(self, network: nn.Module, batches: int) -> "TrainingModule":
        """The network and its training step; `batches` in an epoch of each process."""

    @abc.abstractmethod
    def evaluate(self, network: nn.Module, folder: Path, device: str) -> dict[str, Any]:
        """Judge a network on the evaluation split, write the details into `folder`, return the numbers."""

"""Which images each batch of an epoch holds: a pure function of (seed, epoch, batch), for any number of workers."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from allmlp.data.randomness import sample_generator
from allmlp.errors import InputError

_SHUFFLE = 1  # keeps the permutation's seed apart from the samples' own


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) pairs, to be given to a `DataLoader` as its batch sampler.

    A global batch is `batch_size * world_size` consecutive places of the epoch's order, dealt out to the ranks like
    cards, so that n processes see together what one process with n times the batch would see.

    Args:
        length: Number of images.
        batch_size: Images in a batch of one process.
        seed: Of the permutation, together with the epoch.
        shuffle: Permute anew each epoch; otherwise 0, 1, 2, ...
        drop_last: Leave out a last global batch that is not full, unless it is the only one.
        rank, world_size: Which of how many processes this is. With several, a last batch that is not full is filled up
            from the epoch's beginning, so that all have equally many; the indices show what came twice.
        repeats: Repeated augmentation (Berman et al., arXiv 1902.05509): an epoch still holds `length` draws, but of
            the first length / repeats images of the order, each `repeats` times in a row. The first number of a pair is
            then epoch * repeats + repetition, so that each repetition is augmented in its own way.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ):
        for name, value in (("length", length), ("batch_size", batch_size), ("repeats", repeats)):
            if value < 1:
                raise InputError(f"A batch sampler wants {name} of at least 1; got {value}.")
        if not 0 <= rank < world_size:
            raise InputError(f"A batch sampler wants a rank in [0, {world_size}); got {rank}.")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.shuffle, self.drop_last, self.repeats = shuffle, drop_last, repeats
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> "EpochBatchSampler":
        """Itself: Lightning calls `set_epoch` on `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        together = self.batch_size * self.world_size
        full, rest = divmod(self.length, together)
        return full + (rest > 0 and not (self.drop_last and full > 0))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The epoch's batches from number `start` on; `start` is used once, by the first iterator that is asked."""
        start, self.start = self.start, 0
        yield from self.batches(self.epoch, start)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """The batches of an epoch, the first `start` of them left out."""
        together = self.batch_size * self.world_size
        order = self._order(epoch)
        for batch in range(start, len(self)):
            places = range(batch * together, (batch + 1) * together)
            if self.world_size == 1:
                places = range(places.start, min(places.stop, self.length))
            mine = places[self.rank :: self.world_size]
            yield [
                (epoch * self.repeats + place % self.length % self.repeats, order[place % self.length])
                for place in mine
            ]

    def _order(self, epoch: int) -> list[int]:
        if self.shuffle:
            order = torch.randperm(self.length, generator=sample_generator(self.seed, epoch, _SHUFFLE))
        else:
            order = torch.arange(self.length)
        return order.repeat_interleave(self.repeats)[: self.length].tolist()

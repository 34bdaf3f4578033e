"""The order of images: a function of seed and epoch, the same however many processes share it."""

import pytest

from allmlp.data import EpochBatchSampler, sample_seed
from allmlp.errors import InputError


def batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_holds_every_image_once(shuffle, drop_last):
    found = batches(EpochBatchSampler(22, 5, shuffle=shuffle, drop_last=drop_last), epoch=3)
    assert [len(batch) for batch in found] == [5, 5, 5, 5] + ([] if drop_last else [2])
    pairs = [pair for batch in found for pair in batch]
    assert {epoch for epoch, _ in pairs} == {3}
    indices = [index for _, index in pairs]
    assert len(set(indices)) == len(indices)
    assert (indices == sorted(indices)) is not shuffle


def test_length_is_the_number_of_batches():
    for drop_last in (False, True):
        for length in (1, 4, 5, 6, 10, 11):
            for world_size in (1, 3):
                sampler = EpochBatchSampler(length, 5, drop_last=drop_last, world_size=world_size)
                assert len(sampler) == len(list(sampler))


def test_order_follows_from_seed_and_epoch():
    sampler = EpochBatchSampler(50, 10, seed=1)
    first = batches(sampler, 0)
    assert batches(sampler, 0) == first
    orders = [
        [index for batch in batches(EpochBatchSampler(50, 10, seed=seed), epoch) for _, index in batch]
        for seed, epoch in ((1, 0), (1, 1), (0, 0), (0, 1), (2, 0))
    ]
    assert len({tuple(order) for order in orders}) == 5  # in particular, seed 0 epoch 1 is not seed 1 epoch 0


def test_start_leaves_out_the_first_batches_once():
    sampler = EpochBatchSampler(23, 5)
    whole = list(sampler)
    sampler.start = 3
    assert list(sampler) == whole[3:]
    assert list(sampler) == whole
    sampler.start = len(whole)
    assert list(sampler) == []


def test_the_epoch_is_taken_when_iteration_begins():
    sampler = EpochBatchSampler(20, 5)
    running = iter(sampler)
    first = next(running)
    sampler.set_epoch(1)
    assert [first, *running] == batches(sampler, 0)


@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_share_a_global_batch(repeats):
    """Two processes with batches of 4 see together, batch by batch, what one process with batches of 8 sees."""
    alone = batches(EpochBatchSampler(40, 8, seed=5, repeats=repeats), 2)
    ranks = [batches(EpochBatchSampler(40, 4, seed=5, rank=rank, world_size=2, repeats=repeats), 2) for rank in (0, 1)]
    for number, batch in enumerate(alone):
        assert sorted(ranks[0][number] + ranks[1][number]) == sorted(batch)


def test_processes_get_equally_many_images():
    ranks = [EpochBatchSampler(10, 4, shuffle=False, rank=rank, world_size=3) for rank in range(3)]
    found = [list(sampler) for sampler in ranks]
    assert [[len(batch) for batch in of_rank] for of_rank in found] == [[4]] * 3
    indices = sorted(index for of_rank in found for batch in of_rank for _, index in batch)
    assert indices == sorted([*range(10), 0, 1])  # two of them twice, told by their indices


def test_repeated_augmentation_draws_each_image_several_times():
    pairs = [pair for batch in batches(EpochBatchSampler(30, 6, repeats=3), 4) for pair in batch]
    assert len(pairs) == 30
    assert len(set(pairs)) == 30  # every repetition has a number of its own, and so an augmentation of its own
    assert {draw for draw, _ in pairs} == {12, 13, 14}
    indices = [index for _, index in pairs]
    assert all(indices.count(index) == 3 for index in indices)
    following = {draw for batch in batches(EpochBatchSampler(30, 6, repeats=3), 5) for draw, _ in batch}
    assert following == {15, 16, 17}


def test_the_only_batch_is_never_dropped():
    assert [len(batch) for batch in EpochBatchSampler(3, 8, drop_last=True)] == [3]
    assert [len(batch) for batch in EpochBatchSampler(3, 8, drop_last=True, world_size=2)] == [8]


@pytest.mark.parametrize("wrong", [{"length": 0}, {"batch_size": 0}, {"repeats": 0}, {"rank": 2, "world_size": 2}])
def test_senseless_numbers(wrong):
    with pytest.raises(InputError):
        EpochBatchSampler(**{"length": 10, "batch_size": 2, **wrong})


def test_seeds_differ_in_every_part():
    seeds = {sample_seed(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(seeds) == 12**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, 2) != sample_seed(2, 1)
    flipped = [bin(sample_seed(5, 0, index) ^ sample_seed(5, 0, index + 1)).count("1") for index in range(200)]
    assert 28 < sum(flipped) / len(flipped) < 35  # about half of 63 bits

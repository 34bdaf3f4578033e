"""A split follows from names and seed alone, class by class; advice that an error gives works."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allmlp.data.split import stratified_split
from allmlp.errors import InputError

NAMES = [f"{'abc'[number % 3]}/{number}.png" for number in range(90)]
LABELS = np.arange(90) % 3
CLASSES = ["a", "b", "c"]


def held_out(names=NAMES, labels=LABELS, fraction=0.2, seed=0):
    """The names of the validation images."""
    return {names[index] for index in stratified_split(names, labels, CLASSES, fraction, seed)[1]}


def test_every_image_is_on_one_side_and_every_class_on_both():
    train, val = stratified_split(NAMES, LABELS, CLASSES, 0.2, 0)
    assert sorted([*train, *val]) == list(range(90))
    assert np.bincount(LABELS[val]).tolist() == [6, 6, 6]
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


def test_the_order_of_the_files_does_not_matter():
    order = np.random.default_rng(0).permutation(90)
    assert held_out([NAMES[index] for index in order], LABELS[order]) == held_out()


def test_another_seed_is_another_split():
    splits = {frozenset(held_out(seed=seed)) for seed in range(5)}
    assert len(splits) == 5


def test_a_file_more_moves_at_most_one_other():
    before = held_out()
    for number in range(20):
        after = held_out([*NAMES, f"a/new{number}.png"], np.append(LABELS, 0)) - {f"a/new{number}.png"}
        assert len(before ^ after) <= 1


def test_about_any_image_may_be_held_out():
    counts = {name: sum(name in held_out(seed=seed) for seed in range(200)) for name in NAMES}
    assert min(counts.values()) > 15  # 40 expected; 15 is more than four standard deviations below
    assert max(counts.values()) < 65


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20, float("nan")])
def test_impossible_fractions(fraction):
    with pytest.raises(InputError, match=r"lies between 0 and 1; got .*Type for example data\.val_fraction=0\.2"):
        held_out(fraction=fraction)


@settings(deadline=None)
@given(images=st.integers(2, 3000), fraction=st.floats(0.0001, 0.9999))
def test_the_fraction_that_an_error_suggests_works(images, fraction):
    names, labels = [str(number) for number in range(images)], np.zeros(images, dtype=int)
    try:
        stratified_split(names, labels, CLASSES, fraction, 0)
    except InputError as error:
        fraction = float(re.search(r"leaves none for \w+\. Type data\.val_fraction=([0-9.]+) or", str(error))[1])
    train, val = stratified_split(names, labels, CLASSES, fraction, 0)
    assert len(train) > 0
    assert len(val) > 0


def test_one_image_cannot_be_on_both_sides():
    with pytest.raises(InputError, match=r"The class 'a' has 1 image; .*Wanted at least 2 images a class"):
        stratified_split(["x"], np.array([0]), CLASSES, 0.5, 0)

"""Published numbers: whole, in range, of known names, and near what the code counts."""

import pytest

import allmlp
from allmlp.metrics.cost import count_parameters
from allmlp.published import published, read_published

RECORDS = [
    pytest.param(group, name, kind, number, id=f"{group} {name} {kind} {number.value}")
    for group, names in read_published().items()
    for name, kinds in names.items()
    for kind, numbers in kinds.items()
    for number in numbers
]


def test_every_number_says_where_it_is_from():
    for _, _, _, number in (record.values for record in RECORDS):
        assert number.source
        assert number.status in ("verified", "from memory")
        if number.unit == "%":
            assert 0 < number.value < 100
        else:
            assert number.unit


def test_names_are_those_of_the_code():
    groups = read_published()
    ours = set(allmlp.list_models())
    assert groups["models"].keys() <= ours
    assert not groups["peers"].keys() & ours
    for name in (*groups["detectors"], *groups["segmenters"]):
        backbone = name.split(" ", 1)[1]
        assert backbone in ours or not backbone.startswith(("as_mlp", "repmlpnet", "mixer"))


def test_numbers_of_a_kind_are_told_apart():
    for group in read_published().values():
        for kinds in group.values():
            for numbers in kinds.values():
                assert len({(number.source, number.setting) for number in numbers}) == len(numbers)


@pytest.mark.parametrize("name", read_published()["models"])
def test_counted_parameters_are_the_published_ones(name):
    """To the last digit that is printed; Mixer's are printed without the classifier."""
    model = allmlp.create_model(name, device="meta")
    for number in published(name, "parameters"):
        counted = count_parameters(model)
        if number.setting == "without the head":
            counted -= count_parameters(model.head)
        digits = len(str(number.value).partition(".")[2])
        assert abs(counted / 1e6 - number.value) <= 10.0**-digits, number

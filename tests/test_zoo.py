"""docs/zoo.md is what docs/make_zoo.py makes of the code and of published.toml."""

import importlib.util
import re
from pathlib import Path

import pytest

import allmlp
from allmlp.published import published

MAKER = Path(__file__).parents[1] / "docs" / "make_zoo.py"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_zoo", MAKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables(maker):
    """The rows of each table of the page: classifiers, other accuracies, dense models, their results, parity."""
    blocks = re.findall(r"(?:^\|.*\n)+", maker.ZOO.read_text(encoding="utf-8"), re.MULTILINE)
    found = [[tuple(map(str.strip, line.strip("|").split("|"))) for line in block.splitlines()] for block in blocks]
    return [rows[2:] for rows in found]


def test_classifiers_cost_what_the_page_says(maker, tables):
    assert tables[0] == list(maker.classifiers(maker.kept_parity())), "type: make zoo"


def test_published_accuracies_are_those_of_the_file(maker, tables):
    assert tables[1] == list(maker.others()), "type: make zoo"
    assert tables[3] == list(maker.dense_results()), "type: make zoo"
    headlines = {row[0]: (row[5], row[7], row[8]) for row in tables[0]}
    assert list(headlines) == allmlp.list_models()
    for name, found in headlines.items():
        wanted = [(str(number.value), number.source, number.status) for number in published(name, "top1")]
        assert found == (wanted or [("", "", "")])[0]


def test_published_multiply_adds_are_near_the_counted(tables):
    """Some sources count a little of what is no matrix product, or the folded form."""
    counted = {row[0]: int(row[3].replace(",", "")) / 1e9 for row in tables[0]}
    for name, macs in counted.items():
        for number in published(name, "macs"):
            assert macs == pytest.approx(number.value, rel=0.02), (name, number)


def test_parity_is_of_rounding(maker, tables):
    found = maker.kept_parity()
    assert tables[4] == [(name, *cells) for name, cells in found.items()]
    assert found.keys() >= {"MlpMixer", "ResMlp", "FeedForwardOnly", "EaMlp", "AsMlp", "RepMlpNet", "RepMlpResNet"}
    for _, largest in found.values():
        assert 0 < float(largest) < 1e-12


@pytest.mark.slow
def test_the_whole_page_is_up_to_date(maker):
    assert maker.page(maker.kept_parity()) == maker.ZOO.read_text(encoding="utf-8"), "type: make zoo"

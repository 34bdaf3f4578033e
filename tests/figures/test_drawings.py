"""Each drawing alone: what is in it, and that odd input draws without a warning (warnings are errors in all tests)."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from allmlp.figures.annotate import annotate
from allmlp.figures.comparison import Point, draw_pareto
from allmlp.figures.confusion import draw_calibration, draw_confusion
from allmlp.figures.curves import column, draw_curves
from allmlp.figures.page import Page
from allmlp.figures.samples import Sample, as_picture, draw_samples
from allmlp.figures.stem import draw_stem
from allmlp.figures.style import house_style, new_figure, png_bytes, save_figure, short
from allmlp.figures.token_mixing import draw_token_mixing, mean_frequency, mosaic


def drawn(figure):
    """The figure's pixels, (h, w, 3)."""
    with Image.open(io.BytesIO(png_bytes(figure))) as picture:
        return np.asarray(picture.convert("RGB"))


def texts(figure):
    """All words in a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [
        label.get_text()
        for axes in figure.axes
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title)
    ]


# ---- curves


def rows(**columns):
    count = len(next(iter(columns.values())))
    return [{"epoch": str(i + 1), **{key: str(values[i]) for key, values in columns.items()}} for i in range(count)]


def test_curves_show_the_rows():
    figure = draw_curves(
        rows(train_loss=[2, 1], val_loss=[3, 0.1], train_top1=[0, 1], val_top1=[0, 1], lr=[1, 0]), "top1", "Top-1"
    )
    loss, quality, rate = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1], [3, 0.1]]
    assert loss.get_yscale() == "log"
    assert quality.get_title(loc="left") == "Top-1"
    assert [line.get_xdata().tolist() for line in rate.lines] == [[1, 2]]
    drawn(figure)


@pytest.mark.parametrize(
    "columns",
    [
        {"train_loss": [2], "val_loss": [1], "lr": [0.1]},
        {"train_loss": [2, 0.0], "val_loss": ["", 1], "lr": [0.1, 0.1]},
        {"train_loss": [2, "nan"], "val_loss": [1, "inf"], "lr": [0.1, 0.1]},
        {"train_loss": [1e-9, 1e9], "val_loss": [1, 2], "lr": [0, 1e-7]},
        {"lr": [0.1, 0.1]},
    ],
    ids=str,
)
def test_curves_of_odd_rows(columns):
    drawn(draw_curves(rows(**columns), "top1", "Top-1"))


def test_a_column_has_the_epochs_where_it_holds_a_number():
    assert column([{"epoch": "1", "a": "2"}, {"epoch": "2", "a": ""}, {"epoch": "3"}], "a") == ([1.0], [2.0])


# ---- confusion and calibration


def test_confusion_of_few_classes_has_numbers_and_names():
    figure = draw_confusion(np.array([[8, 2], [0, 0]]), ["cat", "dog"])
    words = texts(figure)
    assert {"8", "2", "cat", "dog"} <= set(words)
    assert "0" not in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].images[0].get_array().tolist() == [[0.8, 0.2], [0, 0]]
    drawn(figure)


def test_counts_of_pixels_stay_inside_their_cells():
    """Numbers of any size are drawn with four signs at most."""
    counts = [0, 1, 9999, 10_000, 123_456, 1_843_200, 12_000_000, 999_999_999, 4_000_000_000]
    figure = draw_confusion(np.diag(counts), [str(place) for place in range(len(counts))])
    found = [text.get_text() for text in figure.axes[0].texts]
    assert found == ["1", "9999", "10k", "123k", "1.8M", "12M", "999M", "4.0G"]


@pytest.mark.parametrize("count", [1, 21, 61, 300])
def test_confusion_of_any_number_of_classes(count):
    figure = draw_confusion(np.eye(count, dtype=int), [f"a long name of class number {i}" for i in range(count)])
    assert bool(figure.axes[0].texts) is (count <= 20)
    assert len(set(texts(figure)) & {short(f"a long name of class number {count - 1}")}) == (count <= 60)
    assert max(drawn(figure).shape) < 1400


def test_calibration_shows_confidence_and_accuracy():
    shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.55, 0.45]])
    figure = draw_calibration(np.array([0, 0, 0, 1]), shares)
    line = figure.axes[0].lines[1]
    assert line.get_xdata() == pytest.approx([0.55, 0.95])
    assert line.get_ydata() == pytest.approx([0.5, 1.0])
    assert sorted(bar.get_height() for bar in figure.axes[1].patches) == [0] * 13 + [2, 2]
    drawn(figure)
    drawn(draw_calibration(np.array([0]), np.array([[1.0]])))


# ---- images


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((4, 5), np.uint8), (4, 5)),
        (np.zeros((4, 5, 3), np.uint8), (4, 5, 3)),
        (np.zeros((4, 5, 4), np.uint8), (4, 5, 4)),
        (np.zeros((4, 5, 2), np.uint8), (4, 5)),
        (np.zeros((4, 5, 7), np.uint8), (4, 5, 3)),
        (Image.new("RGB", (5, 4)), (4, 5, 3)),
    ],
    ids=["grey", "RGB", "RGBA", "two bands", "seven bands", "Pillow"],
)
def test_anything_becomes_a_picture(array, shape):
    assert as_picture(array).shape == shape


def test_bands_of_floats_are_stretched():
    picture = as_picture(np.array([[[-1.0, 0, 3, 9, 9]]]))
    assert picture.ravel().tolist() == [0, 0.25, 1]
    assert as_picture(np.full((2, 2), 5.0)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("count", [1, 8, 9])
def test_samples_say_what_was_said_of_them(count):
    image = Image.new("L", (8, 8), 90)
    samples = [Sample(image, "a", "a", 0.9)] + [Sample(image, "a", "b", 0.5)] * (count - 1)
    figure = draw_samples(samples, "a title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "a 90%"
    assert titles[1:count] == ["b 50%\n(is a)"] * (count - 1)
    drawn(figure)


def test_annotated_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    result = np.asarray(annotate(pixels, [("cat", 0.75), ("a very long name of a class that cannot fit " * 3, 0.25)]))
    factor = 19  # the least that makes 12 pixels 224 wide
    assert result.shape[1] == 12 * factor
    assert np.array_equal(result[factor // 2 : 10 * factor : factor, factor // 2 :: factor], pixels)
    below = result[10 * factor :]
    assert below.shape[0] > 40
    assert (below != 255).any()
    large = annotate(Image.new("RGB", (640, 480)), [("cat", 1.0)])
    assert large.width == 640
    assert annotate(np.zeros((300, 20), np.float32), [("cat", 1.0)]).width == 224


# ---- weights


def test_low_frequencies_come_first():
    rows, columns = np.indices((8, 8))
    constant, slow, fast = np.ones((8, 8)), np.cos(2 * np.pi * columns / 8), np.cos(np.pi * (rows + columns))
    frequency = mean_frequency(np.stack([fast, slow + 3, constant]))
    assert frequency == pytest.approx([np.hypot(0.5, 0.5), 1 / 8, 0], abs=1e-6)


def test_mosaic():
    maps = np.stack([np.full((2, 3), value) for value in (2.0, -4.0, 0.0)])
    sheet = mosaic(maps, columns=2)
    assert sheet.shape == (5, 7)
    assert (sheet[:2, :3] == 1).all()
    assert (sheet[:2, 4:] == -1).all()
    assert (sheet[3:, :3] == 0).all()
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[3:, 4:]).all()


def test_token_mixing_of_deep_and_narrow_networks():
    rng = np.random.default_rng(0)
    figure = draw_token_mixing({f"block {i}": rng.normal(size=(40, 4, 6)) for i in range(12)})
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes if axes.images]
    assert len(titles) == 8
    assert (titles[0], titles[-1]) == ("block 0", "block 11")
    drawn(figure)
    drawn(draw_token_mixing({"only": rng.normal(size=(3, 1, 1))}))


@pytest.mark.parametrize("shape", [(100, 3, 4, 4), (5, 1, 7, 7), (2, 6, 3, 3)])
def test_stem(shape):
    figure = draw_stem(np.random.default_rng(0).normal(size=shape))
    sheet = figure.axes[0].images[0].get_array()
    assert 0 <= sheet.min() < sheet.max() <= 1
    drawn(figure)


# ---- style and page


def test_the_callers_style_neither_matters_nor_changes(tmp_path):
    figure = lambda: draw_confusion(np.eye(3, dtype=int), ["a", "b", "c"])  # noqa: E731
    plain = drawn(figure())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert np.array_equal(drawn(figure()), plain)
        assert matplotlib.rcParams["font.size"] == 30
    with house_style():
        path = save_figure(new_figure(2, 1), tmp_path / "deep" / "a.png", dpi=50)
    with Image.open(path) as picture:
        assert picture.size == (100, 50)


def test_short_names_keep_both_ends():
    assert short("cat") == "cat"
    assert short("abcdefghij", 7) == "abc…hij"
    assert all(len(short("x" * 40, length)) == length for length in range(3, 20))


def test_a_page_shows_text_as_text():
    page = Page("a & b")
    page.heading("<script>")
    page.text("1 < 2", "note")
    page.cards({"<b>": "&"})
    page.table([("<i>", "2")], ("name", "count"), numbers_from=1)
    page.commands({"allmlp predict 'a b'": "one", "longer than that, allmlp evaluate": "two"})
    page.figure("name", new_figure(1, 1), 'a "caption"')
    text = page.html()
    assert "<title>a &amp; b</title>" in text
    assert "<h1>a &amp; b</h1>" in text
    for word in ("<script>", "1 < 2", "<b>&</b>", "<i>"):
        assert word not in text
    assert "<td class=n>2</td>" in text
    assert "allmlp predict &#x27;a b&#x27;               # one\nlonger than that, allmlp evaluate  # two" in text
    assert 'alt="a &quot;caption&quot;"' in text


@pytest.mark.parametrize("spread", [1.0, 1.0001, 1.01, 3.0])
def test_models_of_nearly_equal_cost(spread):
    """Names stay beside their points, so that panels keep their size; a collapsed layout warns."""
    points = [Point(f"timm/model_{i}", "MLP", 0.5 + i / 10, {"images/s": 100 * spread**i}) for i in range(3)]
    figure = draw_pareto(points, "top1")
    png_bytes(figure)
    assert figure.axes[0].get_position().width > 0.6

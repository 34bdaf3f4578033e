"""Drawings of speed: what is in them."""

from dataclasses import replace

from allmlp.figures.speed import draw_resolution, draw_speed
from allmlp.figures.style import png_bytes
from allmlp.speed.results import Row

ROW = Row(
    "mixer_nano",
    "ours",
    "eager",
    "infer",
    batch=1,
    height=32,
    width=32,
    own=True,
    same=True,
    median_ms=10.0,
    images_per_second=100.0,
    share_of_ceiling=0.5,
)


def test_bars_stand_beside_the_ceiling():
    wrong = Row("mixer_nano", "authors", "eager", "infer", 1, 32, 32, own=False, same=True, problem="wrong: ...")
    rows = [ROW, replace(ROW, backend="openvino", images_per_second=150.0, share_of_ceiling=0.75), wrong]
    figure = draw_speed(rows)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [100.0, 150.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ours eager", "ours openvino"]
    assert [text.get_text() for text in axes.texts] == [" 50% ", " 75% "]
    assert list(axes.lines[0].get_xdata()) == [200.0, 200.0]
    assert png_bytes(figure)


def test_every_group_has_a_panel():
    rows = [replace(ROW, batch=batch) for batch in (1, 2, 3, 4)]
    figure = draw_speed(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == [
        f"mixer_nano, infer, batch {batch}, 32 px" for batch in (1, 2, 3, 4)
    ]


def test_lines_show_the_fastest_form_an_image():
    rows = [
        ROW,
        replace(ROW, backend="openvino", images_per_second=200.0),
        replace(ROW, height=64, width=64, images_per_second=25.0),
        replace(ROW, form="authors", own=False, height=64, width=64, images_per_second=50.0),
    ]
    figure = draw_resolution(rows)
    line, guide = figure.axes[0].lines
    assert list(line.get_xdata()) == [32 * 32, 64 * 64]
    assert list(line.get_ydata()) == [5.0, 40.0]
    assert list(guide.get_ydata()) == [5.0, 20.0]
    assert png_bytes(figure)

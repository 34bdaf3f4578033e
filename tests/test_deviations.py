"""docs/deviations.md names tests as its proof; they must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "deviations.md").read_text()
    path, named = "", 0
    for new_path, test in re.findall(r"`(tests/[\w/]+\.py)?::(test_\w+)`", page):
        path = new_path or path  # `::test_x` stands for the file named before it
        assert f"def {test}(" in (ROOT / path).read_text(), (path, test)
        named += 1
    assert named > 40

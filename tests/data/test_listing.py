"""Finding files: natural order, hidden files passed over, missing things named."""

import pytest

from allmlp.data import list_images, open_images
from allmlp.data.listing import find_images, natural_key
from allmlp.errors import InputError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_natural_order():
    names = ["b", "a10", "a2", "A3", "a02", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a02", "a2", "A3", "a10", "b"]


def test_a_folder_is_listed_with_all_below(tmp_path):
    touch(
        tmp_path, "img10.png", "img9.JPG", "deep/er/1.webp", "notes.txt", ".hidden.png", ".git/a.png", "__MACOSX/b.png"
    )
    found, others = find_images(tmp_path)
    assert found == ["deep/er/1.webp", "img9.JPG", "img10.png"]
    assert others == {".txt": 1}


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert find_images(tmp_path)[0] == ["a/1.png"]


def test_files_folders_and_globs_keep_the_order_of_the_call(tmp_path):
    touch(tmp_path, "z.png", "y/2.png", "y/10.png", "x1.jpg", "x1.txt", "noname")
    inputs = [tmp_path / "z.png", tmp_path / "y", str(tmp_path / "x*"), tmp_path / "noname", tmp_path / "z.png"]
    names = [str(path.relative_to(tmp_path)) for path in list_images(inputs)]
    assert names == ["z.png", "y/2.png", "y/10.png", "x1.jpg", "noname"]
    source = open_images(inputs)
    assert len(source) == 5
    assert source.label(0) == -1
    assert source.path(1) == str(tmp_path / "y/2.png")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("cats/tom.png", r"there is none at .*tom\.png\. Did you mean .*tim\.png\?"),
        ("dogs", "it holds no files"),
        ("texts", r"it holds only other files \(1 \.txt\)"),
        ("cats/*.gif", "none do"),
        ("texts/*", "none of its matches is one"),
    ],
)
def test_missing_images_are_named(tmp_path, inputs, message):
    touch(tmp_path, "cats/tim.png", "texts/a.txt")
    (tmp_path / "dogs").mkdir()
    with pytest.raises(InputError, match=message):
        list_images(tmp_path / inputs)


def test_nothing_asked_for():
    with pytest.raises(InputError, match="got none"):
        list_images([])

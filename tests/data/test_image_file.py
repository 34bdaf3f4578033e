"""Every kind of file is read as a person sees it, and what cannot be read says which and why."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from allmlp.data import UnreadableImageError, read_image
from allmlp.data.image_file import MAX_PIXELS, check_image
from allmlp.errors import InputError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(height=6, width=9):
    """An RGB array with no symmetry and no equal pixels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 20 * x, 30 + 30 * y, 7 * (x + 9 * y) % 256], axis=2).astype(np.uint8)


def saved(path, image, **settings):
    image.save(path, **settings)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "gif"])
def test_rgb_and_grey_files_keep_their_pixels(tmp_path, suffix):
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(picture()), **lossless)
    if suffix != "gif":  # a palette of 256 colours holds the 54 of this picture, but in an order of its own
        assert np.array_equal(read_image(path), picture())
    assert read_image(path).mode == "RGB"
    assert read_image(path, channels=1).mode == "L"
    grey = picture()[..., 0]
    path = saved(tmp_path / f"grey.{suffix}", Image.fromarray(grey), **lossless)
    assert np.array_equal(read_image(path, channels=1), grey)
    assert np.array_equal(read_image(path, channels=3), np.repeat(grey[..., None], 3, axis=2))


def test_palette_is_read_by_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([1, 0])
    path = saved(tmp_path / "a.png", image)
    assert np.array_equal(read_image(path), [[BLUE, RED]])
    assert np.array_equal(read_image(path, channels=1), [[29, 76]])


def test_bilevel_is_black_and_white(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert np.array_equal(read_image(saved(tmp_path / "a.png", image), channels=1), [[0, 255]])


def test_transparency_lies_over_white(tmp_path):
    rgba = Image.new("RGBA", (3, 1), (*RED, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 51))
    expected = [[RED, (255, 255, 255), (204, 204, 204)]]
    assert np.array_equal(read_image(saved(tmp_path / "rgba.png", rgba)), expected)
    assert read_image(tmp_path / "rgba.png", channels=1).getpixel((1, 0)) == 255

    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    assert np.array_equal(read_image(saved(tmp_path / "la.png", grey), channels=1), [[10, 255]])

    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    path = saved(tmp_path / "p.png", palette, transparency=1)
    assert np.array_equal(read_image(path), [[RED, (255, 255, 255)]])
    path = saved(tmp_path / "p.gif", palette, transparency=1)
    assert np.array_equal(read_image(path), [[RED, (255, 255, 255)]])

    keyed = Image.fromarray(np.array([[RED, GREEN]], dtype=np.uint8))
    path = saved(tmp_path / "key.png", keyed, transparency=GREEN)
    assert np.array_equal(read_image(path), [[RED, (255, 255, 255)]])


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 40000, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        path = saved(tmp_path / name, Image.fromarray(values))
        assert np.array_equal(read_image(path, channels=1), [[0, 1, 156, 255]])
        assert read_image(path).getpixel((2, 0)) == (156, 156, 156)
    dark = saved(tmp_path / "dark.png", Image.fromarray(np.array([[0, 100]], dtype=np.uint16)))
    assert np.array_equal(read_image(dark, channels=1), [[0, 0]])  # not stretched: a dark picture stays dark


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
        (np.array([[-1000, 0, 1000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 200.0]], dtype=np.float32), [0, 100, 200]),
        (np.array([[-2.0, 0.0, 2.0]], dtype=np.float32), [0, 128, 255]),
    ],
)
def test_wide_numbers_follow_the_documented_ranges(tmp_path, values, expected):
    path = saved(tmp_path / "a.tiff", Image.fromarray(values))
    assert np.array_equal(read_image(path, channels=1), [expected])


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    assert read_image(path).mode == "RGB"
    assert np.abs(np.asarray(read_image(path), dtype=int) - RED).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """Each stored arrangement, undone by its orientation, shows the same picture (EXIF 2.3, tag 274)."""
    seen = picture()
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: np.rot90(seen, 1),
        7: seen[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored))
    for name in ("a.png", "a.tiff", "a.webp"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        path = saved(tmp_path / name, stored, exif=exif, **lossless)
        assert np.array_equal(read_image(path), seen)
    path = saved(tmp_path / "a.jpg", stored.resize([8 * side for side in stored.size], 0), exif=exif, subsampling=0)
    blocks = np.asarray(read_image(path).resize((9, 6), Image.Resampling.BOX), dtype=int)
    assert np.abs(blocks - seen).max() < 12


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_first_frame_of_many(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **lossless)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert np.array_equal(read_image(path), np.full((4, 4, 3), RED))


def test_many_bands_from_npy_and_tiff(tmp_path):
    bands = np.random.default_rng(0).integers(0, 65535, (5, 4, 13), dtype=np.uint16)
    np.save(tmp_path / "last.npy", bands)
    np.save(tmp_path / "first.npy", np.moveaxis(bands, 2, 0))
    assert np.array_equal(read_image(tmp_path / "last.npy", channels=13), bands)
    assert np.array_equal(read_image(tmp_path / "first.npy", channels=13), bands)
    rgba = np.random.default_rng(0).integers(0, 255, (5, 4, 4), dtype=np.uint8)
    for name in ("a.tiff", "a.png"):
        path = saved(tmp_path / name, Image.fromarray(rgba))
        assert np.array_equal(read_image(path, channels=4), rgba)
    np.save(tmp_path / "rgb.npy", picture())
    assert np.array_equal(read_image(tmp_path / "rgb.npy"), picture())
    np.save(tmp_path / "grey.npy", picture()[..., 0])
    assert np.array_equal(read_image(tmp_path / "grey.npy", channels=1), picture()[..., 0])


def test_wrong_number_of_bands_says_so(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 4, 7), dtype=np.uint8))
    with pytest.raises(InputError, match=r"a\.npy: wanted 13 channels; got an array of shape \(5, 4, 7\)"):
        read_image(tmp_path / "a.npy", channels=13)
    path = saved(tmp_path / "a.png", Image.fromarray(picture()))
    with pytest.raises(InputError, match=r"a RGB image; files of other than 1 or 3 channels are \.npy or TIFF"):
        read_image(path, channels=4)
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    with pytest.raises(InputError, match="of type <U1"):
        read_image(tmp_path / "words.npy", channels=1)


def test_objects_in_npy_files_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="allow_pickle"):
        read_image(tmp_path / "a.npy", channels=13)


def jpeg(tmp_path, height=64, width=96):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return saved(tmp_path / "a.jpg", Image.fromarray(noise))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "webp", "bmp"])
def test_truncated_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_truncated_jpeg_is_called_truncated(tmp_path):
    path = jpeg(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    assert check_image(path) is None  # the header is sound; only decoding shows it
    with pytest.raises(InputError, match=r"a\.jpg: the file is truncated"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"not an image at all", "not an image in any format known here"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "."),
    ],
)
def test_files_that_are_no_images(tmp_path, content, reason):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(path)
    assert check_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="is a directory"):
        read_image(tmp_path)


def bomb(path, width, height):
    """A PNG header that promises many pixels, with next to no data."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_decompression_bomb(tmp_path):
    path = bomb(tmp_path / "bomb.png", 60000, 60000)
    assert MAX_PIXELS < 60000**2
    with pytest.raises(UnreadableImageError, match=r"bomb\.png: a decompression bomb\?"):
        read_image(path)
    assert "decompression bomb" in check_image(path)


def test_endless_strip(tmp_path):
    """One pixel high and very long: resizing its short side to a model's size would take gigabytes."""
    path = bomb(tmp_path / "strip.png", 1_000_000, 1)
    with pytest.raises(UnreadableImageError, match="1000000 x 1 pixels: one side is more than 500 times the other"):
        read_image(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow says so; the picture is sound
def test_damaged_exif_does_not_hide_the_picture(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture(16, 16)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).size == (16, 16)


def test_large_jpegs_are_decoded_smaller_when_told(tmp_path):
    y, x = np.mgrid[:800, :1200]
    smooth = np.stack([x / 5, y / 4, (x + y) / 8], axis=2).astype(np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95)
    small = read_image(path, at_least=(32, 32))
    assert small.size == (150, 100)
    assert read_image(path, at_least=(200, 200)).size == (600, 400)
    assert read_image(path, at_least=(500, 500)).size == (1200, 800)
    difference = np.asarray(small, dtype=float) - np.asarray(read_image(path).resize((150, 100), Image.Resampling.BOX))
    assert np.abs(difference).max() < 4


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "no such file")))
    assert (error.path, error.reason) == ("a.png", "no such file")
    assert isinstance(error, InputError)

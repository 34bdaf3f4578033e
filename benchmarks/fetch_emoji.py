"""Lay out emoji as a data set of small colour images: classify the category, in two drawing styles.

    python benchmarks/fetch_emoji.py OUT

needs npm and its registry. The packages emoji-datasource-google and emoji-datasource-twitter (MIT; the pictures are
Google's Noto, Apache-2.0, and Twitter's Twemoji, CC-BY 4.0) hold a 64 x 64 picture of every emoji. Written are

    OUT/google/train/CATEGORY/NAME.png   four fifths of the emoji
    OUT/google/val/CATEGORY/NAME.png     the others, as Google draws them
    OUT/twitter/val/CATEGORY/NAME.png    the same others, as Twitter draws them

The split is by emoji, stratified by category, seed 0. Skin tones are left out: they would put nearly the same picture
on both sides. So are the five of the category Component, which are only skin tones and hair.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from sklearn.model_selection import train_test_split

VERSION = "16.0.0"
STYLES = ("google", "twitter")


def fetch(style: str, folder: Path) -> Path:
    """Unpack one style's package and return its folder."""
    subprocess.run(
        ["npm", "pack", "--silent", f"emoji-datasource-{style}@{VERSION}"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with tarfile.open(folder / f"emoji-datasource-{style}-{VERSION}.tgz") as archive:
        wanted = [
            member
            for member in archive.getmembers()
            if f"/{style}/64/" in member.name or member.name == "package/emoji.json"
        ]
        archive.extractall(folder / style, wanted, filter="data")
    return folder / style / "package"


def main() -> None:
    """Fetch, split, lay out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")
    with tempfile.TemporaryDirectory() as scratch:
        packages = {style: fetch(style, Path(scratch)) for style in STYLES}
        emoji = json.loads((packages["google"] / "emoji.json").read_text(encoding="utf-8"))
        emoji = [one for one in emoji if one["category"] != "Component" and all(one[f"has_img_{s}"] for s in STYLES)]
        categories = [one["category"] for one in emoji]
        _, held_out = train_test_split(range(len(emoji)), test_size=0.2, stratify=categories, random_state=0)
        held = set(held_out)
        counts: dict[str, int] = {}
        for index, one in enumerate(emoji):
            parts = ["google/val", "twitter/val"] if index in held else ["google/train"]
            for part in parts:
                source = packages[part.partition("/")[0]] / "img" / part.partition("/")[0] / "64" / one["image"]
                target = out / part / one["category"] / f"{one['short_name'].replace('/', '-')}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
                counts[part] = counts.get(part, 0) + 1
    print(", ".join(f"{part}: {count}" for part, count in counts.items()))


if __name__ == "__main__":
    main()

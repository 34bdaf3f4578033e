"""The script that goes with an exported file: it runs the file on pictures, without this package."""

from dataclasses import dataclass

_IMPORT = {
    "onnx": ["import numpy as np, onnxruntime"],
    "openvino": [
        'sys.modules["openvino_telemetry"] = None  # OpenVINO else sends statistics of use',
        "import numpy as np, openvino",
    ],
    "pt2": ["import numpy as np, torch, torchvision"],
}
_OPEN = {
    "onnx": [
        'session = onnxruntime.InferenceSession(here / "model.onnx")',
        "run = lambda *arrays: session.run(None, dict(zip([i.name for i in session.get_inputs()], arrays)))",
    ],
    "openvino": [
        'model = openvino.compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        "run = lambda *arrays: list(model(arrays).values())",
    ],
    "pt2": [
        'model = torch._inductor.aoti_load_package(str(here / "model.pt2"))',
        "as_list = lambda found: [found] if isinstance(found, torch.Tensor) else found",
        "run = lambda *arrays: [part.numpy() for part in as_list(model(*map(torch.from_numpy, arrays)))]",
    ],
}
_NEEDS = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch, torchvision"}
_DOES = {
    "classify": "Classify pictures",
    "detect": "Find objects in pictures",
    "segment": "Label the pixels of pictures",
}


@dataclass(frozen=True)
class Script:
    """What a script is for: format, task, and how a file takes pictures.

    square: a classifier's crops are. raw: it takes bytes; resize: of any size. batch: so many at a time, None for any.
    """

    to: str
    task: str
    crop_mode: str
    square: bool
    raw: bool
    batch: int | None
    resize: bool = False

    def text(self) -> str:
        """The whole script."""
        lines = [
            f'"""{_DOES[self.task]}: python run.py PICTURE ...   It needs numpy, pillow, {_NEEDS[self.to]}."""',
            "import json, sys",
            "from pathlib import Path",
            "from PIL import Image, ImageOps",
            *_IMPORT[self.to],
            "here = Path(__file__).parent",
            'spec = json.loads((here / "preprocessing.json").read_text())',
            'labels = (here / "labels.txt").read_text(encoding="utf-8").splitlines()',
            *_OPEN[self.to],
            "for path in sys.argv[1:]:",
            '    image = ImageOps.exif_transpose(Image.open(path)).convert(spec["mode"])',
            *(f"    {line}" for line in [*self._place(), *self._pixels(), *self._result()]),
        ]
        return "\n".join(lines) + "\n"

    def _place(self) -> list[str]:
        """The picture on a page of the size that the model takes."""
        if self.resize:
            return []
        if self.task != "classify":
            return [
                'scale = min(spec["size"][0] / image.height, spec["size"][1] / image.width)',
                "width, height = (max(1, int(side * scale + 0.5)) for side in image.size)",
                'page = Image.new(spec["mode"], spec["size"][::-1], tuple(spec["fill"]))',
                "page.paste(image.resize((width, height), Image.Resampling.BILINEAR))",
            ]
        if self.crop_mode == "squash":
            size = 'spec["resize"][::-1]'
        elif self.crop_mode == "center" and self.square:
            short = 'spec["resize"][0]'
            size = f"[int({short} * side / min(image.size)) for side in image.size]"
        else:
            best = "max" if self.crop_mode == "center" else "min"
            size = (
                f'[round(side * {best}(spec["resize"][0] / image.height, spec["resize"][1] / image.width))'
                " for side in image.size]"
            )
        lines = [f"size = {size}", 'image = image.resize(size, Image.Resampling[spec["interpolation"].upper()])']
        if self.crop_mode != "border":
            return [
                *lines,
                'left, top = (round((a - b) / 2) for a, b in zip(size, spec["size"][::-1]))',
                'page = image.crop((left, top, left + spec["size"][1], top + spec["size"][0]))',
            ]
        return [
            *lines,
            'page = Image.new(spec["mode"], spec["size"][::-1], tuple(spec["fill"]))',
            "corner = [(b - a) // 2 if b > a else -round((a - b) / 2) for a, b in zip(size, page.size)]",
            "page.paste(image, corner)",
        ]

    def _pixels(self) -> list[str]:
        """The page as the array that the model takes."""
        if self.resize:
            lines = ["pixels = np.array(image).reshape(1, image.height, image.width, -1)"]
        else:
            lines = ['pixels = np.asarray(page).reshape(1, *spec["size"], -1)']
        if not self.raw:
            lines.append('pixels = ((pixels / 255.0 - spec["mean"]) / spec["std"]).transpose(0, 3, 1, 2).astype("f4")')
            if self.task != "classify":
                lines.append("pixels[:, :, height:] = pixels[:, :, :, width:] = 0")
        if self.batch not in (None, 1):
            lines.append(f"pixels = pixels.repeat({self.batch}, axis=0)  # the model takes as many at a time")
        return lines

    def _result(self) -> list[str]:
        """What the model says, printed or saved."""
        if self.task == "classify":
            shares, whole = "run(pixels)[0][0]", ""
            if not self.raw:
                shares, whole = "np.exp(run(pixels)[0][0].astype(float))", " / shares.sum()"
            best = f'(f"{{labels[i]}} {{shares[i]{whole}:.4f}}" for i in np.argsort(-shares)[:5])'
            return [f"shares = {shares}", f'print(path, *{best}, sep="  ")']
        if self.task == "segment":
            found = "run(pixels)[0][0]" if self.raw else "run(pixels)[0][0].argmax(0)"
            inside, back = ("", "") if self.resize else ("[:height, :width]", ".resize(image.size, 0)")
            return [
                f"classes = {found}{inside}.astype(np.uint8)",
                'print(path, *(f"{labels[i]} {(classes == i).mean():.4f}" for i in np.unique(classes)), sep="  ")',
                f'Image.fromarray(classes){back}.save(Path(path).stem + ".labels.png")',
            ]
        sizes = "" if self.resize else f', np.array([[height, width]] * {self.batch or 1}, "f4")'
        back = "boxes = boxes * np.tile([image.width / width, image.height / height], 2)"
        return [
            f"boxes, scores, classes, counts, *masks = run(pixels{sizes})",
            *([] if self.resize else [back]),
            "for box, score, label in zip(boxes[0], scores[0], classes[0]):",
            '    print(path, labels[label], f"{score:.4f}", *box.round(1), sep="  ") if score >= 0.3 else None',
        ]

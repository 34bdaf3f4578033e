"""Draw the figures of docs/equivalences.md from the library's own operations.

Run: python benchmarks/draw_equivalences.py [FOLDER]    (default docs/figures; a few seconds; no data, fixed seed)
"""

import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from allmlp.figures.style import COLOURS, house_style, new_figure, save_figure
from allmlp.models import EaMlp, MlpMixer
from allmlp.models.as_mlp import AsMlpBlock, AxialShift
from allmlp.ops.axial_shift import axial_shift
from allmlp.ops.double_norm import double_normalise
from allmlp.reparam.conv_to_fc import conv_to_fc


def picture(axes: Axes, values: torch.Tensor, title: str, limit: float | None = None, **settings: str) -> None:
    """A matrix as cells: blue to red around zero, or white to blue where nothing is negative."""
    limit = limit or float(values.abs().max())
    signed = bool((values < 0).any())
    axes.imshow(
        values.numpy(), cmap="RdBu_r" if signed else "Blues", vmin=-limit if signed else 0, vmax=limit, aspect="auto"
    )
    axes.set(title=title, xticks=[], yticks=[], **settings)
    axes.grid(False)


def token_mixing() -> Figure:
    """A token-mixing matrix, the same numbers as kernels, and the matrix of a convolution."""
    grid = (8, 8)
    place = torch.cartesian_prod(*[torch.linspace(-1, 1, side) for side in grid])
    waves = torch.tensor([[0.0, 0.5], [0.5, 0.0], [0.5, 0.5], [1.0, 0.5]])
    matrix = torch.sin(torch.pi * waves @ place.T)
    figure = new_figure(8.4, 1.9)
    panels = figure.subplots(1, 6, width_ratios=(1.8, 1, 1, 1, 1, 1.4))
    picture(panels[0], matrix, "4 rows of a token FC", xlabel="64 tokens")
    for axes, row, unit in zip(panels[1:5], matrix, range(1, 5)):
        picture(axes, row.view(grid), f"row {unit}: a kernel", xlabel="8 x 8 places")
    kernel = (torch.exp(-place.square().sum(1)) - 0.5).view(1, 1, *grid)[..., 2:7, 2:7]
    picture(panels[5], conv_to_fc(kernel, grid), "5 x 5 kernel: an FC", xlabel="64 tokens")
    return figure


def attention() -> Figure:
    """Maps between tokens on the way from self-attention to external attention with the tokens as memory."""
    angles = torch.tensor([0.0, 0.2, 0.4, 2.0, 2.2, 4.4, 4.5, 4.6, 4.7])
    length = torch.tensor([1.6, 1.2, 0.8, 1.5, 1.0, 0.9, 1.1, 1.4, 1.6])
    tokens = length[:, None] * torch.stack([angles.cos(), angles.sin()], 1)
    logits = tokens @ tokens.T
    figure = new_figure(8.4, 2.5)
    panels = figure.subplots(1, 4)
    picture(panels[0], logits, "F Fᵀ", ylabel="token", xlabel="token")
    picture(panels[1], logits.softmax(1), "self-attention: softmax\nover the memory = tokens", xlabel="memory row")
    picture(panels[2], logits.softmax(0), "softmax over the tokens:\nits transpose", xlabel="memory row")
    both = double_normalise(logits, tokens_dim=0, memory_dim=1)
    picture(panels[3], both, "and rows scaled to 1:\ndouble normalisation", xlabel="memory row")
    return figure


@torch.no_grad()
def order() -> Figure:
    """How far the logits move when the tokens change places."""
    torch.manual_seed(0)
    places = torch.randperm(16)
    mixer = MlpMixer(32, 8, embed_dim=32, depth=2, tokens_mlp_dim=16, channels_mlp_dim=64, num_classes=10)
    eamlp = EaMlp(img_size=64, embed_dim=32, depth=2, num_heads=2, memory_size=16, token_dim=16, num_classes=10)
    for parameter in [*mixer.parameters(), *eamlp.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    mixer, eamlp = mixer.double().eval(), eamlp.double().eval()

    def mixer_logits(tokens: torch.Tensor) -> torch.Tensor:
        return mixer.forward_head(mixer.norm(mixer.blocks(tokens)))

    def eamlp_logits(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([eamlp.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return eamlp.forward_head(eamlp.norm(eamlp.blocks(tokens + positions)))

    tokens = torch.randn(8, 16, 32, dtype=torch.double)
    shuffled, table = tokens[:, places], eamlp.pos_embed
    pairs = [
        ("Mixer", mixer_logits(shuffled), mixer_logits(tokens)),
        ("EAMLP", eamlp_logits(shuffled, table), eamlp_logits(tokens, table)),
        ("EAMLP without positions", eamlp_logits(shuffled, 0 * table), eamlp_logits(tokens, 0 * table)),
    ]
    wanted = mixer_logits(tokens)
    for block in mixer.blocks:
        fc1, fc2 = block.token_mixing.fc1, block.token_mixing.fc2
        fc1.weight.data = fc1.weight.data[:, places]
        fc2.weight.data, fc2.bias.data = fc2.weight.data[places], fc2.bias.data[places]
    pairs.insert(1, ("Mixer, weights permuted alike", mixer_logits(shuffled), wanted))
    names = [name for name, _, _ in pairs]
    moved = [max(float((a - b).abs().max() / b.std()), 1e-17) for _, a, b in pairs]
    figure = new_figure(6.4, 2.0)
    axes = figure.subplots()
    axes.barh(names, moved, color=[COLOURS[1] if value > 1e-9 else COLOURS[0] for value in moved], left=1e-17)
    axes.set(xscale="log", xlim=(1e-17, 10), xlabel="largest change of a logit / standard deviation of the logits")
    axes.invert_yaxis()
    axes.set_title("16 tokens in another order, double precision, random weights")
    return figure


def field_of_view(depth: int, shift_size: int, dilation: int, norms: bool) -> torch.Tensor:
    """Magnitude of the gradient of the middle cell with respect to every cell of the input."""
    layers = [AxialShift(20, shift_size, dilation, "zeros", True, False) for _ in range(depth)]
    blocks = nn.Sequential(*[AsMlpBlock(layer, 20, 20, 0.0, False) for layer in layers]).double()
    if not norms:
        for block in blocks:
            block.norm1 = block.norm2 = block.axial_shift.norm1 = block.axial_shift.norm2 = nn.Identity()
    x = torch.randn(1, 20, 13, 13, dtype=torch.double, requires_grad=True)
    blocks(x)[0, :, 6, 6].sum().backward()
    return (x.grad[0].abs().sum(0) > 0).float()


def axial() -> Figure:
    """The shift as a sparse kernel, and the cells that reach one cell."""
    torch.manual_seed(0)
    channels, shift_size = 10, 5
    impulse = torch.zeros(1, channels, 1, 9)
    impulse[..., 4] = 1
    taps = axial_shift(impulse, shift_size, dim=3)[0, :, 0, 2:7].flip(1)
    figure = new_figure(8.4, 2.3)
    panels = figure.subplots(1, 5, width_ratios=(0.6, 1, 1, 1, 1))
    picture(panels[0], taps, "1 x 5 kernel,\n10 channels", ylabel="channel", xlabel="tap")
    views = [
        ("one layer, shift 5:\n9 cells", (1, 5, 1, False)),
        ("one layer, shift 3,\ndilation 2: 5 cells", (1, 3, 2, False)),
        ("two layers, shift 5:\n33 cells", (2, 5, 1, False)),
        ("one layer with its\nnorms: the whole map", (1, 5, 1, True)),
    ]
    for axes, (title, settings) in zip(panels[1:], views):
        picture(axes, field_of_view(*settings), title)
    return figure


def repmlp() -> Figure:
    """A 3x3 kernel, its matrix over a 5 x 5 map, and what a fully-connected layer becomes with it."""
    torch.manual_seed(0)
    kernel = torch.randn(1, 1, 3, 3)
    matrix, dense = conv_to_fc(kernel, (5, 5)), 0.3 * torch.randn(25, 25)
    limit = float(kernel.abs().max())
    figure = new_figure(8.4, 2.5)
    panels = figure.subplots(1, 4, width_ratios=(0.5, 1, 1, 1))
    picture(panels[0], kernel[0, 0], "3 x 3 kernel", limit)
    panels[0].set_box_aspect(1)
    picture(panels[1], matrix, "its FC over a 5 x 5 map", limit, ylabel="output place", xlabel="input place")
    picture(panels[2], dense, "+ the layer's own FC", limit, xlabel="input place")
    picture(panels[3], matrix + dense, "= one FC", limit, xlabel="input place")
    return figure


FIGURES = {"token_mixing": token_mixing, "attention": attention, "order": order, "axial": axial, "repmlp": repmlp}


def draw(folder: Path) -> None:
    """Write every figure as FOLDER/equivalence_NAME.png."""
    for name, make in FIGURES.items():
        with house_style():
            figure = make()
        save_figure(figure, folder / f"equivalence_{name}.png", dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "figures")

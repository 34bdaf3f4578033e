"""What the token mixers are in other words, each equality in double precision. docs/equivalences.md tells the story."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from allmlp.models import EaMlp, ExternalAttention, MlpMixer, MultiHeadExternalAttention, ResMlp
from allmlp.models.as_mlp import AsMlpBlock, AxialShift
from allmlp.models.mixer import MixerBlock
from allmlp.ops.axial_shift import axial_shift
from allmlp.ops.double_norm import double_normalise, external_attention
from allmlp.reparam.conv_to_fc import conv_to_fc


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding in double precision."""
    assert a.dtype == b.dtype == torch.double
    assert a.shape == b.shape
    return bool((a - b).abs().max() <= 1e-11 * max(b.std().item(), 1e-3))


def shaken(module: nn.Module) -> nn.Module:
    """In double precision and evaluation mode, with weights that are nowhere zero or one."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


# ---- token mixing and channel mixing as convolutions


def test_a_token_fc_is_a_full_field_convolution_shared_by_all_channels():
    """Every row of the matrix is a kernel as large as the map; one set of kernels serves each channel alike."""
    height, width, channels, units = 4, 6, 5, 7
    x = torch.randn(2, channels, height, width, dtype=torch.double)
    matrix, bias = torch.randn(units, height * width, dtype=torch.double), torch.randn(units, dtype=torch.double)
    by_matrix = torch.einsum("mn,bcn->bcm", matrix, x.flatten(2)) + bias
    kernels = matrix.view(units, 1, height, width)
    depthwise = F.conv2d(x, kernels.repeat(channels, 1, 1, 1), bias.repeat(channels), groups=channels)
    assert depthwise.shape[2:] == (1, 1)  # no padding: the kernel fits in one place only
    assert same(depthwise.view(2, channels, units), by_matrix)


def test_a_mixer_layer_is_a_convolutional_layer():
    """Full-field depthwise kernels for the tokens, their transpose on the way back, 1x1 kernels for the channels."""
    height, width, channels = 3, 4, 6
    tokens = height * width
    block = shaken(MixerBlock(tokens, channels, 5, 16, "tanh", 0.0, False))
    x = torch.randn(2, tokens, channels, dtype=torch.double)
    mixing, mlp = block.token_mixing, block.channel_mixing

    def norm(y, layer):  # over channels, at each place
        return F.layer_norm(y.permute(0, 2, 3, 1), (channels,), layer.weight, layer.bias, 1e-6).permute(0, 3, 1, 2)

    def gelu(y):
        return F.gelu(y, approximate="tanh")

    y = x.transpose(1, 2).unflatten(2, (height, width))
    rows = mixing.fc1.weight.view(-1, 1, height, width).repeat(channels, 1, 1, 1)
    hidden = gelu(F.conv2d(norm(y, block.norm1), rows, mixing.fc1.bias.repeat(channels), groups=channels))
    columns = mixing.fc2.weight.T.reshape(-1, 1, height, width).repeat(channels, 1, 1, 1)
    y = y + F.conv_transpose2d(hidden, columns, groups=channels) + mixing.fc2.bias.view(1, 1, height, width)
    z = gelu(F.conv2d(norm(y, block.norm2), mlp.fc1.weight[:, :, None, None], mlp.fc1.bias))
    y = y + F.conv2d(z, mlp.fc2.weight[:, :, None, None], mlp.fc2.bias)
    assert same(y.flatten(2).transpose(1, 2), block(x))


def test_resmlps_matrix_holds_every_shared_convolution():
    """A padded convolution with one kernel for all channels is the patch sublayer whose matrix is the kernel's own."""
    model = shaken(ResMlp(img_size=(32, 48), patch_size=8, embed_dim=6, depth=1, num_classes=0))
    height, width = model.grid_size
    kernel = torch.randn(1, 1, 2 * height - 1, 2 * width - 1, dtype=torch.double)  # as wide as any two places lie apart
    mixing = model.blocks[0].token_mixing
    mixing.weight.data = conv_to_fc(kernel, (height, width))
    mixing.bias.data.zero_()
    x = torch.randn(2, height * width, 6, dtype=torch.double)
    maps = x.transpose(1, 2).unflatten(2, (height, width))
    convolved = F.conv2d(maps, kernel.repeat(6, 1, 1, 1), padding=(height - 1, width - 1), groups=6)
    assert same(mixing(x), convolved.flatten(2).transpose(1, 2))
    assert kernel.numel() < mixing.weight.numel()  # so not every matrix is a convolution


# ---- from self-attention to external attention


@pytest.fixture
def tokens() -> torch.Tensor:
    """(n, c)"""
    return torch.randn(9, 4, dtype=torch.double)


def test_one_memory_of_the_tokens_is_simplified_self_attention(tokens):
    """softmax(F F^T) F: the map between tokens is the map between tokens and a memory that holds them."""
    self_attention = F.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0)
    memory = tokens.clone()
    assert same((tokens @ memory.T).softmax(1) @ memory, self_attention)


def test_two_memories_of_the_tokens_are_keys_and_values(tokens):
    """softmax(F Mk^T) Mv with Mk = F Wk and Mv = F Wv is self-attention with those keys and values."""
    to_key, to_value = torch.randn(4, 4, dtype=torch.double), torch.randn(4, 3, dtype=torch.double)
    key, value = tokens @ to_key, tokens @ to_value
    self_attention = F.scaled_dot_product_attention(tokens, key, value, scale=1.0)
    assert same((tokens @ key.T).softmax(1) @ value, self_attention)


def test_double_normalisation_of_the_tokens_turns_the_attention_map_round(tokens):
    """With Mk = F the softmax over tokens is the self-attention map transposed; the L1 norm rescales its rows."""
    attention = (tokens @ tokens.T).softmax(1)
    turned = attention.T / (1e-9 + attention.sum(0)[:, None])
    assert same(double_normalise(tokens @ tokens.T, tokens_dim=0, memory_dim=1), turned)
    assert same(external_attention(tokens[None], tokens, tokens)[0], turned @ tokens)
    # Where attention is doubly stochastic and symmetric, turning changes nothing: both forms agree.
    circle = torch.arange(9, dtype=torch.double) * (2 * torch.pi / 9)
    ring = torch.stack([circle.cos(), circle.sin()], 1)
    assert (external_attention(ring[None], ring, ring)[0] - (ring @ ring.T).softmax(1) @ ring).abs().max() < 1e-8


def test_double_normalisation_is_a_softmax_of_centred_logits():
    """Over the memory, of logits less their log-sum-exp over the tokens; but for the 1e-9 in the denominator."""
    logits = torch.randn(2, 9, 5, dtype=torch.double)
    centred = logits - logits.logsumexp(1, keepdim=True)
    assert (double_normalise(logits, tokens_dim=1, memory_dim=2) - centred.softmax(2)).abs().max() < 1e-7
    other = double_normalise(logits, tokens_dim=2, memory_dim=1)  # the axes are not interchangeable
    assert (double_normalise(logits, tokens_dim=1, memory_dim=2) - other).abs().max() > 1e-2


def test_the_block_of_eanet_with_an_images_tokens_as_memory(tokens):
    """The last step in the module itself: relu(F + A F) with A the turned map."""
    block = ExternalAttention(4, memory_size=9).double().eval()
    block.project_in = block.project_out = block.norm = nn.Identity()
    block.memory_key.weight.data = tokens[:, :, None].clone()
    block.memory_value.weight.data = tokens.T[:, :, None].clone()
    image = tokens.T.reshape(1, 4, 3, 3)
    wanted = F.relu(tokens + external_attention(tokens[None], tokens, tokens)[0])
    assert same(block(image)[0].flatten(1).T, wanted)


# ---- order of the tokens


def test_external_attention_knows_no_order():
    order = torch.randperm(12)
    x = torch.randn(2, 12, 24, dtype=torch.double)
    for module in (shaken(MultiHeadExternalAttention(24, 3, 8)), shaken(small_eamlp()).blocks):
        assert same(module(x[:, order]), module(x)[:, order])
    image = x.transpose(1, 2).unflatten(2, (3, 4))
    block = shaken(ExternalAttention(24, 8))
    shuffled = block(image.flatten(2)[:, :, order].view_as(image))
    assert same(shuffled.flatten(2), block(image).flatten(2)[:, :, order])


def small_eamlp() -> EaMlp:
    return EaMlp(img_size=(48, 64), embed_dim=24, depth=2, num_heads=3, memory_size=8, token_dim=8, num_classes=5)


def test_eamlps_order_is_in_its_positions_alone():
    model = shaken(small_eamlp())
    x = torch.randn(2, 3, 48, 64, dtype=torch.double)
    order = torch.randperm(12)

    def logits(shuffle: bool, positions: torch.Tensor) -> torch.Tensor:
        tokens = model.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens[:, order] if shuffle else tokens
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], 1) + positions
        return model.head(model.norm(model.blocks(tokens))[:, 0])

    table = model.pos_embed
    assert same(logits(False, table), model(x))
    assert same(logits(True, 0 * table), logits(False, 0 * table))
    assert (logits(True, table) - logits(False, table)).abs().max() > 1e-6
    moved = torch.cat([table[:, :1], table[:, 1:][:, order]], 1)  # positions that move along
    assert same(logits(True, moved), logits(False, table))


def shuffle_patches(images: torch.Tensor, patch: int, order: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Every image with its patches in another order and the pixels inside each patch in another order."""
    height, width = images.shape[2:]
    patches = F.unfold(images, patch, stride=patch).unflatten(1, (images.shape[1], patch * patch))
    patches = patches[:, :, pixels][..., order]
    return F.fold(patches.flatten(1, 2), (height, width), patch, stride=patch)


def test_mixer_knows_the_order_and_permuted_weights_undo_a_shuffle():
    """As the paper's shuffling experiment has it: to a Mixer that is trained on them, shuffled images are as good."""
    model = MlpMixer(32, patch_size=8, embed_dim=12, depth=2, tokens_mlp_dim=7, channels_mlp_dim=20, num_classes=5)
    model = shaken(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    order, pixels = torch.randperm(16), torch.randperm(64)
    shuffled = shuffle_patches(x, 8, order, pixels)
    wanted = model(x)
    assert (model(shuffled) - wanted).abs().max() > 0.1 * wanted.std()
    with torch.no_grad():
        model.stem.weight.copy_(model.stem.weight.flatten(2)[:, :, pixels].view_as(model.stem.weight))
        for block in model.blocks:
            fc1, fc2 = block.token_mixing.fc1, block.token_mixing.fc2
            fc1.weight.copy_(fc1.weight[:, order])
            fc2.weight.copy_(fc2.weight[order])
            fc2.bias.copy_(fc2.bias[order])
    assert same(model(shuffled), wanted)


# ---- the axial shift as a convolution


def sparse_kernel(weight: torch.Tensor, shift_size: int) -> torch.Tensor:
    """The (o, c, k) kernel with one tap a channel: that of the channel's group, counted from the far end."""
    outputs, channels = weight.shape
    kernel = torch.zeros(outputs, channels, shift_size, dtype=weight.dtype)
    group = torch.arange(channels) // -(-channels // shift_size)
    kernel[:, torch.arange(channels), shift_size - 1 - group] = weight
    return kernel


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("shift_size", [1, 3, 5, 7])
@pytest.mark.parametrize("channels", [6, 10, 13])
def test_a_shift_and_a_1x1_convolution_are_one_sparse_convolution(channels, shift_size, dilation):
    x = torch.randn(2, channels, 6, 9, dtype=torch.double)
    weight, bias = torch.randn(4, channels, dtype=torch.double), torch.randn(4, dtype=torch.double)
    kernel, reach = sparse_kernel(weight, shift_size), dilation * (shift_size // 2)
    assert (kernel != 0).sum() == weight.numel()  # one tap in `shift_size` carries a weight
    for dim, shape, padding in ((3, (1, shift_size), (0, reach)), (2, (shift_size, 1), (reach, 0))):
        shifted = F.conv2d(axial_shift(x, shift_size, dim, dilation), weight[:, :, None, None], bias)
        convolved = F.conv2d(x, kernel.view(4, channels, *shape), bias, padding=padding, dilation=dilation)
        assert same(shifted, convolved)


def test_an_axial_shift_layer_is_four_convolutions():
    layer = shaken(AxialShift(12, 5, 1, "zeros", True, False))
    maps = torch.randn(2, 12, 7, 8, dtype=torch.double)

    def conv(y, linear):
        return F.conv2d(y, linear.weight[:, :, None, None], linear.bias)

    t = F.gelu(F.group_norm(conv(maps, layer.proj_in), 1, layer.norm1.weight, layer.norm1.bias))
    across, down = (sparse_kernel(part.weight, 5) for part in (layer.along_width, layer.along_height))
    t = F.gelu(F.conv2d(t, across[:, :, None, :], layer.along_width.bias, padding=(0, 2))) + F.gelu(
        F.conv2d(t, down[:, :, :, None], layer.along_height.bias, padding=(2, 0))
    )
    t = conv(F.group_norm(t, 1, layer.norm2.weight, layer.norm2.bias), layer.proj_out)
    assert same(layer(maps), t)


def field_of_view(depth: int, shift_size: int, dilation: int = 1, norms: bool = False, side: int = 21) -> torch.Tensor:
    """Which cells of the input reach the middle cell of the output, as a boolean map (side, side)."""
    layers = [AxialShift(20, shift_size, dilation, "zeros", True, False) for _ in range(depth)]
    blocks = shaken(nn.Sequential(*[AsMlpBlock(layer, 20, 20, 0.0, False) for layer in layers]))
    if not norms:
        for block in blocks:
            block.norm1 = block.norm2 = block.axial_shift.norm1 = block.axial_shift.norm2 = nn.Identity()
    x = torch.randn(1, 20, side, side, dtype=torch.double, requires_grad=True)
    blocks(x)[0, :, side // 2, side // 2].sum().backward()
    return x.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize(("shift_size", "dilation"), [(3, 1), (5, 1), (7, 1), (3, 2)])
def test_one_layer_sees_a_cross(shift_size, dilation):
    seen = field_of_view(1, shift_size, dilation)
    reach, middle = shift_size // 2, 10
    offsets = [dilation * step for step in range(-reach, reach + 1)]
    cross = {(middle, middle + o) for o in offsets} | {(middle + o, middle) for o in offsets}
    assert {tuple(cell) for cell in seen.nonzero().tolist()} == cross
    assert len(cross) == 2 * shift_size - 1


def test_two_layers_see_a_filled_square_and_norms_the_whole_map():
    seen = field_of_view(2, 5)
    assert seen.sum() == 33
    assert seen[8:13, 8:13].all()
    assert seen[10, 6:15].all()
    assert seen[6:15, 10].all()
    assert field_of_view(1, 5, norms=True).all()


# ---- RepMLP's convolutions as matrices


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 3), (7, 7)])
@pytest.mark.parametrize("size", [(5, 6), (4, 4), (1, 3)])
def test_a_convolution_is_a_fully_connected_layer(size, kernel, groups):
    inputs, outputs, cells = 4, 6, size[0] * size[1]
    x = torch.randn(3, inputs, *size, dtype=torch.double)
    weight = torch.randn(outputs, inputs // groups, *kernel, dtype=torch.double)
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolved = F.conv2d(x, weight, padding=padding, groups=groups).flatten(1)
    matrix = conv_to_fc(weight, size)
    blocks = matrix.view(groups, outputs // groups * cells, inputs // groups * cells)
    parts = x.view(3, groups, inputs // groups * cells)
    assert same(torch.einsum("gij,bgj->bgi", blocks, parts).flatten(1), convolved)
    # A norm after the convolution scales whole rows, so both forms merge with it alike.
    scale = torch.randn(outputs, dtype=torch.double)
    scaled = conv_to_fc(weight * scale[:, None, None, None], size)
    assert same(scaled, scale.repeat_interleave(cells)[:, None] * matrix)


# ---- the figures


def test_the_script_draws_every_figure_of_the_page(tmp_path):
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("draw_equivalences", root / "benchmarks" / "draw_equivalences.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.draw(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    page = (root / "docs" / "equivalences.md").read_text()
    assert drawn == {line.rpartition("figures/")[2].rstrip(")") for line in page.splitlines() if "](figures/" in line}
    assert all((root / "docs" / "figures" / name).stat().st_size < 150_000 for name in drawn)

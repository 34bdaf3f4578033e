"""Slow versions of the detectors' and segmenters' heads, from the papers and by the official keys, for comparison.

Loops, float64 and NumPy wherever that is bearable; layers by `torch.nn.functional` on the official tensors. Nothing of
the package is used here.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

STRIDES = (4, 8, 16, 32, 64)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
IOUS = (0.5, 0.6, 0.7)
WEIGHTS = (1.0, 0.5, 0.25)


# ---- official state dicts, by their keys


def conv(prefix, out, inn, side, bias=True):
    entries = [(f"{prefix}.weight", (out, inn, side, side), "matrix")]
    return [*entries, (f"{prefix}.bias", (out,), "bias")] if bias else entries


def conv_bn(prefix, out, inn, side):
    norm = [("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")]
    entries = conv(f"{prefix}.conv", out, inn, side, bias=False)
    entries += [(f"{prefix}.bn.{name}", (out,), kind) for name, kind in norm]
    return [*entries, (f"{prefix}.bn.num_batches_tracked", (), "counter")]


def linear(prefix, out, inn):
    return [(f"{prefix}.weight", (out, inn), "matrix"), (f"{prefix}.bias", (out,), "bias")]


def detector_entries(channels, classes, cascade):
    """(key, shape, kind) of everything but the backbone, as the detection fork names it."""
    entries = []
    for level, width in enumerate(channels):
        entries += conv(f"neck.lateral_convs.{level}.conv", 256, width, 1)
        entries += conv(f"neck.fpn_convs.{level}.conv", 256, 256, 3)
    entries += conv("rpn_head.rpn_conv", 256, 256, 3)
    entries += conv("rpn_head.rpn_cls", 3, 256, 1) + conv("rpn_head.rpn_reg", 12, 256, 1)
    for stage in range(3 if cascade else 1):
        box = f"roi_head.bbox_head.{stage}" if cascade else "roi_head.bbox_head"
        mask = f"roi_head.mask_head.{stage}" if cascade else "roi_head.mask_head"
        if cascade:
            for layer in range(4):
                entries += conv_bn(f"{box}.shared_convs.{layer}", 256, 256, 3)
        entries += linear(f"{box}.shared_fcs.0", 1024, 12544)
        if not cascade:
            entries += linear(f"{box}.shared_fcs.1", 1024, 1024)
        entries += linear(f"{box}.fc_cls", classes + 1, 1024) + linear(f"{box}.fc_reg", 4 * classes, 1024)
        for layer in range(4):
            entries += conv(f"{mask}.convs.{layer}.conv", 256, 256, 3)
        entries += conv(f"{mask}.upsample", 256, 256, 2) + conv(f"{mask}.conv_logits", classes, 256, 1)
    return entries


def upernet_entries(channels, classes):
    """(key, shape, kind) of UPerNet's two heads, as the segmentation fork names them."""
    entries = conv("decode_head.conv_seg", classes, 512, 1)
    for scale in range(4):
        entries += conv_bn(f"decode_head.psp_modules.{scale}.1", 512, channels[-1], 1)
    entries += conv_bn("decode_head.bottleneck", 512, channels[-1] + 2048, 3)
    for level in range(3):
        entries += conv_bn(f"decode_head.lateral_convs.{level}", 512, channels[level], 1)
        entries += conv_bn(f"decode_head.fpn_convs.{level}", 512, 512, 3)
    entries += conv_bn("decode_head.fpn_bottleneck", 512, 2048, 3)
    entries += conv_bn("auxiliary_head.convs.0", 256, channels[2], 3)
    return entries + conv("auxiliary_head.conv_seg", classes, 256, 1)


def generate(rule, entries, gains=()):
    """Tensors for entries by the golden rule; `gains` multiplies the keys that contain a word."""
    state = {}
    for key, shape, kind in entries:
        gain = math.prod(factor for word, factor in gains if word in key)
        value = torch.from_numpy(np.asarray(rule.official_entry(key, shape, kind)))
        state[key] = value if kind == "counter" else value * gain
    return state


# ---- boxes


def iou(a, b):
    """Of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def giou(a, b):
    """Generalised IoU of two boxes."""
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union - (hull - union) / hull


def nms(boxes, scores, threshold):
    """Indices that stay, best first."""
    kept = []
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(int(index))
    return kept


def encode(anchor, box, stds):
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    dx = ((box[0] + box[2]) / 2 - (anchor[0] + anchor[2]) / 2) / w
    dy = ((box[1] + box[3]) / 2 - (anchor[1] + anchor[3]) / 2) / h
    dw, dh = math.log((box[2] - box[0]) / w), math.log((box[3] - box[1]) / h)
    return np.array([dx, dy, dw, dh]) / np.array(stds)


def decode(anchor, delta, stds, size=None):
    """A box from an anchor and deltas, clipped to an image of `size` (height, width) if given."""
    dx, dy, dw, dh = np.asarray(delta) * np.array(stds)
    limit = abs(math.log(16 / 1000))
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (anchor[0] + anchor[2]) / 2 + dx * w, (anchor[1] + anchor[3]) / 2 + dy * h
    w, h = w * math.exp(np.clip(dw, -limit, limit)), h * math.exp(np.clip(dh, -limit, limit))
    box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    if size is not None:
        box = np.clip(box, 0, [size[1], size[0], size[1], size[0]])
    return box


def anchors_of(height, width, stride):
    """One after another: rows, columns, ratios 1/2, 1, 2 of height to width; the centre at the cell's top left."""
    boxes = []
    for row in range(height):
        for column in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                x, y = column * stride, row * stride
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(boxes)


def roi_align(features, box, stride, side):
    """(c, side, side) of a map (c, h, w): as many samples a bin as it has pixels, half-pixel aligned."""
    height, width = features.shape[1:]
    x1, y1, x2, y2 = (value / stride - 0.5 for value in box)
    bin_w, bin_h = (x2 - x1) / side, (y2 - y1) / side
    across, down = math.ceil(bin_w), math.ceil(bin_h)
    pooled = np.zeros((features.shape[0], side, side))

    def at(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = max(y, 0), max(x, 0)
        y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
        fy, fx = (0 if y0 == height - 1 else y - y0), (0 if x0 == width - 1 else x - x0)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        top = features[:, y0, x0] * (1 - fx) + features[:, y0, x1] * fx
        return top * (1 - fy) + (features[:, y1, x0] * (1 - fx) + features[:, y1, x1] * fx) * fy

    for row in range(side):
        for column in range(side):
            for i in range(down):
                for j in range(across):
                    y = y1 + row * bin_h + (i + 0.5) * bin_h / down
                    x = x1 + column * bin_w + (j + 0.5) * bin_w / across
                    pooled[:, row, column] += at(y, x)
    return pooled / max(down * across, 1)


def level_of(box):
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    return int(np.clip(math.floor(math.log2(side / 56 + 1e-6)), 0, 3)) if side > 0 else 0


def pool(maps, boxes, side):
    """(k, c, side, side) of boxes of one image from its maps (c, h, w)."""
    found = [roi_align(maps[level_of(box)], box, STRIDES[level_of(box)], side) for box in boxes]
    return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, maps[0].shape[0], side, side).double()


def assign(boxes, objects, positive, negative, low_quality):
    """Object of each box, -1 negative, -2 ignored."""
    table = np.array([[iou(box, item) for item in objects] for box in boxes]).reshape(len(boxes), len(objects))
    result = []
    for row in table:
        best = row.max() if len(row) else 0.0
        result.append(int(row.argmax()) if best >= positive and len(row) else -1 if best < negative else -2)
    if low_quality is not None:
        for number in range(len(objects)):
            most = table[:, number].max()
            for index in range(len(boxes)):
                if most >= low_quality and table[index, number] == most:
                    result[index] = number
    return result


# ---- layers


def relu_conv_bn(x, state, prefix, padding):
    x = F.conv2d(x, state[f"{prefix}.conv.weight"], padding=padding)
    norm = [state[f"{prefix}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *norm, training=False, eps=1e-5).relu()


def apply_conv(x, state, prefix, padding=0):
    return F.conv2d(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"], padding=padding)


def apply_linear(x, state, prefix):
    return F.linear(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"])


def fpn(state, maps):
    """Five maps from the backbone's four."""
    laterals = [apply_conv(x, state, f"neck.lateral_convs.{level}.conv") for level, x in enumerate(maps)]
    for level in (2, 1, 0):
        above, (height, width) = laterals[level + 1], laterals[level].shape[-2:]
        rows = torch.arange(height) * above.shape[-2] // height
        columns = torch.arange(width) * above.shape[-1] // width
        laterals[level] = laterals[level] + above[..., rows, :][..., columns]
    outputs = [apply_conv(x, state, f"neck.fpn_convs.{level}.conv", 1) for level, x in enumerate(laterals)]
    return [*outputs, outputs[3][..., ::2, ::2]]


def rpn(state, maps):
    """For each level logits (b, n), deltas (b, n, 4) and anchors (n, 4)."""
    levels = []
    for x, stride in zip(maps, STRIDES):
        hidden = apply_conv(x, state, "rpn_head.rpn_conv", 1).relu()
        logits = apply_conv(hidden, state, "rpn_head.rpn_cls").permute(0, 2, 3, 1).reshape(len(x), -1)
        deltas = apply_conv(hidden, state, "rpn_head.rpn_reg").permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        levels.append((logits, deltas, anchors_of(*x.shape[-2:], stride)))
    return levels


def propose(levels, image, size, per_level, keep):
    """Boxes of one image, best first, and their scores."""
    boxes, scores = [], []
    for logits, deltas, anchors in levels:
        score = logits[image].detach().sigmoid().numpy()
        order = np.argsort(-score, kind="stable")[:per_level]
        found = [decode(anchors[i], deltas[image, i].detach().numpy(), (1, 1, 1, 1), size) for i in order]
        sound = [n for n, box in enumerate(found) if box[2] > box[0] and box[3] > box[1]]
        found, score = [found[n] for n in sound], score[order][sound]
        for index in nms(found, score, 0.7):
            boxes.append(found[index])
            scores.append(score[index])
    order = np.argsort(-np.array(scores), kind="stable")[:keep]
    return [boxes[i] for i in order], [scores[i] for i in order]


def box_head(state, prefix, features):
    """Class logits, background last, and deltas (k, n, 4)."""
    x = features
    if f"{prefix}.shared_convs.0.conv.weight" in state:
        for layer in range(4):
            x = relu_conv_bn(x, state, f"{prefix}.shared_convs.{layer}", 1)
    x = apply_linear(x.flatten(1), state, f"{prefix}.shared_fcs.0").relu()
    if f"{prefix}.shared_fcs.1.weight" in state:
        x = apply_linear(x, state, f"{prefix}.shared_fcs.1").relu()
    return apply_linear(x, state, f"{prefix}.fc_cls"), apply_linear(x, state, f"{prefix}.fc_reg").unflatten(1, (-1, 4))


def mask_head(state, prefix, features):
    x = features
    for layer in range(4):
        x = apply_conv(x, state, f"{prefix}.convs.{layer}.conv", 1).relu()
    x = F.conv_transpose2d(x, state[f"{prefix}.upsample.weight"], state[f"{prefix}.upsample.bias"], stride=2).relu()
    return apply_conv(x, state, f"{prefix}.conv_logits")


def stages_of(state, kind):
    """The heads' prefixes."""
    name = f"roi_head.{kind}_head"
    cascade = any(key.startswith(f"{name}.2.") for key in state)
    return [f"{name}.{stage}" for stage in range(3)] if cascade else [name]


def detect(state, maps, size, keep):
    """Boxes, scores, labels and mask probabilities of one image, from the backbone's maps (1, c, h, w)."""
    levels = fpn(state, maps)
    boxes, _ = propose(rpn(state, levels), 0, size, 1000, keep)
    plain = [x[0].numpy() for x in levels[:4]]
    heads = stages_of(state, "bbox")
    logits = []
    for stage, head in enumerate(heads):
        found, deltas = box_head(state, head, pool(plain, boxes, 7))
        logits.append(found)
        if stage + 1 < len(heads):
            likeliest = found[:, :-1].argmax(1).tolist()
            boxes = [
                decode(b, deltas[i, k].numpy(), STDS[stage], size) for i, (b, k) in enumerate(zip(boxes, likeliest))
            ]
    probs = (sum(logits) / len(logits)).softmax(1).numpy()
    results = []
    for label in range(probs.shape[1] - 1):
        chosen = [i for i in range(len(boxes)) if probs[i, label] > 0.05]
        refined = [decode(boxes[i], deltas[i, label].numpy(), STDS[len(heads) - 1], size) for i in chosen]
        scores = [probs[i, label] for i in chosen]
        results += [(scores[i], label, refined[i]) for i in nms(refined, scores, 0.5)]
    results = sorted(results, key=lambda item: -item[0])[:100]
    features = pool(plain, [box for _, _, box in results], 14)
    masks = sum(mask_head(state, head, features).sigmoid() for head in stages_of(state, "mask")) / len(heads)
    labels = [label for _, label, _ in results]
    return {
        "boxes": np.array([box for _, _, box in results]).reshape(-1, 4),
        "scores": np.array([score for score, _, _ in results]),
        "labels": np.array(labels),
        "mask_probs": masks[torch.arange(len(labels)), labels].numpy(),
    }


# ---- losses, where everything that can be drawn is drawn


def rpn_losses(levels, sizes, objects, border, beta):
    """Sums over images of the two losses, over all drawn; `border`: whether anchors over the edge take part."""
    class_loss, box_loss, drawn = 0.0, 0.0, 0
    for image, (size, truth) in enumerate(zip(sizes, objects)):
        usable = []
        for level, (_, _, anchors) in enumerate(levels):
            for index, box in enumerate(anchors):
                if border:
                    canvas = [math.ceil(side / 32) * 32 for side in size]
                    x, y = (box[0] + box[2]) / 2 / STRIDES[level], (box[1] + box[3]) / 2 / STRIDES[level]
                    inside = y < math.ceil(canvas[0] / STRIDES[level]) and x < math.ceil(canvas[1] / STRIDES[level])
                else:
                    inside = box[0] >= 0 and box[1] >= 0 and box[2] < size[1] and box[3] < size[0]
                if inside:
                    usable.append((level, index, box))
        assigned = assign([box for _, _, box in usable], truth, 0.7, 0.3, 0.3)
        drawn += max(sum(a >= 0 for a in assigned), 1) + max(sum(a == -1 for a in assigned), 1)
        for (level, index, box), found in zip(usable, assigned):
            logit, delta = levels[level][0][image, index], levels[level][1][image, index]
            if found != -2:
                class_loss = class_loss + F.softplus(-logit if found >= 0 else logit)
            if found >= 0:
                distance = (delta - torch.from_numpy(encode(box, truth[found], (1, 1, 1, 1)))).abs()
                if beta:
                    distance = torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
                box_loss = box_loss + distance.sum()
    return class_loss / drawn, box_loss / drawn


def roi_losses(state, levels, proposals, sizes, targets, classes):
    """The losses of every stage as a list of (class, box, mask), weighted; every region is drawn.

    levels: maps (b, c, h, w). targets: boxes, labels, masks as arrays.
    """
    heads, mask_heads = stages_of(state, "bbox"), stages_of(state, "mask")
    cascade = len(heads) == 3
    losses = []
    for stage, (head, mask_prefix) in enumerate(zip(heads, mask_heads)):
        weight = WEIGHTS[stage] if cascade else 1.0
        total = [0.0, 0.0, 0.0]
        count, mask_count, following = 0, 0, []
        for image, (boxes, target) in enumerate(zip(proposals, targets)):
            plain = [x[image].detach().numpy() for x in levels[:4]]
            truth = list(target["boxes"])
            iou_wanted = IOUS[stage]
            found = assign(boxes, truth, iou_wanted, iou_wanted, None if cascade else iou_wanted)
            regions = [*truth, *boxes]
            found = [*range(len(truth)), *found]
            logits, deltas = box_head(state, head, pool(plain, regions, 7))
            masks = mask_head(state, mask_prefix, pool(plain, regions, 14))
            moved = []
            for index, (box, thing) in enumerate(zip(regions, found)):
                label = int(target["labels"][thing]) if thing >= 0 else classes
                count += 1
                total[0] = total[0] - logits[index].log_softmax(0)[label]
                guess = label if thing >= 0 else int(logits[index, :-1].argmax())
                if index >= len(truth):
                    moved.append(decode(box, deltas[index, guess].detach().numpy(), STDS[stage], sizes[image]))
                if thing < 0:
                    continue
                delta = deltas[index, label]
                if cascade:
                    predicted = decode(box, delta.detach().numpy(), STDS[stage])
                    total[1] += 10 * (1 - giou(predicted, truth[thing]))
                else:
                    wanted = torch.from_numpy(encode(box, truth[thing], STDS[0]))
                    total[1] = total[1] + (delta - wanted).abs().sum()
                mask = roi_align(target["masks"][thing][None].astype(float), box, 1, 28)[0] >= 0.5
                logit = masks[index, label]
                total[2] = total[2] + F.softplus(torch.where(torch.from_numpy(mask), -logit, logit)).sum()
                mask_count += 28 * 28
            following.append(moved)
        losses.append([weight * total[0] / count, weight * total[1] / count, weight * total[2] / mask_count])
        proposals = following
    return losses


# ---- segmentation


def resize(x, size):
    """Bilinear at half-pixel centres, by two matrices."""

    def weights(old, new):
        matrix = np.zeros((new, old))
        for i in range(new):
            place = max((i + 0.5) * old / new - 0.5, 0)
            low = min(int(place), old - 1)
            high = min(low + 1, old - 1)
            matrix[i, low] += 1 - (place - low)
            matrix[i, high] += place - low
        return torch.from_numpy(matrix)

    return weights(x.shape[-2], size[0]) @ x @ weights(x.shape[-1], size[1]).T


def bins(length, count):
    """First and last cell of each bin of an adaptive pooling."""
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def adaptive_pool(x, count):
    parts = [
        [x[..., top:bottom, left:right].mean((-2, -1)) for left, right in bins(x.shape[-1], count)]
        for top, bottom in bins(x.shape[-2], count)
    ]
    return torch.stack([torch.stack(row, -1) for row in parts], -2)


def uper_head(state, maps):
    """UPerNet's logits at stride 4."""
    last = maps[3]
    parts = [
        resize(relu_conv_bn(adaptive_pool(last, count), state, f"decode_head.psp_modules.{n}.1", 0), last.shape[-2:])
        for n, count in enumerate((1, 2, 3, 6))
    ]
    laterals = [relu_conv_bn(x, state, f"decode_head.lateral_convs.{n}", 0) for n, x in enumerate(maps[:3])]
    laterals.append(relu_conv_bn(torch.cat([last, *parts], 1), state, "decode_head.bottleneck", 1))
    for level in (2, 1, 0):
        laterals[level] = laterals[level] + resize(laterals[level + 1], laterals[level].shape[-2:])
    outputs = [relu_conv_bn(laterals[n], state, f"decode_head.fpn_convs.{n}", 1) for n in range(3)] + [laterals[3]]
    joined = torch.cat([resize(x, outputs[0].shape[-2:]) for x in outputs], 1)
    return apply_conv(relu_conv_bn(joined, state, "decode_head.fpn_bottleneck", 1), state, "decode_head.conv_seg")


def aux_head(state, maps):
    """The auxiliary logits at stride 16."""
    return apply_conv(relu_conv_bn(maps[2], state, "auxiliary_head.convs.0", 1), state, "auxiliary_head.conv_seg")

"""A linear layer over tokens, shared by all channels.

Shapes: b batch, n tokens in, m tokens out, c channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TokenLinear(nn.Linear):
    """y[b, m, c] = sum_n weight[m, n] x[b, n, c] + bias[m].

    Equal to `nn.Linear` on the transposed tensor, written as weight times X so that no transpose is ever materialised,
    neither here nor in the backward pass. Holds `weight` (m, n) and `bias` (m) like `nn.Linear`; sizes are read from
    the weight, so that the weight can be replaced when the image size changes.
    """

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
        """Map (b, n, c) to (b, m, c)."""
        if torch.compiler.is_exporting():  # runtimes repeat the matrix themselves, as they like it best
            y = torch.matmul(self.weight, x)
            return y if self.bias is None else y + self.bias[:, None]
        # Not `matmul`: with a matrix to be trained on its left it turns to a linear layer on transposed copies.
        weight = self.weight.expand(x.shape[0], -1, -1)
        return torch.bmm(weight, x) if self.bias is None else torch.baddbmm(self.bias[:, None], weight, x)

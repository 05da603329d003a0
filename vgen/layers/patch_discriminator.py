"""A critic of clips that judges every patch of every few frames by itself (Isola et al. 2017, section 3.2.2;
over frames in Blattmann et al. 2023, Align your Latents, section 3.1.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
FRAMES, PIXELS = 3, 4
"""What one convolution sees."""


class PatchDiscriminator(nn.Module):
    """Clips b f 3 H W to scores b f h w, high where a patch looks real. Each of ``depth`` convolutions halves
    the sides, and each but the first doubles the channels.

    It normalises nothing: statistics of a batch would tell real clips from made ones by their company.
    """

    def __init__(self, channels: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [3, *(channels * 2**level for level in range(depth))]
        kernel, padding = (FRAMES, PIXELS, PIXELS), (1, 1, 1)
        self.convs = nn.ModuleList(
            nn.Conv3d(widths[i], widths[i + 1], kernel, stride=(1, 2, 2), padding=padding)
            for i in range(depth)
        )
        # what a bias adds to real and made clips alike the hinge loss takes away again
        self.conv_out = nn.Conv3d(widths[-1], 1, FRAMES, padding=1, bias=False)

    def forward(self, video: Tensor) -> Tensor:
        x = video.transpose(1, 2)  # b c f h w
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        return self.conv_out(x)[:, 0]

"""LPIPS without torchvision: the trunk's layers are written down here, its weights are torchvision's local
file, the heads torchmetrics'.

torchmetrics' own class downloads the trunk when it is built, so it is not used; tests hold this one equal to
it.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from torch import Tensor, nn

from vgen.metrics.learned.settings import LpipsNet
from vgen.metrics.learned.weights import Slot, read_state

LPIPS = Slot(
    "lpips",
    "torchvision's ImageNet file of the trunk: alexnet-owt-7be5be79.pth, vgg16-397923af.pth or "
    "squeezenet1_1-b8a52dc0.pth (the name ends "
    "in the first digits of its sha256), with lpips_net to match",
)
# Layers whose outputs are compared, as positions in torchvision's `features`.
TAPS = {
    LpipsNet.ALEX: (1, 4, 7, 9, 11),
    LpipsNet.VGG: (3, 8, 15, 22, 29),
    LpipsNet.SQUEEZE: (1, 4, 7, 9, 10, 11, 12),
}
_VGG = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


class Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016, section 3.1), with torchvision's names."""

    def __init__(self, width: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def trunk(kind: LpipsNet) -> nn.Sequential:
    """torchvision's ``features`` of the network, up to the last layer that LPIPS reads."""
    match kind:
        case LpipsNet.ALEX:
            return nn.Sequential(
                nn.Conv2d(3, 64, 11, 4, 2),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1),
                nn.ReLU(),
            )
        case LpipsNet.VGG:
            layers: list[nn.Module] = []
            width = 3
            for step in _VGG:
                layers += (
                    [nn.MaxPool2d(2, 2)]
                    if isinstance(step, str)
                    else [nn.Conv2d(width, step, 3, padding=1), nn.ReLU()]
                )
                width = width if isinstance(step, str) else step
            return nn.Sequential(*layers)
        case LpipsNet.SQUEEZE:

            def pool() -> nn.Module:
                return nn.MaxPool2d(3, 2, ceil_mode=True)

            return nn.Sequential(
                nn.Conv2d(3, 64, 3, 2),
                nn.ReLU(),
                pool(),
                Fire(64, 16, 64),
                Fire(128, 16, 64),
                pool(),
                Fire(128, 32, 128),
                Fire(256, 32, 128),
                pool(),
                Fire(256, 48, 192),
                Fire(384, 48, 192),
                Fire(384, 64, 256),
                Fire(512, 64, 256),
            )


class Lpips(nn.Module):
    """Distance of two batches n 3 h w in [-1, 1], n numbers."""

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor]) -> None:
        super().__init__()
        self.features, self.taps = features, taps
        self.heads = nn.ParameterList(
            [nn.Parameter(head, requires_grad=False) for head in heads]
        )  # 1 c 1 1 each
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self._activations(a), self._activations(b), self.heads, strict=True)
        return sum(((one - other).square() * head).sum(1).mean((1, 2)) for one, other, head in pairs)

    def _activations(self, x: Tensor) -> list[Tensor]:
        x, found = (x - self.shift) / self.scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found


def load_lpips(path: Path, kind: LpipsNet) -> Lpips:
    """``path``: torchvision's state file of the network ``kind``. Raises ValueError where it is another
    network's."""
    state = read_state(path, "lpips")
    features = trunk(kind)
    wanted = features.state_dict()
    found = {
        key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")
    }
    wrong = [key for key, value in wanted.items() if key not in found or found[key].shape != value.shape]
    if wrong:
        raise ValueError(
            f"lpips.path={path} must be torchvision's file of {kind.value}, but features.{wrong[0]} "
            "differs; set lpips_net"
        )
    features.load_state_dict({key: found[key] for key in wanted})
    return Lpips(features, TAPS[kind], _heads(kind)).eval().requires_grad_(False)


def _heads(kind: LpipsNet) -> list[Tensor]:
    """The learnt channel weights (version 0.1), which torchmetrics ships."""
    file = importlib.resources.files("torchmetrics.functional.image") / "lpips_models" / f"{kind.value}.pth"
    with importlib.resources.as_file(file) as path:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"] for i in range(len(TAPS[kind]))]

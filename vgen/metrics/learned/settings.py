"""Where the weights of the plug-in metrics lie, and the few settings that change a number."""

from __future__ import annotations

import re

from vgen.spec import Choice, field, spec


@spec
class Weights:
    """A local file or folder. ``sha256`` (see ``weights.digest``) is checked when given; nothing is ever
    downloaded."""

    path: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        self.sha256 = self.sha256.lower()
        if self.sha256 and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(
                f"sha256 must be 64 hexadecimal digits, got {self.sha256!r}; 'sha256sum FILE' prints them"
            )


class LpipsNet(Choice):
    ALEX = "alex"
    VGG = "vgg"
    SQUEEZE = "squeeze"


class FlowOf(Choice):
    """Whose motion is estimated where no flow is given: the videos' own, or their sources'."""

    VIDEOS = "videos"
    SOURCES = "sources"


@spec
class Minimums:
    """Fewest clips (or frames, for pictures) on either side of a set distance. Fréchet distances fall
    several-fold with the sample size: the usual sizes are 2048 clips and 10,000 pictures."""

    frechet_clips: int = 256
    mmd_clips: int = 16
    frechet_frames: int = 2048
    mmd_frames: int = 64

    def __post_init__(self) -> None:
        for name in ("frechet_clips", "mmd_clips", "frechet_frames", "mmd_frames"):
            if getattr(self, name) < 2:
                raise ValueError(
                    f"learned.minimums.{name} must be 2 or more, since one sample has no spread, got "
                    f"{getattr(self, name)}"
                )


@spec
class VBenchPackage:
    """``python``: the interpreter of an environment with the package. ``cache``: the folder with its weights
    (its VBENCH_CACHE_DIR). ``fps``: frames a second of the clips, by which dynamic_degree thins them to about
    8."""

    python: str = ""
    cache: str = ""
    fps: float = 8.0


@spec
class LearnedMetrics:
    """Where each network lies, and how it runs. ``batch_size``: frames at once (video networks read clip by
    clip); it changes no number."""

    clip: Weights = field(default_factory=Weights)
    dino: Weights = field(default_factory=Weights)
    pick: Weights = field(default_factory=Weights)
    aesthetic: Weights = field(default_factory=Weights)
    lpips: Weights = field(default_factory=Weights)
    lpips_net: LpipsNet = LpipsNet.ALEX
    inception: Weights = field(default_factory=Weights)
    i3d: Weights = field(default_factory=Weights)
    videomae: Weights = field(default_factory=Weights)
    flow_of: FlowOf = FlowOf.VIDEOS
    minimums: Minimums = field(default_factory=Minimums)
    vbench: VBenchPackage = field(default_factory=VBenchPackage)
    batch_size: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more frames, got {self.batch_size}; 32 is the default")

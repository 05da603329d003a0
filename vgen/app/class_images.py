"""``vgen prepare data=class_images``: pictures of a subject's class, drawn by the image model as it is (Ruiz
et al. 2022, section 3.3). They are drawn once; a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vgen.app.drawn_pairs import artist
from vgen.app.loading import TOYBOX
from vgen.backbones.skeleton import native_px
from vgen.data.clip_files import to_uint8
from vgen.data.decode import Cut
from vgen.data.ledger import Rejection
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source, safe_key
from vgen.diffusion.guidance import check_scale
from vgen.methods import Sampling
from vgen.methods._sampling import Prompt, generate
from vgen.spec import spec


@spec
class ClassImages(Source):
    """``num_images`` pictures of ``prompt``, drawn by the image model ``backbone``; picture ``i`` depends on
    ``(seed, i)`` alone."""

    prompt: str = ""
    negative: str = ""
    num_images: int = 200
    seed: int = 0
    backbone: str = TOYBOX
    num_steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        check_scale(self.guidance)
        if min(self.num_images, self.num_steps) < 1:
            raise ValueError(
                "class images need num_images and num_steps of at least 1, got "
                f"{self.num_images} and {self.num_steps}; 200 and 50 are usual"
            )

    def name(self) -> str:
        return f"class-{safe_key(self.prompt.strip().replace(' ', '-'))}"

    def usual(self) -> tuple[int, Video]:
        """Pictures as large as the image model draws them, which is what its subjects are, too."""
        return (64 if self.backbone == TOYBOX else native_px(Path(self.backbone).expanduser())), Video.npy

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        if not self.prompt.strip():
            raise ValueError('data.prompt names no class; give it without the subject, as "a photo of a dog"')
        return [self._job(row, cut) for row in range(self.num_images)]

    def _job(self, row: int, cut: Cut) -> Job:
        return ClassImageJob(row=row, key=f"class-{row:08d}", source=self.prompt[:80], how=self, cut=cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImageJob(Job):
    """One picture."""

    how: ClassImages
    cut: Cut

    def samples(self, scratch: Path) -> Iterator[Sample]:
        how, side = self.how, self.cut.size_px
        sampling = Sampling(
            num_frames=1, num_steps=how.num_steps, guidance=how.guidance, width_px=side, height_px=side
        )
        seed = how.seed * 1_000_003 + self.row
        prompt = Prompt(how.prompt, seed, how.negative)
        pixels = generate(artist(how.backbone), [prompt], sampling)[0]
        facts = {"fps": self.cut.fps, "num_frames": 1, "seed": seed, "num_steps": how.num_steps}
        yield Sample(self.key, to_uint8(pixels), how.prompt, facts)

"""A folder of pictures as a source: each is one frame, squared, with a caption out of a template."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vgen.data.bounded import opened
from vgen.data.decode import Cut
from vgen.data.fields import Needs
from vgen.data.ledger import Reason, Rejected, Rejection
from vgen.data.one_clip import OneClip, as_rgb, squared
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source, safe_key
from vgen.spec import spec

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST_ENLARGED = 2
"""How many times a picture's short side may be enlarged; more would teach blur."""
TEXT, FOLDER = "text", "folder"
"""What a template may ask for: the words of the .txt beside a picture, the name of the folder that it lies
in."""


@spec
class PictureSource(Source):
    """Pictures of a folder and its subfolders. ``prompt`` is the caption of all; in it ``{text}`` stands for
    the ``.txt`` beside a picture, ``{folder}`` for the name of its folder. A picture that is not square is
    cut at ``num_crops`` places along its long side."""

    path: str | None = None
    prompt: str = "{text}"
    num_crops: int = 1

    def __post_init__(self) -> None:
        check_template(self.prompt)
        if self.num_crops < 1:
            raise ValueError(f"data.num_crops must be at least 1, got {self.num_crops}; 1 is the middle")

    def name(self) -> str:
        return self._folder().resolve().name

    def usual(self) -> tuple[int, Video]:
        return 512, Video.npy

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        folder = self._folder()
        files = pictures_of(folder)
        return [self._job(row, file, folder, cut) for row, file in enumerate(files)]

    def _folder(self) -> Path:
        if self.path is None:
            raise ValueError("data=images needs the folder of pictures: data.path=FOLDER")
        return folder_of(self.path, "data.path")

    def _job(self, row: int, file: Path, folder: Path, cut: Cut) -> Job | Rejection:
        name = file.relative_to(folder)
        shown = name.as_posix().encode("utf-8", "backslashreplace").decode()
        suffix = name.suffix.removeprefix(".")
        key = safe_key(f"{name.with_suffix('').as_posix()}-{suffix}")
        where: dict[str, Any] = {"row": row, "key": key, "source": shown}
        try:
            caption = caption_of(self.prompt, file)
        except ValueError as error:
            return Rejection(**where, reason=Reason.MISSING_CAPTION, detail=str(error))
        return PictureJob(
            **where,
            location=str(file.absolute()),
            caption=caption,
            cut=cut,
            num_crops=self.num_crops,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureJob(Job):
    """One picture, cut at ``num_crops`` places."""

    location: str
    caption: str
    cut: Cut
    num_crops: int = 1

    def samples(self, scratch: Path) -> Iterator[Sample]:
        image = read_picture(Path(self.location), self.cut.size_px)
        for number, place in enumerate(places(image, self.num_crops)):
            facts = {"fps": self.cut.fps, "num_frames": 1, "source": self.source, "crop": number}
            pixels = squared(image, self.cut.size_px, place)
            yield Sample(f"{self.key}-{number:04d}", pixels[None], self.caption, facts)

    def identity(self) -> dict[str, Any]:
        path = Path(self.location)
        return {
            "key": self.key,
            "source": self.source,
            "caption": self.caption,
            "num_bytes": path.stat().st_size if path.is_file() else None,
        }


def folder_of(path: str, key: str) -> Path:
    """The folder that ``key`` names. Raises ValueError where it is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{key}={path} is no folder; give one that holds the pictures of a subject")
    return folder


def pictures_of(folder: Path) -> list[Path]:
    """The picture files of a folder and below, by name. Raises ValueError where there is none."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    found = sorted(files, key=lambda file: file.relative_to(folder).as_posix())
    if not found:
        raise ValueError(
            f"folder {folder} holds no picture; looked for {' '.join(PICTURE_SUFFIXES)} in it and below"
        )
    return found


def check_template(template: str) -> None:
    """Raises ValueError for a template that asks for what no picture has."""
    try:
        asked = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"data.prompt={template!r} is no template ({error}); write {{{{ for {{") from error
    unknown = sorted(asked - {TEXT, FOLDER})
    if unknown:
        raise ValueError(
            f"data.prompt={template!r} asks for {{{unknown[0]}}}; a picture has {{{TEXT}}}, the .txt beside "
            f"it, and {{{FOLDER}}}, the name of its folder"
        )


def caption_of(template: str, picture: Path) -> str:
    """The caption of a picture. Raises ValueError where the template asks for a text that is not there."""
    beside = picture.with_suffix(".txt")
    text = beside.read_text(encoding="utf-8-sig").strip() if beside.is_file() else ""
    if f"{{{TEXT}}}" in template and not text:
        raise ValueError(
            f"no text in {beside.name} beside it; write one, or leave {{text}} out of data.prompt"
        )
    said = template.format(**{TEXT: " ".join(text.split()), FOLDER: picture.parent.name})
    if not said.strip():
        raise ValueError('data.prompt is empty; give the caption of all, as data.prompt="a photo of a dog"')
    return said


def read_picture(path: Path, size_px: int) -> Image.Image:
    """RGB, the way up that its EXIF says, what is transparent on white. Raises Rejected where it is no sound
    picture, or so small that ``size_px`` would enlarge it beyond MOST_ENLARGED."""
    try:
        with opened(path) as file:
            image = as_rgb(ImageOps.exif_transpose(file))
    except ValueError as error:
        raise Rejected(Reason.TOO_LARGE, f"{error}; give a smaller picture") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise Rejected(Reason.CORRUPT, "it is damaged, or no picture; save it again as PNG") from error
    least = -(-size_px // MOST_ENLARGED)
    if min(image.size) < least:
        raise Rejected(
            Reason.TOO_SMALL,
            f"it has {image.width} x {image.height} px, and {size_px} px are learnt from sides of {least} "
            "or more; give larger pictures, or size_px lower",
        )
    return image


def places(image: Image.Image, num_crops: int) -> list[float]:
    """Where squares are cut out of the long side, 0 to 1; a square picture has one place."""
    if num_crops == 1 or image.width == image.height:
        return [0.5]
    return [i / (num_crops - 1) for i in range(num_crops)]


class Pictures(OneClip):
    """The pictures of a folder in memory, as a sequence of samples of one frame."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)
        self._name(b"".join(_content(sample) for sample in self.samples))

    def reading(self, needs: Needs) -> Pictures:
        """The same pictures. Raises ValueError where more than pictures and captions is required."""
        more = [name for name in needs.names if name in needs.required - {"caption", "video"}]
        if more:
            raise ValueError(
                f"a folder of pictures has no {' and no '.join(more)}, which is required: give "
                "data.path=FOLDER with shards that have it in place of data.images"
            )
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Sample:
        return self.samples[i]


def _content(sample: Sample) -> bytes:
    assert isinstance(sample.video, np.ndarray)  # of a picture
    return sample.video.tobytes() + f"{sample.id}\0{sample.caption}\0".encode()


def read_pictures(path: str, prompt: str, size_px: int, num_crops: int = 1) -> Pictures:
    """The pictures of ``data.images``. Raises ValueError with the picture's name where one can't be used:
    of three to five none is left out in silence."""
    folder_of(path, "data.images")
    source = PictureSource(path=path, prompt=prompt or f"{{{TEXT}}}", num_crops=num_crops)
    samples: list[Sample] = []
    for job in source.jobs(Cut(fps=8.0, num_frames=1, size_px=size_px)):
        try:
            if isinstance(job, Rejection):
                raise Rejected(job.reason, job.detail)
            samples += job.samples(folder_of(path, "data.images"))
        except Rejected as error:
            told = f"{job.source}: {error.reason.value} ({error.detail})"
            raise ValueError(f"data.images={path}, picture {told}") from error
    return Pictures(samples)

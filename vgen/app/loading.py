"""Opening what a command names: an image model, and a checkpoint on top of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgen.app.stacks import SHIPPED, TOYBOX, UNTRAINED, Layer, StackEntry, opened, read_for, stacked
from vgen.backbones.absent import NO_IMAGE_MODEL, no_image_model
from vgen.backbones.blank import Blank, blank
from vgen.backbones.cpu import BF16_COSTS, HAS_BF16
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import load
from vgen.backbones.video_unet import VideoUNet
from vgen.formats.adapter import Card, put, unet_fingerprint
from vgen.methods import Recipe, VideoModel, usual
from vgen.methods._assembly import Part, assemble_stack, leader
from vgen.methods._objectives import Denoising
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides, as_trained, draw_latents, generate
from vgen.resources import data_dir
from vgen.spec import spec
from vgen.training.allocator import keep_freed_memory

log = logging.getLogger(__name__)
NONE = "none"
"""``adapter=none``: a stack alone, or the image model alone, which draws frame by frame."""
SHIPPED_GUIDANCE = 5.0
"""What the miniature model draws well with; its method's own is of Stable Diffusion."""


@spec
class Backbone:
    """``path`` is ``toybox``, a diffusers-layout folder, or a hub id (``owner/name``, the only thing that
    downloads); empty, it has still to be given.

    ``blank`` gives random weights of known shapes instead, drawn with ``seed``.
    """

    path: str = TOYBOX
    blank: Blank | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blank is not None and self.path not in ("", TOYBOX):
            raise ValueError(
                f"backbone.path={self.path} and backbone.blank={self.blank.value} are both given; random "
                "weights need no folder"
            )
        if self.blank is None and self.seed:
            raise ValueError(
                f"backbone.seed={self.seed} draws the random weights of backbone.blank and does nothing "
                "without it; leave it out, or run.seed is what you mean"
            )

    def open(self) -> ImageModel:
        """Raises ValueError where no image model is named, or there is none of that name."""
        if self.blank is None and not self.path:
            raise ValueError(
                "backbone=folder names no image model; give backbone.path=FOLDER with one in diffusers' "
                "layout, or a hub id"
            )
        return load_backbone(self.path if self.blank is None else f"blank:{self.blank.value}:{self.seed}")


def load_backbone(name: str, named_by: str = "") -> ImageModel:
    """An image model by name, frozen, fp32; ``blank:SIZE:SEED`` is how cards name random weights. Raises
    ValueError where there is none.

    ``named_by`` says whose card gave the name, as ``adapter=FILE``: only what a person names is fetched from
    the hub.
    """
    if name == NO_IMAGE_MODEL:
        return no_image_model()
    if random := re.fullmatch(rf"blank:({'|'.join(size.value for size in Blank)}):(\d+)", name):
        model = blank(Blank(random[1]), int(random[2])).freeze()
        model.source = name
        return model
    folder = data_dir() / TOYBOX if name == TOYBOX else Path(name).expanduser()
    if name == TOYBOX and not folder.is_dir():
        raise ValueError(
            f"the shipped toybox model is not at {folder}; install vgen from a complete checkout or name a "
            "folder as backbone"
        )
    source = TOYBOX if name == TOYBOX else str(folder.absolute())  # cards are read from other directories
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        folder, source = _of_hub(name, named_by), name
    if folder.is_file():
        raise ValueError(
            f"backbone {name} is a file; unfold it with 'vgen export from={name} to=image_model "
            "backbone=FOLDER out=OUT', where FOLDER "
            "holds the configurations of its family, and give OUT"
        )
    if not folder.is_dir():
        raise ValueError(
            _gone(name, named_by)
            if named_by
            else f"backbone {name} is no folder; give a diffusers-layout Stable Diffusion folder, a hub id "
            "(owner/name), or toybox"
        )
    model = load(folder).freeze()
    model.source = source
    return model


def _of_hub(name: str, named_by: str) -> Path:
    """Weights as safetensors, configs and vocabularies, nothing else; what a card names comes from the hub's
    cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    if not named_by:
        log.warning(
            "backbone %s is no folder here: it is being fetched from the hub", name
        )  # seen under every verb's logging
    try:
        found = snapshot_download(
            name,
            allow_patterns=wanted,
            ignore_patterns=["*nonema*", "*ema_only*"],
            local_files_only=bool(named_by),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            _gone(name, named_by)
            if named_by
            else f"backbone {name} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}); "
            "give a local folder"
        ) from error
    return Path(found)


def _gone(name: str, named_by: str) -> str:
    return (
        f"{named_by} was trained on image model {name}, which is no folder here and not in the hub's cache; "
        "backbone= names it (a folder, or a hub id, which is then fetched)"
    )


@dataclass(slots=True)
class Checkpoint:
    """An image model with a method assembled in it, ready to draw clips.

    ``fingerprint`` is the image UNet's before it was cast. ``beside`` names what lies in the slots of its
    stack, with hashes and scales; ``layers`` are the adapters that were read for it, in their order.
    """

    video_model: VideoModel
    recipe: Recipe
    card: Card | None
    name: str
    fingerprint: str = ""
    beside: list[dict[str, Any]] = field(default_factory=list)
    layers: Sequence[Layer] = ()

    @property
    def model(self) -> ImageModel:
        return self.video_model.model

    @property
    def unet(self) -> VideoUNet:
        return self.video_model.unet

    def sampling(self, given: SamplingOverrides) -> Sampling:
        """The method's own numbers at the frames and the size of its training, but for what is given."""
        own = as_trained(self.recipe.sampling(), self.card.summary if self.card else {})
        return given.over(replace(own, guidance=SHIPPED_GUIDANCE) if self.name == SHIPPED else own)

    def sample(
        self,
        prompts: list[Prompt],
        sampling: Sampling,
        on_step: Callable[[], None] = lambda: None,
        fields: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Clips in [-1, 1], b f 3 H W; ``fields`` have one row, or one per clip."""
        num = len(prompts)
        rows = {name: x.expand(num, *x.shape[1:]) for name, x in (fields or {}).items()}
        return generate(self.video_model, prompts, sampling, on_step, rows)

    def latents(
        self,
        prompts: list[Prompt],
        sampling: Sampling,
        on_step: Callable[[], None] = lambda: None,
        fields: Mapping[str, Tensor] | None = None,
        part: str = "clip",
    ) -> Tensor:
        """The same before they are decoded, b f c h w."""
        rows = {name: x.expand(len(prompts), *x.shape[1:]) for name, x in (fields or {}).items()}
        return draw_latents(self.video_model, prompts, sampling, on_step, rows, part)


def open_checkpoint(
    adapter: str,
    backbone: str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    untrained: Recipe | None = None,
    stack: Sequence[StackEntry] = (),
    loras: Sequence[StackEntry] = (),
) -> Checkpoint:
    """The adapter in its image model, over the adapters that it was trained on and beside those of ``stack``
    and the low-rank layers of ``loras``.

    ``backbone`` overrides the card's; ``untrained`` is the recipe of ``adapter=untrained``. Raises ValueError
    where an adapter was trained on another image model, or its base is gone or has changed.
    """
    found = [] if adapter in (UNTRAINED, NONE) else opened(adapter, f"adapter={adapter}")
    found += stacked(stack, loras)
    first = next((layer for layer in found if isinstance(layer, Layer)), None)
    name = backbone or (first.card.backbone_source if first else TOYBOX)
    model = load_backbone(name, "" if backbone or first is None else first.named)
    fingerprint = unet_fingerprint(model.unet)
    layers = read_for(model, found)
    for layer in layers:
        layer.refuse_misfit(model, name, fingerprint)
    parts = [Part("", untrained or usual())] if adapter == UNTRAINED else []
    parts += [Part(layer.slot, layer.recipe, layer.scale) for layer in layers]
    parts = parts or [Part("", Recipe())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        video_model = assemble_stack(parts, model)
    for layer in layers:
        put(video_model.components(), layer.tensors, layer.recipe.learns(), layer.named, layer.slot)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place == "cpu":
        keep_freed_memory()
    if place == "cpu" and dtype is torch.bfloat16 and not HAS_BF16:
        log.warning("dtype=bf16: %s; use dtype=fp32", BF16_COSTS)
    video_model.to(place, dtype)
    own = next((layer for layer in layers if not layer.slot), None)
    recipe = leader(parts, model) if own is None else own.recipe
    beside = [layer.as_base() for layer in layers if layer.slot]
    return Checkpoint(video_model, recipe, own.card if own else None, adapter, fingerprint, beside, layers)


def refuse_undrawable(checkpoint: Checkpoint) -> None:
    """Raises ValueError where the checkpoint's method learns something else than to denoise."""
    objective = checkpoint.recipe.objective(checkpoint.model)
    if not isinstance(objective, Denoising):
        raise ValueError(
            f"{type(checkpoint.recipe).__name__} learns {type(objective).__name__}, not Denoising, so no "
            "clip "
            "can be drawn with it; choose a method that inserts layers or edits ('vgen show METHOD' says its "
            "objective)"
        )

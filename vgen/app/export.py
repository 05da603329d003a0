"""``vgen export``: an adapter in the format another program reads, or theirs in ours; what is written has
proved itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vgen.app.config import run_hydra
from vgen.app.loading import load_backbone
from vgen.app.plain import from_plain
from vgen.app.refusals import refusal
from vgen.app.stacks import adapter_path, recipe_of
from vgen.backbones.image_model import ImageModel
from vgen.formats import animatediff, diffusers_motion, proof, single_file, state_file, tune_a_video
from vgen.formats.adapter import Card, load_adapter, plain, put, save_adapter, unet_fingerprint
from vgen.formats.animatediff import ROWS_IF_ABSENT, Imported
from vgen.formats.readers import identify, unsaid
from vgen.formats.state_file import Container
from vgen.layers.norm import NormScope
from vgen.methods import Recipe, assemble
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.tune_a_video import TuneAVideo
from vgen.resources import conf_dir
from vgen.spec import Choice, spec

CARD_KEY, CARD_FILE = "vgen_card", "vgen.json"
PROOF_FRAMES = 4


class Format(Choice):
    VGEN = "vgen"
    ANIMATEDIFF = "animatediff"
    DIFFUSERS = "diffusers"
    IMAGE_MODEL = "image_model"


class Width(Choice):
    FP32 = "fp32"
    FP16 = "fp16"


FOREIGN = ("pt", "pth", "bin")
KNOWN = {Format.ANIMATEDIFF: ".safetensors or .ckpt", Format.VGEN: ".safetensors or a folder"}
DTYPE = {Width.FP32: torch.float32, Width.FP16: torch.float16}


@spec
class Export:
    """``run`` is a run's folder or an adapter, ``source`` (``from=``) a file or folder of another program;
    one of both.

    ``container`` follows the suffix of ``out`` unless it is given. ``num_positions`` is for files that carry
    no table. ``to=image_model`` unfolds a Stable Diffusion file into a diffusers folder; there ``backbone``
    holds the configurations of its family.
    """

    run: str = ""
    source: str = ""
    to: Format = Format.ANIMATEDIFF
    out: str = ""
    backbone: str = ""
    dtype: Width = Width.FP32
    container: Container | None = None
    num_positions: int = 0

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.source):
            raise ValueError(
                "vgen export needs one of run=FOLDER (ours, to write) and from=FILE (theirs, to import)"
            )
        if not self.out:
            raise ValueError("vgen export needs the file or folder to write: out=PATH")
        if self.source and not self.backbone:
            raise ValueError(
                "an imported motion module needs the image model that it was trained on: backbone=FOLDER "
                "(or toybox)"
            )
        if self.to is Format.IMAGE_MODEL and not self.source:
            raise ValueError(
                "to=image_model unfolds a Stable Diffusion file: give it with from=FILE; a run that trained "
                "an image "
                "model holds it in image_model/ already"
            )
        if self.num_positions < 0 or (self.num_positions and self.run):
            raise ValueError(
                "num_positions is for imported files that carry no position table, got "
                f"{self.num_positions}; leave it out"
            )
        suffix = Path(self.out).suffix.removeprefix(".")
        if self.container and suffix in ("safetensors", "ckpt") and suffix != self.container.value:
            raise ValueError(
                f"out={self.out} ends in .{suffix}, container={self.container.value} says otherwise; give "
                "one of them"
            )
        if suffix in FOREIGN and self.to in KNOWN:
            raise ValueError(
                f"out={self.out} ends in .{suffix}, to={self.to.value} is written as {KNOWN[self.to]}; "
                "choose one of these"
            )
        if self.to is not Format.ANIMATEDIFF and (self.container is Container.CKPT or suffix == "ckpt"):
            raise ValueError(
                f"to={self.to.value} is written as safetensors only, got container ckpt; to=animatediff "
                "knows .ckpt"
            )

    def path(self) -> Path:
        """What will be written: a file, or diffusers' folder."""
        out = Path(self.out).expanduser()
        if self.to in (Format.DIFFUSERS, Format.IMAGE_MODEL):
            return out
        if self.to is Format.VGEN:
            return out if out.suffix == ".safetensors" else out / "adapter.safetensors"
        if out.suffix in (".safetensors", ".ckpt"):
            return out
        return out.with_name(f"{out.name}.{(self.container or Container.SAFETENSORS).value}")


@dataclass(slots=True)
class Piece:
    """What is exported: an adapter's tensors, the recipe they belong to, and their image model."""

    tensors: dict[str, Tensor]
    recipe: Recipe
    model: ImageModel | None
    card: Card
    notes: list[str] = field(default_factory=list)


def main() -> None:
    sys.argv = [f"source={a.removeprefix('from=')}" if a.startswith("from=") else a for a in sys.argv]
    ConfigStore.instance().store(name="schema", node=Export)
    run_hydra("export", str(conf_dir() / "export"), lambda wish, _plain: Console().print(export(wish)))


def export(wish: Export) -> Table:
    """Write beside, prove, then move into place: what fails its proof never appears under its name."""
    path = wish.path()
    if path.exists():
        raise ValueError(f"{path} exists and is never overwritten; remove it or choose another out=")
    if wish.to is Format.IMAGE_MODEL:
        return unfold(wish, path)
    piece = imported(wish) if wish.source else learnt(wish)
    piece.tensors = cast(piece.tensors, wish.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        rows = WRITERS[wish.to](Path(folder) / path.name, piece)
        os.replace(Path(folder) / path.name, path)
    return summary(wish, path, rows, piece.notes)


def unfold(wish: Export, path: Path) -> Table:
    """A Stable Diffusion file to a folder; every tensor is accounted for in reading, and the folder is read
    back."""
    model = single_file.load(Path(wish.source).expanduser(), Path(wish.backbone).expanduser())
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        model.save(Path(folder) / path.name, DTYPE[wish.dtype])
        back, counts = load_backbone(str(Path(folder) / path.name)).components(), {}
        for name, module in model.components().items():
            written = {n: v.to(DTYPE[wish.dtype]).float() for n, v in module.state_dict().items()}
            counts[name] = proof.same(written, back[name].state_dict(), f"{path}, {name},")
        os.replace(Path(folder) / path.name, path)
    return summary(
        wish,
        path,
        [(f"read back {name}", f"{count} tensors, equal to the bit") for name, count in counts.items()],
        [],
    )


# -- where it comes from -------------------------------------------------------------------------------------
def learnt(wish: Export) -> Piece:
    tensors, card = load_adapter(adapter_path(wish.run, "run"))
    recipe = recipe_of(card, f"run={wish.run}")
    if wish.to is Format.VGEN:
        return Piece(tensors, recipe, None, card)
    if not isinstance(recipe, AnimateDiff):
        raise ValueError(
            f"run={wish.run} was made by method {card.recipe}, for which to={wish.to.value} has no names; "
            "export it to=vgen"
        )
    model = load_backbone(wish.backbone or card.backbone_source, "" if wish.backbone else f"run={wish.run}")
    if unet_fingerprint(model.unet) != card.backbone:
        raise ValueError(
            f"run={wish.run} was trained on image model {card.backbone_source} (fingerprint "
            f"{card.backbone}), "
            f"{model.source} is {unet_fingerprint(model.unet)}; give its own with backbone="
        )
    return Piece(tensors, recipe, model, card)


def imported(wish: Export) -> Piece:
    """A published motion module or tuned UNet; a card that vgen wrote into the file knows what the format
    cannot say."""
    try:
        return _imported(wish)
    except ValueError as error:
        if refusal(error) is None or wish.source in str(error):
            raise
        raise ValueError(f"from={wish.source}: {error}") from error


def _imported(wish: Export) -> Piece:
    path = _weights(Path(wish.source).expanduser())
    if path.is_dir():
        state, arguments = diffusers_motion.read(path)
        text = (
            (path / CARD_FILE).read_text(encoding="utf-8", errors="replace")
            if (path / CARD_FILE).is_file()
            else ""
        )
        model = load_backbone(wish.backbone)
        found = diffusers_motion.import_(state, arguments, model.unet)
    else:
        entries, metadata = state_file.read(path)
        if "vgen" in metadata:
            raise ValueError(
                f"from={wish.source} is a vgen adapter already; export it with run={wish.source}"
            )
        text, model = metadata.get(CARD_KEY, ""), load_backbone(wish.backbone)
        if tune_a_video.recognises(entries):
            return _tuned(wish, path, entries, model)
        found = animatediff.import_(entries, model.unet, wish.num_positions or ROWS_IF_ABSENT)
    rows = found.knobs["motion"]["num_positions"]
    if wish.num_positions not in (0, rows):
        raise ValueError(
            f"from={wish.source} says itself that it has {rows} position rows, got "
            f"num_positions={wish.num_positions}; leave it out"
        )
    recipe, notes = from_plain(AnimateDiff, found.knobs), [found.origin, *found.notes]
    if text:
        recipe = of_card(text, recipe, wish.source)
        notes += ["its knobs come from the vgen card that it carries", *another_image_model(text, model)]
    else:
        notes.append(found.assumed)
    card = Card.of(
        "animatediff", recipe, model, run={}, summary={"imported_from": path.name, "layout": found.origin}
    )
    return Piece(found.tensors, recipe, model, card, notes)


def _weights(path: Path) -> Path:
    """The UNet's file where the folder of a tuned pipeline was given (Tune-A-Video saves those), otherwise
    the path itself."""
    files = sorted((path / "unet").glob("diffusion_pytorch_model.*")) if (path / "unet").is_dir() else []
    tuned = (
        file
        for file in files
        if file.suffix in (".safetensors", ".bin") and tune_a_video.recognises(state_file.read(file)[0])
    )
    return next(tuned, path)


def _tuned(wish: Export, path: Path, entries: dict[str, Tensor], model: ImageModel) -> Piece:
    if wish.to is not Format.VGEN:
        raise ValueError(
            f"from={wish.source} is a Tune-A-Video checkpoint, for which to={wish.to.value} has no names; "
            "import it with to=vgen"
        )
    found = tune_a_video.import_(entries, model.unet)
    recipe = TuneAVideo(image_norm_scope=NormScope(tune_a_video.IMAGE_NORM_SCOPE))
    card = Card.of("tune_a_video", recipe, model, run={}, summary={"imported_from": path.name})
    return Piece(found.tensors, recipe, model, card, found.notes)


def of_card(text: str, found: AnimateDiff, where: str) -> AnimateDiff:
    """The recipe that vgen wrote beside the tensors; it must describe the same modules as the tensors do."""
    try:
        recipe = from_plain(AnimateDiff, json.loads(text)["knobs"])
    except (ValueError, KeyError, TypeError) as error:  # JSON's own is a ValueError
        raise ValueError(
            f"the vgen card in from={where} cannot be read ({error}); export the file again"
        ) from error
    facts = [
        (r.mid_block, r.motion.num_positions, r.motion.num_blocks, r.motion.num_attentions)
        for r in (recipe, found)
    ]
    if facts[0] != facts[1]:
        raise ValueError(
            f"the vgen card in from={where} contradicts its tensors on middle block, positions, blocks or "
            "attentions: "
            f"{facts[0]} and {facts[1]}"
        )
    return recipe


def another_image_model(text: str, model: ImageModel) -> list[str]:
    """What to say where the card that a file carries names another image model than it is imported for."""
    card, here = json.loads(text), unet_fingerprint(model.unet)
    if card.get("backbone", here) == here:
        return []
    return [
        f"it was trained on another image model ({card.get('backbone_source', 'unnamed')}, fingerprint "
        f"{card['backbone']}) than "
        f"{model.source} ({here}), for which it is imported: its motion may not fit"
    ]


def cast(tensors: dict[str, Tensor], width: Width) -> dict[str, Tensor]:
    out = {name: value.to(DTYPE[width]) for name, value in tensors.items()}
    broken = [name for name, value in out.items() if not torch.isfinite(value).all()]
    if broken:
        wider = ", or dtype=fp32 is needed" if width is not Width.FP32 else ""
        raise ValueError(
            f"{len(broken)} tensors are not finite in {width.value} (first: {', '.join(broken[:3])}); the "
            f"training diverged{wider}"
        )
    return out


# -- where it goes -------------------------------------------------------------------------------------------
def write_vgen(path: Path, piece: Piece) -> list[tuple[str, str]]:
    save_adapter(path, piece.tensors, piece.card, next(iter(piece.tensors.values())).dtype)
    back, _ = load_adapter(path)
    rows = [("read back", f"{proof.same(piece.tensors, back, str(path))} tensors, equal to the bit")]
    if piece.model is not None and isinstance(piece.recipe, AnimateDiff):
        own = forward(piece.recipe, piece.model, back)
        rows.append(
            (
                "image model",
                f"{piece.model.source}: the module runs in it, output between {own.min():.2f} and "
                f"{own.max():.2f}",
            )
        )
    return rows


def write_animatediff(path: Path, piece: Piece) -> list[tuple[str, str]]:
    recipe, model = _parts(piece)
    state = animatediff.export(piece.tensors, model.unet, recipe.motion.num_positions)
    container = Container(path.suffix.removeprefix("."))
    state_file.write(path, state, container, {CARD_KEY: json.dumps(asdict(piece.card), sort_keys=True)})
    back, _ = state_file.read(path)
    again: Imported = animatediff.import_(back, model.unet)
    rows = [
        (
            "read back",
            f"{proof.same(state, back, str(path))} tensors, equal to the bit; imported again they are the "
            f"adapter's {proof.same(piece.tensors, again.tensors, str(path))}",
        )
    ]
    if recipe.motion.num_attentions == diffusers_motion.ATTENTIONS:
        arguments = diffusers_motion.config(model.unet, asdict(recipe.motion), recipe.mid_block)
        rows += agreement(
            proof.open_file(path, arguments), arguments, again.tensors, recipe, model, str(path)
        )
    else:
        why = (
            f"its motion block has {diffusers_motion.ATTENTIONS} attentions, this one "
            f"{recipe.motion.num_attentions}"
        )
        rows.append(("forward in diffusers", f"could not be proved: {why}; only the tensors were compared"))
    rows += [(f"seen by {reader.value}", str(sight)) for reader, sight in identify(back).items()]
    layout, _ = animatediff.detect(back, model.unet)
    return rows + list(unsaid(layout, plain(asdict(recipe.motion)), plain(asdict(recipe.schedule))).items())


def write_diffusers(path: Path, piece: Piece) -> list[tuple[str, str]]:
    recipe, model = _parts(piece)
    arguments = diffusers_motion.config(model.unet, asdict(recipe.motion), recipe.mid_block)
    diffusers_motion.write(path, piece.tensors, model.unet, arguments)
    (path / CARD_FILE).write_text(json.dumps(asdict(piece.card), sort_keys=True, indent=2))
    again = diffusers_motion.import_(*diffusers_motion.read(path), model.unet)
    rows = [("read back", f"{proof.same(piece.tensors, again.tensors, str(path))} tensors, equal to the bit")]
    return rows + agreement(proof.open_folder(path), arguments, again.tensors, recipe, model, str(path))


WRITERS = {Format.VGEN: write_vgen, Format.ANIMATEDIFF: write_animatediff, Format.DIFFUSERS: write_diffusers}


def _parts(piece: Piece) -> tuple[AnimateDiff, ImageModel]:
    assert isinstance(piece.recipe, AnimateDiff)
    assert piece.model is not None
    return piece.recipe, piece.model


# -- proof ---------------------------------------------------------------------------------------------------
def agreement(
    peer: Any,
    arguments: dict[str, Any],
    tensors: dict[str, Tensor],
    recipe: AnimateDiff,
    model: ImageModel,
    where: str,
) -> list[tuple[str, str]]:
    """One forward pass here and in diffusers on what was written; where the recipe's norm scopes are not
    diffusers', what that changes."""
    count = proof.read_by_peer(peer, tensors, model.unet, arguments, where)
    theirs = proof.theirs(model.unet, peer, _given(recipe, model))
    common = replace(
        recipe, motion=replace(recipe.motion, norm_scope=NormScope.CLIP), image_norm_scope=NormScope.FRAME
    )
    difference = proof.agree(forward(common, model, tensors), theirs, where)
    rows = [
        ("read by diffusers", f"{count} tensors, equal to the bit"),
        (
            "forward in diffusers",
            f"differs by {difference:.1e} at most (limit {proof.TOLERANCE:.0e}), output spread "
            f"{theirs.std():.2f}, "
            "norm scopes as diffusers'",
        ),
    ]
    if recipe != common:
        apart = (forward(recipe, model, tensors) - theirs).abs().max()
        rows.append(
            (
                "norm scopes",
                f"the recipe has image {recipe.image_norm_scope.value}, motion "
                f"{recipe.motion.norm_scope.value}; "
                "diffusers always has image frame, "
                f"motion clip, which moves this output by {apart:.1e} at most",
            )
        )
    return rows


def forward(recipe: AnimateDiff, model: ImageModel, tensors: dict[str, Tensor]) -> Tensor:
    video_model = assemble(recipe, model)
    put(video_model.components(), tensors, recipe.learns())
    try:
        return proof.ours(video_model.unet, _given(recipe, model))
    finally:
        video_model.unet.eject()


def _given(recipe: AnimateDiff, model: ImageModel) -> proof.Inputs:
    return proof.inputs(model.unet, min(PROOF_FRAMES, recipe.motion.num_positions))


def summary(wish: Export, path: Path, rows: list[tuple[str, str]], notes: list[str]) -> Table:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    table = Table(
        title="imported" if wish.source else "exported", show_header=False, title_justify="left", min_width=44
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("wrote", str(path))
    table.add_row("format", f"{wish.to.value}, {wish.dtype.value}, {size / 1e6:,.1f} MB")
    for name, text in rows:
        table.add_row(name, text)
    for note in notes:
        table.add_row("note", note)
    return table

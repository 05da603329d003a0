"""A suite of edits under an editing method: each clip on its own, so that it does not depend on those beside
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vgen.app.judging.controls import fields_of_source
from vgen.app.loading import UNTRAINED, Checkpoint
from vgen.attention.processor import control_of
from vgen.backbones.video_unet import VideoUNet
from vgen.data.batch import Batch
from vgen.data.clip_files import to_uint8
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.formats.adapter import put
from vgen.methods import Recipe, catalogue
from vgen.methods._assembly import Part
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import (
    Edited,
    Editing,
    encoded,
    finished,
    heard,
    in_pixels,
    long_clips,
    start_noise,
)
from vgen.methods._recipe import UNET, Regime
from vgen.methods._sampling import SamplingOverrides
from vgen.methods._wishes import Wish
from vgen.metrics.task import Task
from vgen.resources import conf_dir
from vgen.spec import spec


@spec
class Copy(Recipe, Editing):
    """The source handed back through encoder and decoder: the trick that must not pay, on every clip."""

    regime: ClassVar[Regime] = Regime.EDIT
    sampled: ClassVar[bool] = False

    def edit(self, session: EditSession) -> Edited:
        assert session.latents is not None, "a suite of edits always has a clip"
        return Edited(session.latents)


@spec
class Tune:
    """Teach each clip to the image model before it is edited, ``num_steps`` of ``lr``; 0 steps: nothing is
    taught. ``method`` says by which method, empty by the one that edits: shapes, for one, are edited on a
    checkpoint that another method taught (Qi et al. 2023, section 4.3)."""

    num_steps: int = 0
    lr: float = 3e-4
    seed: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.lr <= 0:
            raise ValueError(
                f"tune needs num_steps >= 0 and a positive lr, got {self.num_steps} and {self.lr}; 200 and "
                "3e-4 are usual"
            )
        if self.method and self.method not in teachers():
            raise ValueError(
                f"tune.method={self.method} teaches no clip; methods that do are {', '.join(teachers())}"
            )
        if self.method and not self.num_steps:
            raise ValueError(
                f"tune.method={self.method} teaches nothing in 0 steps; give tune.num_steps=200, or leave "
                "it out"
            )

    def teacher(self, recipe: Recipe) -> Recipe:
        """What learns the clip that ``recipe`` edits."""
        return catalogue()[self.method]() if self.method else recipe

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "method" or value}


def teachers() -> list[str]:
    """Methods that learn a clip on the image model alone."""
    clip = {name: recipe for name, recipe in catalogue().items() if recipe.regime is Regime.CLIP}
    return [name for name, recipe in clip.items() if recipe().stands_on() is None]


def editors() -> dict[str, type[Recipe]]:
    """Recipes that edit, and the copy, by name."""
    return {"copy": Copy} | {
        name: recipe for name, recipe in catalogue().items() if issubclass(recipe, Editing)
    }


def choices() -> list[str]:
    """What may stand behind ``method=``, presets too."""
    return sorted({*editors(), *(path.stem for path in (conf_dir() / "evaluate" / "method").glob("*.yaml"))})


def known_as(recipe: Recipe) -> str:
    return next(name for name, cls in editors().items() if cls is type(recipe))


def check_method(recipe: Recipe, name: str, tune: Tune, adapters: list[str]) -> None:
    """Raise ValueError for a method that does not edit, or that would edit with what it has not learnt.
    ``adapters`` as they were given, none meaning the image model."""
    if not isinstance(recipe, Editing):
        raise ValueError(f"method={name} does not edit; methods that do are {', '.join(choices())}")
    if tune.num_steps and not tune.teacher(recipe).learns():
        raise ValueError(
            f"method={name} learns nothing, got tune.num_steps={tune.num_steps}; leave tune out, or give "
            f"tune.method={teachers()[0]} to "
            "edit each clip on a checkpoint that was tuned on it"
        )
    if tune.num_steps and set(adapters) - {UNTRAINED}:
        raise ValueError(
            f"tune starts from the image model, got adapter={','.join(adapters)}; give one of the two"
        )
    if recipe.instructed and not adapters:
        raise ValueError(
            f"method={name} edits with what it has learnt of instructions; give adapter=RUN, or "
            "adapter=untrained to see it without"
        )
    if recipe.regime is Regime.CLIP and not tune.num_steps and not adapters:
        raise ValueError(
            f"method={name} edits with what it has learnt from the clip; give tune.num_steps=200 to teach "
            "it each clip of the suite, "
            "adapter=RUN for one checkpoint, or adapter=untrained to see it without"
        )


@dataclass(slots=True)
class Work:
    """Frames that the UNet has seen in drawing, rows of guidance and branches counted each: what an edit
    costs on any machine."""

    unet_frames: int = 0

    def watch(self, unet: VideoUNet) -> None:
        unet.register_forward_pre_hook(self._count)

    def _count(self, _module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        self.unet_frames += given[0].shape[0] * given[0].shape[1]


@dataclass(slots=True, kw_only=True)
class Editor:
    """Tasks to edits, uint8 b f h w 3. ``open`` gives the image model with the method in it; anew for every
    clip that is taught."""

    recipe: Recipe
    open: Callable[[], Checkpoint]
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    tune: Tune = field(default_factory=Tune)
    window: Sliding = field(default_factory=long_clips)
    work: Work = field(default_factory=Work)
    _opened: Checkpoint | None = None

    def __call__(self, todo: list[Task]) -> np.ndarray:
        return np.stack([self._edited(task) for task in todo])

    def _edited(self, task: Task) -> np.ndarray:
        checkpoint = self._checkpoint()
        source = task.inputs(checkpoint.model.size_px).source
        assert source is not None, f"task {task.id} is of kind {task.kind.name}, which starts from no clip"
        return self._made_of(checkpoint, task, source)

    def of_clip(self, task: Task, source: np.ndarray) -> np.ndarray:
        """What a task asks, of another clip uint8 f h w 3 than its own: of a picture that stands for it."""
        return self._made_of(self._checkpoint(), task, source)

    def _made_of(self, checkpoint: Checkpoint, task: Task, source: np.ndarray) -> np.ndarray:
        model, given = checkpoint.model, task.inputs(source.shape[1])
        device = checkpoint.video_model.device
        latents = encoded(model, source, device)
        own = heard(self.recipe, source, device)
        shown = fields_of_source(task, checkpoint.video_model, model.size_px, own)
        fields = {**own, **{name: one.to(device) for name, one in shown.items()}}
        if self.tune.num_steps:
            teacher = self.tune.teacher(self.recipe)
            known = {**fields, "latents": latents}
            teach(checkpoint, teacher, self.tune, known, given.source_caption, self.work)
            self._route(checkpoint, teacher)
        num_frames, _, h, w = latents.shape[1:]
        start = self.recipe.start()
        noise = start_noise(model, num_frames, (h, w), task.seed, latents.device, start)
        session = EditSession(
            video_model=checkpoint.video_model,
            wish=Wish(source=given.source_caption, target=task.caption, instruction=given.instruction),
            noise=noise,
            fields=fields,
            sampling=self.sampling.over(self.recipe.sampling()),
            latents=latents,
            pixels=in_pixels(source, latents.device),
            frames=self.recipe.frame_schedule(self.window),
            seed=task.seed,
        )
        assert isinstance(self.recipe, Editing), "the run was checked"
        done = self.recipe.edit(session)
        return to_uint8(finished(model, done)[0])

    def _checkpoint(self) -> Checkpoint:
        if self._opened is None or self.tune.num_steps:
            self._opened = self.open()
            self._route(self._opened, self._opened.recipe)
            self.work.watch(self._opened.unet)  # one that is taught is another, and is watched then
        return self._opened

    def _route(self, checkpoint: Checkpoint, made_by: Recipe) -> None:
        """The frames that the editing method reads, where it names some; otherwise those of the checkpoint's
        own method."""
        keys = self.recipe.attention_keys().get(UNET)
        if keys and type(made_by) is not type(self.recipe):
            control_of(checkpoint.unet).keys = tuple(keys)


def teach(
    checkpoint: Checkpoint,
    recipe: Recipe,
    tune: Tune,
    fields: Mapping[str, Tensor],
    caption: str,
    work: Work,
) -> None:
    """One-shot tuning without the trainer's files: its own learner, objective and optimiser, on latents that
    were encoded once and what else is known of the clip, over what lay beneath the checkpoint."""
    # Lightning takes seconds to import, and most evaluations teach nothing
    from vgen.training.learner import Learner
    from vgen.training.optimisation import Optimisation

    checkpoint.video_model.eject()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tune.seed)  # what is inserted starts alike for every clip
        beneath = [Part(layer.slot, layer.recipe, layer.scale) for layer in checkpoint.layers]
        optimisation = Optimisation(lr=tune.lr)
        learner = Learner(
            recipe,
            checkpoint.model,
            optimisation,
            seed=tune.seed,
            max_steps=tune.num_steps,
            beneath=beneath,
        )
    for layer in checkpoint.layers:
        components, learnt = learner.video_model.components(), layer.recipe.learns()
        put(components, layer.tensors, learnt, layer.named, layer.slot)
    nets = learner.video_model.nets().values()
    for net in nets:
        net.to(fields["latents"].device)
    work.watch(learner.unet)
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), tune.num_steps)
    context = checkpoint.model.encode_text([caption])
    for step in range(tune.num_steps):
        batch = Batch(keys=[("clip", step)], captions=[caption], context=context, fields=fields)
        optimiser.zero_grad()
        loss = learner.objective.loss(learner.video_model, batch, Draws(tune.seed, batch.keys))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(learner.learning.values()), learner.optimisation.grad_clip)
        optimiser.step()
    for net in nets:
        net.requires_grad_(False)
    checkpoint.video_model = learner.video_model

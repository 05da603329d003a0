"""The one LightningModule: recipe in, optimiser in, step out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from vgen.backbones.image_model import ImageModel
from vgen.backbones.silent import Silent
from vgen.backbones.video_unet import VideoUNet
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods import Recipe, VideoModel
from vgen.methods._assembly import Part, assemble_stack
from vgen.training.optimisation import Optimisation


class Learner(pl.LightningModule):
    """Holds the components that a recipe engages.

    The rest of the image model stays outside, so that no strategy wraps, moves or saves it.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: ImageModel,
        optimisation: Optimisation,
        seed: int,
        max_steps: int,
        frozen_dtype: torch.dtype = torch.float32,
        beneath: Sequence[Part] = (),
    ) -> None:
        super().__init__()
        self.recipe, self.optimisation, self.seed, self.max_steps = recipe, optimisation, seed, max_steps
        self._outside = (model, frozen_dtype)  # a tuple: nn.Module registers no parameters of it
        self._before: list[
            tuple[nn.Parameter, Tensor]
        ] = []  # what was cast, as it came, where it will be written
        model.freeze()
        self._assembled = (assemble_stack([*beneath, Part("", recipe)], model),)
        for name, build in recipe.adversaries().items():
            self.video_model.modules[name] = build(model)
        for part in (self.unet, *self.video_model.modules.values()):
            part.requires_grad_(False)
        have = self.video_model.components()
        if lacking := [name for name in recipe.engages() if name not in have]:
            raise ValueError(
                f"this method trains {', '.join(lacking)}, which image model {model.source or 'given'} "
                f"lacks; it has {', '.join(have)}: "
                "give a backbone.path with that part"
            )
        self.parts = nn.ModuleDict({name: have[name] for name in recipe.engages()})
        self.learning = select(self.parts, recipe.learns(), _foreign(beneath))
        self._refuse_idle_layers(_foreign(beneath))
        for name, module in self.video_model.modules.items():
            if name not in self.parts:
                module.eval()
        self._accumulated: dict[str, list[Tensor]] = {}
        self.record: dict[str, Any] = {}  # what a checkpoint says of the run, as plain data
        self.forward_ended: Callable[[], None] = lambda: None  # told before ranks wait for each other
        self.objective = recipe.objective(model)
        self.objective.begin(model)

    @property
    def model(self) -> ImageModel:
        return self._outside[0]

    @property
    def video_model(self) -> VideoModel:
        return self._assembled[0]

    @property
    def unet(self) -> VideoUNet:
        return self.video_model.unet

    def _refuse_idle_layers(self, foreign: tuple[str, ...]) -> None:
        """Raises ValueError where layers are inserted and stay as they were born; those of parts beneath are
        ``foreign``."""
        inserted = []
        for name, net in self.video_model.nets().items():
            inserted += [f"{name}.inserted.{n}" for n, _ in net.inserted.named_parameters()]
        inserted = [name for name in inserted if not any(mark in name for mark in foreign)]
        if inserted and not set(inserted) & self.learning.keys():
            raise ValueError(
                f"this method inserts layers and learns none of them ({len(inserted)} tensors, first: "
                f"{inserted[0]}); its learns() must name what it inserts, as unet.inserted.*"
            )

    # -- steps -----------------------------------------------------------------------------------------------
    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.objective.enter(self.global_step, self.max_steps)
        progress = min(1.0, self.trainer.global_step / self.max_steps)
        draws = Draws(self.seed, batch.keys, progress)
        out = self.objective.loss(self.video_model, batch, draws)
        self.forward_ended()
        figures = self._of_step(out, index)
        self.log_dict(
            {f"train/{k}": v for k, v in figures.items()},
            prog_bar=True,
            batch_size=len(batch),
            sync_dist=True,
        )
        return out["loss"]

    def _of_step(self, out: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """Means over the batches that were accumulated for this optimiser step, up to batch ``index``."""
        if index % self.trainer.accumulate_grad_batches == 0:
            self._accumulated.clear()
        for name, value in out.items():
            self._accumulated.setdefault(name, []).append(value.detach())
        return {name: torch.stack(values).mean() for name, values in self._accumulated.items()}

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.objective.enter(self.global_step, self.max_steps)
        out = self.objective.loss(self.video_model, batch, Draws(self.seed, batch.keys))
        self.log_dict({f"val/{k}": v for k, v in out.items()}, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        fused = (
            self.trainer.precision != "16-mixed"
        )  # a fused step unscales fp16 gradients itself, after they should have been clipped
        optimiser, schedule = self.optimisation.build(
            list(self.learning.values()),
            self.max_steps,
            fused,
            factors(self.learning, self.recipe.lr_factors()),
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.trainer.precision == "bf16-mixed" and gradient_clip_val:
            # Lightning refuses fused optimisers under any autocast; bf16 has no scaler
            torch.nn.utils.clip_grad_norm_(list(self.learning.values()), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # -- placement -------------------------------------------------------------------------------------------
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # the objective moves what it uses

    def setup(self, stage: str) -> None:
        self.place(self.trainer.strategy.root_device)

    def place(self, device: torch.device) -> None:
        """Casts what is frozen, and moves what Lightning, which moves the parts, does not see.

        To do it twice is to do it once.
        """
        model, dtype = self._outside
        engaged = {id(p) for p in self.parts.parameters()}
        for module in (*model.modules(), *self.video_model.components().values()):
            kept = model.dtype_of(module, dtype)
            for parameter in module.parameters():
                if not parameter.requires_grad and parameter.dtype != kept:
                    if self.recipe.writes().image_model:
                        self._before.append((parameter, parameter.data.cpu()))
                    parameter.data = parameter.data.to(kept)
                if id(parameter) not in engaged:
                    parameter.data = parameter.data.to(device)
            for buffer in module.buffers():
                buffer.data = buffer.data.to(device)

    def put_back(self) -> None:
        """Undo the casts of :meth:`place`, so that what is frozen is written as it came."""
        for parameter, value in self._before:
            parameter.data = value.to(parameter.device)
        self._before.clear()


def refuse_mute(learner: Learner) -> None:
    """Raises ValueError where a net beside the UNet is as it was born, says nothing, and never will: what
    learns behind its last layers would hear nothing."""
    heard = {*learner.parts, *learner.video_model.needed}
    for name, net in learner.video_model.modules.items():
        if not isinstance(net, Silent) or name not in heard:
            continue
        outputs = net.silent_outputs()
        if not any(p.requires_grad or bool(p.any()) for p in outputs):
            raise ValueError(
                f"the net {name!r} says nothing: its last layers are zero and do not learn; put a trained "
                f"one beneath, as stack.{name}.file=RUN"
            )


def _foreign(beneath: Sequence[Part]) -> tuple[str, ...]:
    """What in the names of parameters says that they belong to a part beneath."""
    return tuple(f"+{part.name}." for part in beneath)


def select(
    parts: nn.ModuleDict, patterns: tuple[str, ...], foreign: tuple[str, ...] = ()
) -> dict[str, nn.Parameter]:
    """Require gradients of exactly the parameters that match; every pattern must hit. Names are
    ``component.parameter``."""
    everything = dict(parts.named_parameters())
    named = {n: p for n, p in everything.items() if not any(mark in n for mark in foreign)}
    for pattern in patterns:
        if not fnmatch.filter(named, pattern):
            first = ", ".join(list(named)[:3])
            raise ValueError(
                f"learns() pattern {pattern!r} matches none of {len(named)} parameters; they start with "
                f"{first}"
            )
    for name, parameter in everything.items():
        parameter.requires_grad_(name in named and any(fnmatch.fnmatchcase(name, p) for p in patterns))
    return {name: p for name, p in everything.items() if p.requires_grad}


def factors(learning: dict[str, nn.Parameter], rates: dict[str, float]) -> dict[nn.Parameter, float]:
    """The factor of the learning rate of every parameter that ``rates`` names by a pattern."""
    return {
        parameter: rate
        for pattern, rate in rates.items()
        for name, parameter in learning.items()
        if fnmatch.fnmatchcase(name, pattern)
    }

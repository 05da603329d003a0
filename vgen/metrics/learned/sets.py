"""How far are the videos, as a set, from real ones? Fréchet distances fall with the sample size, the unbiased
MMDs beside them do not."""

from __future__ import annotations

import numpy as np
import torch

from vgen.metrics.learned.clip_model import CLIP
from vgen.metrics.learned.clip_scores import images, network
from vgen.metrics.learned.distances import frechet_of, polynomial_mmd
from vgen.metrics.learned.inception import INCEPTION, inception_ready, load_inception, picture_features
from vgen.metrics.learned.registry import Least, plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.torchscript import load_program, vectors
from vgen.metrics.learned.videomae import VIDEOMAE, load_videomae, video_features
from vgen.metrics.learned.weights import Slot
from vgen.metrics.metric import Metric

I3D = Slot(
    "i3d", "StyleGAN-V's i3d_torchscript.pt (Kinetics-400), with its sha256", is_code=lambda path: True
)
_I3D_RESIZE = "in the program: 224×224, bilinear"
_INCEPTION_RESIZE = "in the network: 299×299, TensorFlow 1 bilinear"
_I3D_LEAST_FRAMES = 10  # with fewer, its temporal pooling has nothing left


@plugin(
    Metric("fvd", 1, "Fréchet distance of I3D logits"),
    source="StyleGAN-V's fvd2048_16f: logits before the softmax, covariance over n",
    better="lower",
    needs=["references"],
    slots=[I3D],
    min_frames=_I3D_LEAST_FRAMES,
    least=Least("frechet_clips"),
)
def fvd(tools: Tools) -> Scores:
    return _distance(
        tools, frechet_of(_i3d(tools, "videos"), _i3d(tools, "references"), unbiased=False), _I3D_RESIZE
    )


@plugin(
    Metric(
        "kvd",
        1,
        "unbiased squared MMD of I3D logits, cubic kernel; 0 for equal distributions, so it may be negative",
    ),
    source="Unterthiner et al. 2018, with all samples",
    better="lower",
    needs=["references"],
    slots=[I3D],
    min_frames=_I3D_LEAST_FRAMES,
    least=Least("mmd_clips"),
)
def kvd(tools: Tools) -> Scores:
    return _distance(tools, polynomial_mmd(_i3d(tools, "videos"), _i3d(tools, "references")), _I3D_RESIZE)


@plugin(
    Metric("fvd_videomae", 1, "Fréchet distance of VideoMAE features"),
    source="Ge et al. 2024, content-debiased FVD; covariance over n",
    better="lower",
    needs=["references"],
    slots=[VIDEOMAE],
    least=Least("frechet_clips"),
)
def fvd_videomae(tools: Tools) -> Scores:
    x, y = _videomae(tools, "videos"), _videomae(tools, "references")
    return _distance(tools, frechet_of(x, y, unbiased=False), _videomae_resize(tools))


@plugin(
    Metric("kvd_videomae", 1, "unbiased squared MMD of VideoMAE features, cubic kernel; may be negative"),
    source="the features of Ge et al. 2024 with the kernel of KVD",
    better="lower",
    needs=["references"],
    slots=[VIDEOMAE],
    least=Least("mmd_clips"),
)
def kvd_videomae(tools: Tools) -> Scores:
    return _distance(
        tools,
        polynomial_mmd(_videomae(tools, "videos"), _videomae(tools, "references")),
        _videomae_resize(tools),
    )


@plugin(
    Metric("fid", 1, "Fréchet distance of Inception features of all frames"),
    source="Heusel et al. 2017: pool features, 2048 d, covariance over n - 1",
    better="lower",
    needs=["references"],
    slots=[INCEPTION],
    least=Least("frechet_frames", "frames"),
    ready=inception_ready,
)
def fid(tools: Tools) -> Scores:
    x, y, kind = _inception(tools)
    return _distance(tools, frechet_of(x, y, unbiased=True), _INCEPTION_RESIZE, network=kind)


@plugin(
    Metric(
        "kid", 2, "unbiased squared MMD of Inception features of all frames, cubic kernel; may be negative"
    ),
    source="Bińkowski et al. 2018, with all frames instead of random subsets; pairs of frames of one clip "
    "are left out",
    better="lower",
    needs=["references"],
    slots=[INCEPTION],
    least=Least("mmd_frames", "frames"),
    ready=inception_ready,
)
def kid(tools: Tools) -> Scores:
    x, y, kind = _inception(tools)
    return _distance(tools, polynomial_mmd(x, y, run=tools.clips.num_frames), _INCEPTION_RESIZE, network=kind)


@plugin(
    Metric(
        "clip_mmd",
        2,
        "unbiased squared MMD of CLIP features of all frames, kernel (cosine + 1)³; may be negative",
    ),
    source="KID's estimator on CLIP vectors of length √d, for which its kernel is made; pairs of frames of "
    "one clip are left out",
    better="lower",
    needs=["references"],
    slots=[CLIP],
    least=Least("mmd_frames", "frames"),
)
def clip_mmd(tools: Tools) -> Scores:
    x, y = (np.concatenate(images(tools, field)) for field in ("videos", "references"))
    length = np.sqrt(
        x.shape[1]
    )  # of unit vectors the kernel is all but linear: it would see the mean and no spread
    return _distance(
        tools, polynomial_mmd(x * length, y * length, run=tools.clips.num_frames), network(tools).resize
    )


def _i3d(tools: Tools, field: str) -> np.ndarray:
    """n 400: the program itself maps 0..255 to [-1, 1] and resizes, and returns what precedes the softmax."""
    net = tools.network(
        I3D, lambda located, device: load_program(located, device, "i3d", "StyleGAN-V's TorchScript I3D")
    )

    @torch.inference_mode()
    def encode(video: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float().to(tools.settings.device)
        return vectors(net(x, rescale=True, resize=True, return_features=True), "i3d", 1)

    return np.concatenate(tools.features("i3d", field, encode))


def _videomae(tools: Tools, field: str) -> np.ndarray:
    model = tools.network(VIDEOMAE, load_videomae)
    return np.concatenate(
        tools.features("videomae", field, lambda video: video_features(model, video, tools.settings.device))
    )


def _videomae_resize(tools: Tools) -> str:
    side = tools.network(VIDEOMAE, load_videomae).config.image_size
    return f"squash to {side}×{side}, bilinear, no antialias"


def _inception(tools: Tools) -> tuple[np.ndarray, np.ndarray, str]:
    net = tools.network(INCEPTION, load_inception)

    def encode(video: np.ndarray) -> np.ndarray:
        return picture_features(net, video, tools.settings.batch_size, tools.settings.device)

    x, y = (np.concatenate(tools.features("inception", field, encode)) for field in ("videos", "references"))
    return x, y, net.kind


def _distance(tools: Tools, value: float, resize: str, **options: str) -> Scores:
    return Scores(
        value=value,
        resize=resize,
        options={"references": str(len(tools.clips.given("references"))), **options},
    )

"""VBench's own numbers, from its own package in its own Python: it pins transformers 4.33 and numpy 1, so it
cannot live in this one.

Its child process gets clips as lossless H.264 (yuv444p) and only the weights that are in ``vbench.cache``:
what is absent would be fetched by the package, so it is looked for first. Only dimensions that the package
allows for videos of one's own are offered.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Absent, digest
from vgen.metrics.metric import Metric

_CHILD = """
import importlib.metadata, json, sys
told = json.loads(sys.argv[1])
from vbench import VBench
VBench(told["device"], "", told["out"]).evaluate(videos_path=told["videos"], name="vgen", prompt_list=told["prompts"],
                                                 dimension_list=[told["dimension"]], local=True, mode="custom_input")
open(told["out"] + "/version", "w").write(importlib.metadata.version("vbench"))
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Dimension:
    """``files``: what the package reads from its cache. ``scale``: from its numbers per video to those of its
    summary."""

    name: str
    about: str
    files: tuple[str, ...]
    better: str = "higher"
    needs: tuple[str, ...] = ()
    scale: float = 1.0


DIMENSIONS = (
    Dimension(
        "subject_consistency",
        "DINO features",
        ("dino_model/dino_vitbase16_pretrain.pth", "dino_model/facebookresearch_dino_main"),
    ),
    Dimension("background_consistency", "CLIP features of the whole frame", ("clip_model/ViT-B-32.pt",)),
    Dimension(
        "motion_smoothness", "every second frame against AMT's interpolation", ("amt_model/amt-s.pth",)
    ),
    Dimension(
        "dynamic_degree", "share of moving clips by RAFT", ("raft_model/models/raft-things.pth",), better=""
    ),
    Dimension(
        "aesthetic_quality",
        "LAION's linear score",
        ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    ),
    Dimension("imaging_quality", "MUSIQ", ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",), scale=0.01),
    Dimension(
        "overall_consistency",
        "ViCLIP cosine of video and prompt",
        ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz"),
        needs=("prompts",),
    ),
)


def _ready(tools: Tools, dimension: Dimension) -> None:
    wanted = tools.settings.vbench
    if not wanted.python:
        raise Absent(
            "set learned.vbench.python to the Python of an environment with the package vbench, and "
            "learned.vbench.cache to its weights"
        )
    if not Path(wanted.python).is_file():
        raise Absent(
            f"vbench.python={wanted.python} is not there: it should be the Python of an environment with "
            "the package vbench"
        )
    missing = [file for file in dimension.files if not (Path(wanted.cache) / file).exists()]
    if missing:
        raise Absent(
            f"weights not found in {wanted.cache or 'no folder'}: set learned.vbench.cache to one that "
            f"holds {', '.join(missing)}"
        )


def _measure(tools: Tools, dimension: Dimension) -> Scores:
    wanted = tools.settings.vbench
    with tempfile.TemporaryDirectory() as folder:
        (videos := Path(folder, "videos")).mkdir()
        for i, video in enumerate(tools.clips.videos):
            (videos / f"{i:06d}.mp4").write_bytes(lossless(video, wanted.fps))
        version, rows = _evaluate(tools, dimension, Path(folder))
    scores = {
        int(Path(row["video_path"]).stem): float(row["video_results"]) * dimension.scale for row in rows
    }
    if sorted(scores) != list(range(tools.clips.num)):
        raise ValueError(
            f"vbench must score each of {tools.clips.num} clips, got {len(scores)}; one that it drops would "
            "raise the mean"
        )
    files = "".join(f"{digest(Path(wanted.cache) / file)}  {file}\n" for file in dimension.files)
    options = {"vbench": version, "fps": str(wanted.fps), "files": hashlib.sha256(files.encode()).hexdigest()}
    return Scores(
        per_clip=[scores[i] for i in range(tools.clips.num)],
        resize="the package's, without antialias",
        options=options,
    )


def _evaluate(tools: Tools, dimension: Dimension, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    prompts = tools.clips.prompts or [""] * tools.clips.num
    told = {
        "device": tools.settings.device,
        "out": str(folder / "out"),
        "videos": str(folder / "videos"),
        "dimension": dimension.name,
        "prompts": {f"{i:06d}.mp4": prompt for i, prompt in enumerate(prompts)},
    }
    environment = {**os.environ, "VBENCH_CACHE_DIR": str(Path(tools.settings.vbench.cache).absolute())}
    command = [tools.settings.vbench.python, "-c", _CHILD, json.dumps(told)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"vbench could not measure {dimension.name}: "
            f"{(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    result = json.loads((folder / "out" / "vgen_eval_results.json").read_text())
    return (folder / "out" / "version").read_text(), result[dimension.name][1]


def lossless(video: np.ndarray, fps: float) -> bytes:
    """uint8 f h w 3 as an mp4 that loses at most the rounding to YUV (the package reads nothing better than
    mp4)."""
    import io

    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"qp": "0", "preset": "veryfast"}
        )
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


for _dimension in DIMENSIONS:
    plugin(
        Metric(f"vbench_{_dimension.name}", 1, f"{_dimension.name} by the package: {_dimension.about}"),
        source="vbench, custom_input",
        better=_dimension.better,
        needs=_dimension.needs,
        min_frames=2,
        ready=partial(_ready, dimension=_dimension),
    )(partial(_measure, dimension=_dimension))

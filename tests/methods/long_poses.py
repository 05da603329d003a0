"""A clip of so many frames along poses, drawn in a process of its own that says how much memory it took."""

from __future__ import annotations

import resource
import sys

import torch

from vgen.app.loading import load_backbone
from vgen.conditions.reference import Reference
from vgen.diffusion.frames import Sliding
from vgen.methods import Recipe
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.control_a_video import ControlAVideo, Structure
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.disco import DisCoTemporal
from vgen.methods.dreampose import DreamPose
from vgen.methods.follow_your_pose import FollowYourPose, FollowYourPoseEncoder

SIDE_PX, WINDOW = 96, 8
SYSTEMS: dict[str, list[Recipe]] = {
    "control_net": [ControlNets(condition=Shown.POSE)],
    "follow_your_pose": [FollowYourPose(), FollowYourPoseEncoder()],
    "control_a_video": [ControlAVideo(condition=Structure.POSE)],
    "dreampose": [DreamPose(reference=Reference(height_px=SIDE_PX, width_px=SIDE_PX))],
    "disco": [DisCoTemporal()],
}


def drawn_mb(name: str, num_frames: int) -> float:
    """How far the peak of memory rose in MB while the clip was drawn."""
    model = load_backbone("blank:toybox:0")
    video_model = assemble_stack([Part(f"part{i}", one) for i, one in enumerate(SYSTEMS[name])], model)
    video_model.to("cpu")
    joints = torch.rand(1, num_frames, 1, 17, 3, generator=torch.Generator().manual_seed(0))
    joints[..., 2] = 1
    still = torch.randint(0, 256, (1, 1, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    fields = {"pose": joints, "reference": still, "background": still}
    sampling = Sampling(
        num_frames=num_frames,
        num_steps=1,
        guidance=1,
        width_px=SIDE_PX,
        height_px=SIDE_PX,
        window=Sliding(num_frames=WINDOW, overlap=0),
    )
    before = _peak_mb()
    generate(video_model, [Prompt("a red circle")], sampling, more=fields)
    return _peak_mb() - before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(drawn_mb(sys.argv[1], int(sys.argv[2])))

"""Verbs that look at a run: what it will take, and what it took."""

from vgen.app.help_page import Verb

ABOUT_RUNS = {
    "plan": Verb(
        summary="what a training will take: memory by GPU, bytes sent, which card holds it",
        usage="vgen plan KEYS OF vgen train [gpus=N] [shapes=NAME] [size_px=N] [probe=true]",
        keys=(
            ("gpus", "processes to plan for, as trainer.devices"),
            ("shapes", "sd15, sd21 or sdxl, where backbone.path is not here; else the experiment's"),
            ("size_px", "side of the clips, where data.path is not here; else the experiment's"),
            ("trainer", "gpu, ddp, deepspeed_zero1, _zero2, _zero3, cpu; trainer.precision=bf16"),
            ("data.batch_size", "clips of one process; data.window.num_frames, data.cache"),
            ("probe", "true: time a few steps on this machine, which needs memory for them"),
            ("network", ".network_gb_s, .latency_us, .tflops, ...: what the simulation assumes"),
        ),
        examples=(
            "vgen plan experiment=sd15_motion_512 trainer=deepspeed_zero2 trainer.precision=bf16 gpus=8",
            "vgen plan shapes=sdxl size_px=512 data.window.num_frames=16 data.batch_size=1",
            "vgen plan experiment=toybox_motion trainer=cpu probe=true",
        ),
        hydra=True,
    ),
    "goodput": Verb(
        summary="how much of a run's time was spent on steps that stayed",
        usage="vgen goodput RUN [format=table|json]",
        keys=(("format", "table, or json for other programs"),),
        examples=("vgen goodput runs/mine", "vgen goodput runs/mine format=json"),
    ),
}

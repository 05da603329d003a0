"""What each verb of the command line is for. Cheap to import: `vgen --help` and `vgen VERB --help` read only this."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb: a line of summary, its usage, its most used keys (key, meaning) and examples."""

    summary: str
    usage: str
    keys: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]

    def page(self, name: str) -> str:
        """The text of `vgen NAME --help`."""
        width = max((len(key) for key, _ in self.keys), default=0)
        lines = [f"vgen {name}: {self.summary}", "", f"usage: {self.usage}"]
        if self.keys:
            lines += ["", "most used keys:", *(f"  {key:<{width}}  {meaning}" for key, meaning in self.keys)]
        lines += ["", "examples:", *(f"  {example}" for example in self.examples)]
        if "key=value" in self.usage:
            lines += ["", f"All keys and their values, nothing run: vgen {name} --cfg job"]
        return "\n".join(lines)


VERBS = {
    "prepare": Verb(
        summary="turn videos with captions into shards that training reads",
        usage="vgen prepare data=folder|csv|parquet|jsonl|toybox key=value ...",
        keys=(
            ("data.source", "folder of videos with .txt or .json captions, or a listing"),
            ("out", "folder for the shards, their index, manifest and ledger of rejected files"),
            ("data.fps", "frames per second to sample, whatever the source has"),
            ("data.clip_seconds", "length of a clip; longer videos give several"),
            ("data.size_px", "short side, then centre crop"),
            ("data.max_reject_share", "stop when more than this share of the files is rejected"),
            ("workers", "processes that decode"),
        ),
        examples=(
            "vgen prepare data=folder data.source=~/videos out=data/mine data.fps=8 data.clip_seconds=2",
            "vgen prepare data=toybox out=data/toybox_corpus",
        ),
    ),
    "train": Verb(
        summary="train a method's layers inside a frozen image model",
        usage="vgen train method=NAME data=NAME key=value ...",
        keys=(
            ("method", "what to insert and train; 'vgen methods' lists them"),
            ("data", "what to train on; data.shards names a folder made by vgen prepare"),
            ("backbone", "toybox, or hub with backbone.path for a Stable Diffusion folder"),
            ("trainer", "cpu, gpu, ddp, deepspeed_zero2, deepspeed_zero3"),
            ("trainer.max_steps", "optimizer steps"),
            ("logger", "wandb, or none; without key or network W&B runs offline"),
            ("run.resume", "auto goes on from the last checkpoint of the run"),
            ("experiment", "a ready-made combination from conf/experiment/"),
        ),
        examples=(
            "vgen train method=animatediff data.shards=data/mine trainer=gpu",
            "vgen train -m method=animatediff optim.lr=1e-4,3e-4",
        ),
    ),
    "generate": Verb(
        summary="sample videos from prompts: mp4, GIF and a grid",
        usage="vgen generate adapter=PATH prompt=TEXT key=value ...",
        keys=(
            ("prompt", "one prompt; prompts=FILE takes one per line"),
            ("adapter", "a run folder or an exported adapter"),
            ("negative_prompt", "what to steer away from"),
            ("seed", "same seed, same bytes on the same machine"),
            ("num_frames", "beyond the trained length, sliding windows take over"),
            ("solver", "ddim, euler, euler_ancestral, dpmpp"),
            ("num_steps", "denoising steps"),
            ("guidance", "guidance scale; 1 is none"),
        ),
        examples=(
            'vgen generate prompt="a red circle moves right"',
            'vgen generate adapter=outputs/mine prompts=prompts.txt num_frames=32 solver=dpmpp num_steps=20',
        ),
    ),
    "evaluate": Verb(
        summary="sample a suite from a run or adapter, score it, write a report",
        usage="vgen evaluate adapter=PATH suite=NAME key=value ...",
        keys=(
            ("adapter", "a run folder or an exported adapter"),
            ("suite", "which prompts, buckets and seeds"),
            ("n", "clips per bucket"),
            ("out", "folder for clips, scores.jsonl, summary.json, manifest.json and the page"),
            ("sampler.guidance", "guidance scale"),
            ("sampler.num_steps", "denoising steps"),
        ),
        examples=("vgen evaluate adapter=outputs/mine", "vgen evaluate adapter=outputs/mine n=256 sampler.num_steps=20"),
    ),
    "export": Verb(
        summary="write a trained adapter in a format that other programs read, and prove it",
        usage="vgen export adapter=PATH format=NAME out=PATH",
        keys=(
            ("adapter", "a run folder, a checkpoint or an adapter"),
            ("format", "vgen, animatediff, diffusers"),
            ("out", "file or folder to write"),
            ("weights", "ema or raw"),
        ),
        examples=(
            "vgen export adapter=outputs/mine format=animatediff out=mine.safetensors",
            "vgen export adapter=outputs/mine format=diffusers out=mine_motion_adapter",
        ),
    ),
    "methods": Verb(
        summary="list the methods: paper, year, what they insert and train",
        usage="vgen methods",
        keys=(),
        examples=("vgen methods",),
    ),
    "show": Verb(
        summary="print a method's expanded row, the sites it hits and its trainable parameters",
        usage="vgen show METHOD [key=value ...]",
        keys=(("backbone", "the image model whose sites and counts to show"), ("method.KNOB", "any knob of the method")),
        examples=("vgen show animatediff", "vgen show animatediff backbone=sd15"),
    ),
    "sites": Verb(
        summary="list the places of an image model where a method can insert layers",
        usage="vgen sites BACKBONE",
        keys=(),
        examples=("vgen sites toybox", "vgen sites sd15"),
    ),
    "doctor": Verb(
        summary="check this machine and say what to do about each lack",
        usage="vgen doctor",
        keys=(),
        examples=("vgen doctor",),
    ),
    "demo": Verb(
        summary="the main job on the shipped toybox model, in minutes on two cores, with a report",
        usage="vgen demo [key=value ...]",
        keys=(("out", "folder for the report and the clips"),),
        examples=("vgen demo", "make demo"),
    ),
}


def overview(version: str) -> str:
    """The text of `vgen --help`."""
    width = max(map(len, VERBS))
    lines = [f"vgen {version}: motion for frozen image diffusion models", "", "usage: vgen VERB key=value ...", ""]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "vgen VERB --help   usage, most used keys, examples", "vgen --version     the version"]
    lines += ["VGEN_TRACEBACK=1   shows where an error came from"]
    return "\n".join(lines)

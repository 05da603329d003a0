"""Map edits obey their no-op cases exactly; recorded maps are those of the run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from vgen.attention.control import MapEdit, Maps
from vgen.attention.edits import Amplify, CopySelf, Recorded, Sibling, SwapCross
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.maps import chunks
from vgen.attention.masks import MaskSpec, WordHeat, grid, mask_of, mask_sites, stored_mask
from vgen.attention.processor import control_of, route
from vgen.attention.sites import AttentionKind, AttentionWhere, attention_sites
from vgen.attention.store import AttentionStore, Kept, Payload, Place, StoreSpec, stored_bytes
from vgen.attention.words import Words, align
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.step_window import StepWindow

FRAMES, SIDE = 3, 8
SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"
PAIR, ONE = Rows(("text",), ("source", "target")), Rows(("text",), ("target",))
ALWAYS, NEVER = StepWindow(), StepWindow(end=0.0)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    from vgen.backbones.blank import blank

    return blank(Blank.SD15_NARROW, seed=0).freeze().to("cpu", torch.float64)


@pytest.fixture
def unet(model: ImageModel) -> VideoUNet:
    video = VideoUNet(model.unet)
    route(video)
    return video


def clip(seed: int = 2) -> torch.Tensor:
    return torch.randn(
        1, FRAMES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def moment(rows: Rows = PAIR, direction: Direction = Direction.DENOISE, step: int = 0) -> Moment:
    return Moment(step, 10, 300, direction, rows)


@torch.no_grad()
def run(
    unet: VideoUNet, model: ImageModel, x: torch.Tensor, prompts: list[str], at: Moment, **acting: object
) -> torch.Tensor:
    control = control_of(unet)
    with control.acting(**acting):
        control.enter(at)
        return unet(x, torch.tensor(at.t), Conditioning(model.encode_text(prompts)))


def pair(x: torch.Tensor) -> torch.Tensor:
    return x.expand(2, *x.shape[1:]).contiguous()


def swap(model: ImageModel, window: StepWindow = ALWAYS, target: str = TARGET, source=None) -> SwapCross:
    return SwapCross(
        source=source or Sibling(),
        window=window,
        alignment=align(SOURCE, target, model.tokenizer, replace=True),
    )


class Nothing(MapEdit):
    """Takes the slow path and changes nothing."""

    def wants(self, site, at) -> bool:
        return True

    def __call__(self, maps: Maps) -> torch.Tensor:
        return maps.values


def test_the_slow_path_is_the_fast_path(unet: VideoUNet, model: ImageModel) -> None:
    x, at = pair(clip()), moment()
    torch.testing.assert_close(
        run(unet, model, x, [SOURCE, TARGET], at, edits=[Nothing()]),
        run(unet, model, x, [SOURCE, TARGET], at),
    )


def test_whatever_the_chunk(unet: VideoUNet, model: ImageModel) -> None:
    control = control_of(unet)
    out = []
    for control.chunk_bytes in (1, 20_000, 2**30):
        edits = [swap(model), CopySelf(source=Sibling(), window=ALWAYS)]
        out.append(run(unet, model, pair(clip()), [SOURCE, TARGET], moment(), edits=edits))
    torch.testing.assert_close(out[0], out[2])
    torch.testing.assert_close(out[1], out[2])
    parts = list(chunks(3, 4, 100, 250))
    covered = sorted((f, m) for fs, ms in parts for f in range(3)[fs] for m in range(4)[ms])
    assert covered == [(f, m) for f in range(3) for m in range(4)]


@pytest.mark.parametrize("keys", [Frame.FIRST, Frame.ALL, Frame.MIDDLE], ids=lambda f: f.value)
def test_the_slow_path_reads_other_frames_too(unet: VideoUNet, model: ImageModel, keys: Frame) -> None:
    how = {"keys": [FrameKeys(frames=[keys])]}
    x, at = pair(clip()), moment()
    slow = run(unet, model, x, [SOURCE, TARGET], at, edits=[Nothing()], **how)
    torch.testing.assert_close(slow, run(unet, model, x, [SOURCE, TARGET], at, **how))


def test_equal_prompts_give_the_source(unet: VideoUNet, model: ImageModel) -> None:
    edits = [swap(model, target=SOURCE), CopySelf(source=Sibling(), window=ALWAYS)]
    out = run(unet, model, pair(clip()), [SOURCE, SOURCE], moment(), edits=edits)
    torch.testing.assert_close(out[1], out[0])


def test_an_empty_window_and_a_factor_of_one_change_nothing(unet: VideoUNet, model: ImageModel) -> None:
    x, at = pair(clip()), moment()
    plain = run(unet, model, x, [SOURCE, TARGET], at)
    never = [swap(model, NEVER), CopySelf(source=Sibling(), window=NEVER)]
    assert torch.equal(run(unet, model, x, [SOURCE, TARGET], at, edits=never), plain)
    torch.testing.assert_close(
        run(unet, model, x, [SOURCE, TARGET], at, edits=[Amplify(factors={3: 1.0}, window=ALWAYS)]), plain
    )
    assert not torch.allclose(
        run(unet, model, x, [SOURCE, TARGET], at, edits=[Amplify(factors={3: 4.0}, window=ALWAYS)]), plain
    )


def test_a_word_is_amplified_in_its_own_window_alone(unet: VideoUNet, model: ImageModel) -> None:
    x, at = pair(clip()), moment(step=5)
    plain = run(unet, model, x, [SOURCE, TARGET], at)

    def amplified(window: StepWindow, own: StepWindow) -> torch.Tensor:
        edit = Amplify(factors={3: 4.0, 4: 2.0}, window=window, words={3: own})
        return run(unet, model, x, [SOURCE, TARGET], at, edits=[edit])

    before = StepWindow(end=0.5)
    assert torch.equal(amplified(before, before), plain)
    one = run(unet, model, x, [SOURCE, TARGET], at, edits=[Amplify(factors={3: 4.0}, window=ALWAYS)])
    torch.testing.assert_close(amplified(before, ALWAYS), one)
    assert not torch.allclose(amplified(ALWAYS, before), one)


def test_edits_leave_the_source_alone(unet: VideoUNet, model: ImageModel) -> None:
    x, at = pair(clip()), moment()
    edits = [swap(model), CopySelf(source=Sibling(), window=ALWAYS), Amplify(factors={3: 4.0}, window=ALWAYS)]
    edited, plain = (
        run(unet, model, x, [SOURCE, TARGET], at, edits=edits),
        run(unet, model, x, [SOURCE, TARGET], at),
    )
    torch.testing.assert_close(edited[0], plain[0])
    assert not torch.allclose(edited[1], plain[1])


def test_edits_rest_while_inverting(unet: VideoUNet, model: ImageModel) -> None:
    x, at = pair(clip()), moment(direction=Direction.INVERT)
    assert torch.equal(
        run(unet, model, x, [SOURCE, TARGET], at, edits=[swap(model)]),
        run(unet, model, x, [SOURCE, TARGET], at),
    )


def test_a_word_may_have_a_window_of_its_own(unet: VideoUNet, model: ImageModel) -> None:
    whole, none = swap(model), swap(model, NEVER)
    positions = range(1, model.tokenizer.model_max_length)
    by_word = swap(model, NEVER)
    by_word.words = {0: ALWAYS, **dict.fromkeys(positions, ALWAYS)}
    x, at = pair(clip()), moment()
    found, expected = (run(unet, model, x, [SOURCE, TARGET], at, edits=[edit]) for edit in (by_word, whole))
    torch.testing.assert_close(found, expected)
    by_word.words = {3: ALWAYS}
    some = run(unet, model, x, [SOURCE, TARGET], at, edits=[by_word])
    assert not torch.allclose(some, run(unet, model, x, [SOURCE, TARGET], at, edits=[none]))


# -- recorded runs -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("keys", [[Frame.SELF], [Frame.MIDDLE], [Frame.ALL]], ids=lambda k: k[0].value)
def test_queries_and_keys_give_the_maps_back(
    unet: VideoUNet, model: ImageModel, keys: list[Frame], place: Place, tmp_path: Path
) -> None:
    rule = FrameKeys(frames=keys)
    settings = StoreSpec(place=place, kept=Kept.FP32, folder=str(tmp_path))
    store, truth = AttentionStore(settings), {}

    class Look(Nothing):
        def __call__(self, maps: Maps) -> torch.Tensor:
            truth[maps.site.path] = (maps.site, maps.values[0, 0].clone())
            return maps.values

    at = moment(ONE)
    run(unet, model, clip(), [SOURCE], at, edits=[Look()], recorders=[store], keys=[rule])
    for site, maps in truth.values():
        found = store.maps(site, at, slice(None), slice(None), rule)
        torch.testing.assert_close(found.expand_as(maps), maps.float(), atol=1e-5, rtol=1e-4)
    assert store.nbytes > 0
    if place is Place.DISK:
        folder = store._folder
        assert len(list(folder.glob("*.safetensors"))) == 32
        del store
        assert not folder.exists(), "a disk store cleans up"


def test_a_recorded_source_is_a_sibling(unet: VideoUNet, model: ImageModel) -> None:
    """FateZero's one row with stored maps does what Prompt-to-Prompt's two rows do, where the latents are the
    same."""
    x, store = clip(), AttentionStore(StoreSpec(kept=Kept.FP32))
    run(unet, model, x, [SOURCE], moment(ONE, Direction.INVERT), recorders=[store])
    recorded = [swap(model, source=Recorded(store)), CopySelf(source=Recorded(store), window=ALWAYS)]
    alone = run(unet, model, x, [TARGET], moment(ONE), edits=recorded)
    beside = run(
        unet,
        model,
        pair(x),
        [SOURCE, TARGET],
        moment(PAIR),
        edits=[swap(model), CopySelf(source=Sibling(), window=ALWAYS)],
    )
    # layer by layer the sibling sees maps of its own run, which at equal latents and prompts up to there are
    # the recorded ones
    torch.testing.assert_close(alone[0], beside[1], atol=1e-4, rtol=1e-3)


def test_blending_self_maps(unet: VideoUNet, model: ImageModel) -> None:
    """Mask empty: the source's maps everywhere; mask full: the target's own (threshold 2 and below 0 of
    FateZero)."""
    x, at = pair(clip()), moment()

    def blended(value: bool) -> torch.Tensor:
        whole = torch.full((FRAMES, 1, 1), value)
        edit = CopySelf(
            source=Sibling(), window=ALWAYS, mask=lambda _, size: whole.expand(-1, *size), size=(SIDE, SIDE)
        )
        return run(unet, model, x, [SOURCE, TARGET], at, edits=[edit])

    torch.testing.assert_close(
        blended(False),
        run(unet, model, x, [SOURCE, TARGET], at, edits=[CopySelf(source=Sibling(), window=ALWAYS)]),
    )
    torch.testing.assert_close(blended(True), run(unet, model, x, [SOURCE, TARGET], at))


def test_what_was_not_recorded_is_named(unet: VideoUNet, model: ImageModel) -> None:
    store = AttentionStore(StoreSpec())
    with pytest.raises(ValueError, match="nothing was recorded at step 0"):
        run(
            unet,
            model,
            clip(),
            [TARGET],
            moment(ONE),
            edits=[CopySelf(source=Recorded(store), window=ALWAYS)],
        )
    with pytest.raises(ValueError, match="one clip in one row, got a batch of 2"):
        run(unet, model, pair(clip()), [SOURCE, TARGET], moment(), recorders=[store])


def test_queries_and_keys_are_a_fraction_of_the_maps() -> None:
    """8 frames of 512 x 512 in 50 steps (64 x 64 latents): at most 12 GiB where maps in float32 take about
    80."""
    with torch.device("meta"):
        sites = attention_sites(blank_unet(Blank.SD15))
    ours = stored_bytes(sites, (64, 64), 8, 50, 77, StoreSpec(), Payload.QK)
    originals = stored_bytes(sites, (64, 64), 8, 50, 77, StoreSpec(kept=Kept.FP32), Payload.MAPS)
    assert ours < 12 * 2**30
    assert originals > 70e9


@pytest.mark.parametrize("payload", Payload)
@pytest.mark.parametrize("kept", [Kept.FP16, Kept.BF16, Kept.FP32])
def test_the_arithmetic_is_what_is_stored(
    unet: VideoUNet, model: ImageModel, payload: Payload, kept: Kept
) -> None:
    settings = StoreSpec(max_queries=16, kept=kept)
    store = AttentionStore(settings, payload)
    run(unet, model, clip(), [SOURCE], moment(ONE), recorders=[store])
    sites, tokens = list(control_of(unet).sites.values()), model.tokenizer.model_max_length
    assert store.nbytes == stored_bytes(sites, (SIDE, SIDE), FRAMES, 1, tokens, settings, payload)


@pytest.mark.parametrize("place", [Place.DEVICE, Place.CPU])
def test_what_memory_has_no_room_for_goes_to_disk(
    unet: VideoUNet, model: ImageModel, place: Place, tmp_path: Path
) -> None:
    """The same is read wherever it lies, memory stays within its bound, and the files go with the store."""
    whole = AttentionStore(StoreSpec(place=place))
    run(unet, model, clip(), [SOURCE], moment(ONE), recorders=[whole])
    bound = 0.6 * whole.nbytes
    spilling = AttentionStore(StoreSpec(place=place, max_memory_gb=bound / 1e9, folder=str(tmp_path)))
    for _ in range(2):  # as a fixed point asks twice
        run(unet, model, clip(), [SOURCE], moment(ONE), recorders=[spilling])
        assert spilling.nbytes == whole.nbytes
        assert 0.2 * bound < spilling.nbytes - spilling.nbytes_on_disk <= bound
    for site in control_of(unet).sites.values():
        ours, theirs = spilling.get(site, moment(ONE)), whole.get(site, moment(ONE))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert whole.nbytes_on_disk == 0
    assert list(tmp_path.glob("*/*.safetensors"))
    del spilling
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"store.max_memory_gb must be 0 \(no bound\) or more, got -1"):
        StoreSpec(max_memory_gb=-1)


def test_recorded_maps_are_those_of_recorded_queries_and_keys(unet: VideoUNet, model: ImageModel) -> None:
    """The originals' payload and ours, of one run; and the same edit comes of either."""
    stores = [AttentionStore(StoreSpec(kept=Kept.FP32), payload) for payload in (Payload.QK, Payload.MAPS)]
    run(unet, model, clip(), [SOURCE], moment(ONE, Direction.INVERT), recorders=stores)
    for site in control_of(unet).sites.values():
        ours, theirs = (store.maps(site, moment(ONE), slice(None), slice(None)) for store in stores)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    ours, theirs = (
        run(unet, model, clip(), [TARGET], moment(ONE), edits=[swap(model, source=Recorded(store))])
        for store in stores
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="a store of maps holds no queries and keys; record with payload qk"):
        run(
            unet,
            model,
            clip(),
            [TARGET],
            moment(ONE),
            edits=[CopySelf(source=Recorded(stores[1]), window=ALWAYS)],
        )


@pytest.mark.parametrize("place", Place)
def test_keys_and_values_of_another_run_are_a_reference(
    unet: VideoUNet, model: ImageModel, place: Place, tmp_path: Path
) -> None:
    """Rerender's and MasaCtrl's way across runs. At one site (beyond it the earlier run's frames had not read
    each other) a clip that reads what was kept of itself reads all of its frames."""
    store = AttentionStore(StoreSpec(place=place, kept=Kept.FP32, folder=str(tmp_path)), Payload.KV)
    run(unet, model, clip(), [SOURCE], moment(ONE), recorders=[store])
    one = AttentionWhere(ordinals=[0])
    control_of(unet).references["before"] = store
    kept, everything = (
        FrameKeys(where=one, **how)
        for how in ({"frames": [], "references": ["before"]}, {"frames": [Frame.ALL]})
    )
    found, expected, plain = (
        run(unet, model, clip(), [SOURCE], moment(ONE), keys=keys) for keys in ([kept], [everything], [])
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-4)


def test_hidden_states_are_what_projections_are_made_from(unet: VideoUNet, model: ImageModel) -> None:
    """Rerender's payload: projected again they give the keys that were read."""
    hidden, qk = (
        AttentionStore(StoreSpec(kept=Kept.FP32), payload) for payload in (Payload.HIDDEN, Payload.QK)
    )
    run(unet, model, clip(), [SOURCE], moment(ONE), recorders=[hidden, qk])
    for path, site in control_of(unet).sites.items():
        if site.kind is AttentionKind.SELF:
            project = unet.image_unet.get_submodule(path).to_k.float()
            again = project(hidden.get(site, moment(ONE))["hidden"])
            torch.testing.assert_close(again, qk.get(site, moment(ONE))["k"], atol=1e-5, rtol=1e-4)
            project.double()


# -- masks ---------------------------------------------------------------------------------------------------
def test_a_mask_from_words(unet: VideoUNet, model: ImageModel) -> None:
    settings, size = MaskSpec(num_queries=SIDE * SIDE // 4), (SIDE, SIDE)
    sites = mask_sites(control_of(unet).sites.values(), size, settings)
    heat = WordHeat({"source": [3, 4], "target": [3]}, sites, size, FRAMES)
    x, at = pair(clip()), moment()
    plain = run(unet, model, x, [SOURCE, TARGET], at)
    seen = run(unet, model, x, [SOURCE, TARGET], at, edits=[heat])
    torch.testing.assert_close(seen, plain, msg="looking changes nothing")
    assert heat.heat("source").shape == (FRAMES, SIDE // 2, SIDE // 2)
    for threshold, share in ((-1.0, 1.0), (2.0, 0.0)):
        mask = mask_of(heat.heat("source"), size, MaskSpec(threshold=threshold))
        assert mask.shape == (FRAMES, SIDE, SIDE)
        assert mask.float().mean() == share
    store = AttentionStore(StoreSpec(kept=Kept.FP32))
    run(unet, model, x[:1], [SOURCE], moment(ONE), recorders=[store])
    for to in (size, (SIDE // 4, SIDE // 4)):
        from_store = stored_mask(store, sites, moment(ONE), [3, 4], size, to, MaskSpec(threshold=0.9))
        assert torch.equal(from_store, mask_of(heat.heat("source"), to, MaskSpec(threshold=0.9)))
    with pytest.raises(ValueError, match="holds none of the cross-attention maps that the mask is made of"):
        stored_mask(store, sites, moment(ONE, step=1), [3], size, size, settings)


def test_a_sharp_edge_stays_where_it_is() -> None:
    """Two columns of heat 0 and 1 on four cells: nearest cells are all inside or all outside at any
    threshold. Bilinear ones would be 0, 1/4, 3/4, 1, so that at .75 one column more falls out."""
    heat = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    for threshold in (0.1, 0.5, 0.75, 0.9):
        mask = mask_of(heat, (4, 4), MaskSpec(threshold=threshold, grow=1))
        assert mask[0].tolist() == [[False, False, True, True]] * 4
    smooth = torch.nn.functional.interpolate(heat[None], (4, 4), mode="bilinear", align_corners=False)
    assert (smooth > 0.75).sum() == 4, "half of the nearest ones"


@pytest.mark.parametrize(
    ("size", "aspect", "level"),
    [
        (Blank.SD15, (64, 64), 2),
        (Blank.SD15, (96, 96), 2),
        (Blank.SD15, (40, 72), 2),
        (Blank.SD15, (128, 128), 2),
        (Blank.TOYBOX, (16, 16), 0),
    ],
)
def test_masks_are_made_of_the_maps_nearest_to_sixteen_squared(
    size: Blank, aspect: tuple[int, int], level: int
) -> None:
    """On Stable Diffusion those of two down and three up attentions (``down_cross[2:4]`` and ``up_cross[:3]``
    as released); never the middle block's."""
    with torch.device("meta"):
        sites = attention_sites(blank_unet(size))
    found = mask_sites(sites, aspect, MaskSpec())
    assert {site.level for site in found} == {level}
    stages = [site.stage.value for site in found]
    assert "mid" not in stages
    if size is Blank.SD15:
        assert stages == ["down"] * 2 + ["up"] * 3
    with pytest.raises(ValueError, match=r"mask.where matches no cross-attention"):
        mask_sites(sites, aspect, MaskSpec(where=AttentionWhere(levels=[9])))


def test_map_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"mask.num_queries must be at least 1, got 0"):
        MaskSpec(num_queries=0)
    with pytest.raises(ValueError, match=r"mask.grow must be odd so that it is centred on a cell, got 2"):
        MaskSpec(grow=2)


def test_grids_of_any_aspect() -> None:
    assert grid(64, (8, 8)) == (8, 8)
    assert grid(15, (10, 6)) == (5, 3)
    assert grid(1, (8, 8)) == (1, 1)
    with pytest.raises(ValueError, match="no level of a latent"):
        grid(50, (8, 8))


# -- words ---------------------------------------------------------------------------------------------------
def test_replacing_hands_all_attention_on(model: ImageModel) -> None:
    for target in (TARGET, "a tiny magenta star on a navy background", SOURCE):
        alignment = align(SOURCE, target, model.tokenizer, replace=True)
        torch.testing.assert_close(alignment.mapper.sum(1), torch.ones(len(alignment.mapper)))
    assert torch.equal(
        align(SOURCE, SOURCE, model.tokenizer, replace=True).mapper,
        torch.eye(model.tokenizer.model_max_length),
    )
    assert align(SOURCE, TARGET, model.tokenizer, replace=True).preview() == "replaces red -> blue"


def test_refining_keeps_common_words_and_frees_new_ones(model: ImageModel) -> None:
    target = "a large red circle that moves right on a black background"
    alignment = align(SOURCE, target, model.tokenizer, replace=False)
    words = Words.of(target, model.tokenizer)
    new = [p for word in ("that", "moves", "right") for p in words.positions(word)]
    assert [i for i, kept in enumerate(alignment.kept) if not kept] == new
    assert alignment.preview() == "adds that, moves, right"
    circle = Words.of(SOURCE, model.tokenizer).positions("circle")[0], words.positions("circle")[0]
    assert alignment.mapper[circle] == 1


def test_padding_of_a_refinement_keeps_its_own_position(model: ImageModel) -> None:
    """The end token has that of the source's end; padding behind it has its own position's, longer or shorter
    prompt alike."""
    limit = model.tokenizer.model_max_length
    for target in (SOURCE + " at night", "a large red circle"):
        alignment = align(SOURCE, target, model.tokenizer, replace=False)
        (source_end, end) = (words.spans[-1].stop for words in (alignment.source, alignment.target))
        assert alignment.mapper[source_end, end] == 1
        padding = list(range(end + 1, limit))
        assert torch.equal(alignment.mapper[:, padding], torch.eye(limit)[:, padding])
        assert torch.equal(alignment.mapper.sum(0), alignment.kept), "one source for every kept token"
    same = align(SOURCE, SOURCE, model.tokenizer, replace=False)
    assert torch.equal(same.mapper, torch.eye(limit))


def test_a_comma_is_not_another_word(model: ImageModel) -> None:
    """ "circle" hands all its attention to "circle", not half of it to the comma behind it; and nobody reads
    that it was replaced."""
    target = "a large red circle, on a black background, at night"
    alignment = align(SOURCE, target, model.tokenizer, replace=False)
    assert alignment.preview() == "adds at, night"
    (before,), (circle, comma) = (
        Words.of(prompt, model.tokenizer).positions("circle") for prompt in (SOURCE, target)
    )
    assert (alignment.mapper[before, circle], alignment.mapper[before, comma]) == (1, 0)
    assert (alignment.kept[circle], alignment.kept[comma]) == (1, 0)


def test_words_that_do_not_fit_speak(model: ImageModel) -> None:
    with pytest.raises(
        ValueError, match="replace needs as many words in the target as in the source, got 3 and 8"
    ):
        align(SOURCE, "a blue circle", model.tokenizer, replace=True)
    with pytest.raises(ValueError, match="word 'jeep' does not occur in the target prompt"):
        Words.of(TARGET, model.tokenizer).positions("jeep", "target prompt")
    with pytest.raises(ValueError, match="the text encoder reads 75"):
        Words.of("circle " * 90, model.tokenizer)

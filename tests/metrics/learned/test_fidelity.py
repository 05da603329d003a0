"""PSNR, masked PSNR, SSIM and LPIPS against a source."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.fidelity import PSNR_CAP
from vgen.metrics.learned.lpips import TAPS, load_lpips, trunk
from vgen.metrics.learned.settings import LpipsNet, Weights

NAMES = ["psnr", "ssim", "lpips"]


@pytest.fixture(scope="session")
def trunks(tmp_path_factory):
    """A random-weight state file per network, laid out as torchvision's."""
    folder = tmp_path_factory.mktemp("trunks")
    for kind in LpipsNet:
        torch.manual_seed(0)
        state = {f"features.{key}": value for key, value in trunk(kind).state_dict().items()}
        torch.save(state | {"classifier.1.weight": torch.zeros(1)}, folder / f"{kind.value}.pth")
    return folder


@pytest.fixture
def settings(trunks):
    return LearnedMetrics(lpips=Weights(path=str(trunks / "alex.pth")))


def shifted(videos, by):
    return [np.clip(v.astype(int) + by, 0, 255).astype(np.uint8) for v in videos]


def test_a_video_is_its_own_best_match_and_worse_the_more_it_is_spoilt(videos, settings, noisy):
    found = [
        measure(NAMES, Clips(videos=noisy(videos, sigma), sources=videos), settings)
        for sigma in (0, 0.02, 0.1)
    ]
    assert (found[0]["psnr"].value, found[0]["ssim"].value, found[0]["lpips"].value) == (
        PSNR_CAP,
        pytest.approx(1, abs=1e-9),
        0,
    )
    for better, worse in pairwise(found):
        assert better["psnr"].value > worse["psnr"].value
        assert better["ssim"].value > worse["ssim"].value
        assert better["lpips"].value < worse["lpips"].value


def test_ssim_equals_torchmetrics_in_double_precision(videos, noisy):
    from torchmetrics.functional.image import structural_similarity_index_measure

    spoilt = noisy(videos, 0.1)
    a, b = (
        torch.from_numpy(np.concatenate(v)).permute(0, 3, 1, 2).double() / 255
        for v in (spoilt[:1], videos[:1])
    )
    want = float(structural_similarity_index_measure(a, b, data_range=1.0))
    assert measure(["ssim"], Clips(videos=spoilt[:1], sources=videos[:1]))["ssim"].value == pytest.approx(
        want, abs=1e-6
    )


def test_psnr_of_a_known_error_and_no_wrap_around():
    dark, bright = np.full((2, 8, 8, 3), 10, np.uint8), np.full((2, 8, 8, 3), 240, np.uint8)
    for pair in ((dark, bright), (bright, dark)):
        value = measure(["psnr"], Clips(videos=[pair[0]], sources=[pair[1]]))["psnr"].value
        assert value == pytest.approx(-20 * math.log10(230 / 255))


@pytest.mark.parametrize("side", [2, 4, 16])
def test_masked_psnr_does_not_depend_on_the_area_of_the_mask(side):
    """The same error per pixel reads the same however small the region is; the usual whole-picture
    denominator inflates it."""
    source = np.full((3, 16, 16, 3), 100, np.uint8)
    video, mask = source.copy(), np.zeros((3, 16, 16), bool)
    mask[:, :side, :side] = True
    video[mask] += 20
    video[~mask] = 255
    value = measure(["masked_psnr"], Clips(videos=[video], sources=[source], masks=[mask]))[
        "masked_psnr"
    ].value
    assert value == pytest.approx(-20 * math.log10(20 / 255))


def test_an_empty_mask_asks_for_nothing_and_is_no_perfect_score(videos):
    masks = [np.zeros(v.shape[:3], bool) for v in videos]
    result = measure(["masked_psnr"], Clips(videos=videos, sources=videos, masks=masks))["masked_psnr"]
    assert result.value is None
    assert "nothing to measure" in result.skipped
    masks[0][:] = True
    result = measure(["masked_psnr"], Clips(videos=videos, sources=videos, masks=masks))["masked_psnr"]
    assert result.per_clip == [PSNR_CAP, None, None, None]


@pytest.mark.parametrize("kind", list(LpipsNet))
def test_lpips_equals_torchmetrics(kind, trunks, monkeypatch):
    """torchmetrics' own class, given the same trunk in place of the one that it would download through
    torchvision."""
    from torchmetrics.functional.image import lpips as theirs

    torch.manual_seed(0)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: trunk(kind))
    reference = theirs._LPIPS(net=kind.value, pnet_rand=True)
    ours = load_lpips(trunks / f"{kind.value}.pth", kind)
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.allclose(ours(a, b), reference(a, b).flatten(), rtol=1e-4)
    assert len(ours.heads) == len(TAPS[kind])


def test_lpips_refuses_another_network(videos, trunks):
    settings = LearnedMetrics(lpips=Weights(path=str(trunks / "vgg.pth")))
    with pytest.raises(
        ValueError, match=r"must be torchvision's file of alex, but features\.0\.weight differs"
    ):
        measure(["lpips"], Clips(videos=videos, sources=videos), settings)


def test_a_cut_state_file_is_one_sentence(videos, trunks, tmp_path):
    (tmp_path / "alex.pth").write_bytes((trunks / "alex.pth").read_bytes()[:20000])
    settings = LearnedMetrics(lpips=Weights(path=str(tmp_path / "alex.pth")))
    with pytest.raises(
        ValueError,
        match=r"lpips.path=.* must be a file of tensors that torch.load reads with weights_only; get it "
        r"again",
    ):
        measure(["lpips"], Clips(videos=videos, sources=videos), settings)


def test_the_network_is_part_of_the_manifest(videos, settings):
    assert measure(["lpips"], Clips(videos=videos, sources=videos), settings)["lpips"].manifest.options == {
        "net": "alex"
    }


def test_numbers_do_not_depend_on_the_batch_size(videos, settings, noisy):
    clips = Clips(videos=noisy(videos, 0.05), sources=videos)
    whole = measure(NAMES, clips, settings)
    settings.batch_size = 1
    single = measure(NAMES, clips, settings)
    for name in NAMES:
        assert single[name].per_clip == pytest.approx(whole[name].per_clip, rel=1e-5)

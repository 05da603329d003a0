"""One entry: results with manifests, reasons for what is skipped, refusals before any network runs."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.learned import Clips, LearnedMetrics, Result, catalogue, comparable, measure
from vgen.metrics.learned.settings import Minimums, Weights


@pytest.fixture
def clips(videos, prompts):
    return Clips(videos=videos, sources=videos, prompts=prompts, seed=3, codec="h264 crf 18")


def test_unknown_names_are_all_listed_with_those_that_exist(clips):
    with pytest.raises(ValueError, match=r"no metric called clip_tex, fdv; those offered are .*psnr"):
        measure(["clip_tex", "psnr", "fdv"], clips)


def test_everything_can_be_asked_for_without_any_weights(clips):
    """None is a value or a reason, never a nought; each reason names what to set or to give."""
    results = measure(None, clips)
    assert list(results) == list(catalogue())
    for name, result in results.items():
        assert (result.value is None) == (result.skipped is not None), name
        if result.skipped:
            assert name in result.skipped
            assert any(says in result.skipped for says in ("were not given", "set ", "nothing to measure")), (
                result.skipped
            )


def test_weights_that_are_not_there_skip_the_metric_and_say_where_to_get_them(clips, tmp_path):
    settings = LearnedMetrics(lpips=Weights(path=str(tmp_path / "gone.pth")))
    assert (
        "gone.pth: learned.lpips.path should be torchvision's"
        in measure(["lpips"], clips, settings)["lpips"].skipped
    )


def test_other_weights_than_declared_are_an_error(clips, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"x")
    settings = LearnedMetrics(lpips=Weights(path=str(tmp_path / "a.pth"), sha256="0" * 64))
    with pytest.raises(ValueError, match=r"must have the declared sha256 0000.*got 2d711642"):
        measure(["lpips"], clips, settings)


def test_a_file_named_after_its_hash_must_have_it(clips, tmp_path):
    """The convention of torch's hub; it finds cut downloads without anyone declaring anything."""
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"half of it")
    with pytest.raises(
        ValueError, match=r"carries the start of its sha256 in its name, but has .*; get it again"
    ):
        measure(
            ["lpips"], clips, LearnedMetrics(lpips=Weights(path=str(tmp_path / "alexnet-owt-7be5be79.pth")))
        )


def test_settings_are_a_schema_for_the_command_line():
    from omegaconf import OmegaConf

    typed = OmegaConf.from_dotlist(["clip.path=data/toybox", "minimums.mmd_clips=8", "lpips_net=VGG"])
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LearnedMetrics), typed))
    assert isinstance(settings, LearnedMetrics)
    assert (settings.clip.path, settings.minimums.mmd_clips, settings.lpips_net.value) == (
        "data/toybox",
        8,
        "vgg",
    )


def test_importing_the_entry_loads_no_network_library():
    code = (
        "import sys, vgen.metrics.learned; sys.exit(sum(name in sys.modules for name in ('torch', "
        "'transformers', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_hash_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match=r"64 hexadecimal digits, got 'abc'"):
        Weights(sha256="abc")
    with pytest.raises(ValueError, match=r"minimums.mmd_clips must be 2 or more"):
        Minimums(mmd_clips=1)
    with pytest.raises(ValueError, match=r"batch_size must be 1"):
        LearnedMetrics(batch_size=0)


def test_the_manifest_says_what_made_the_number(clips):
    made = measure(["psnr"], clips)["psnr"].manifest
    assert (made.id, made.n, made.frames, made.size, made.codec, made.seed) == (
        "psnr",
        4,
        6,
        [64, 64],
        "h264 crf 18",
        3,
    )
    assert made.videos == clips.digest(["videos"])
    assert made.task == clips.digest(["sources"])


def test_results_survive_json(clips):
    result = measure(["psnr"], clips)["psnr"]
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_values_of_one_rule_are_comparable_whatever_the_videos_show(clips, videos, prompts):
    other = Clips(videos=videos[::-1], sources=videos, prompts=prompts, seed=3, codec="h264 crf 18")
    comparable(measure(["psnr"], clips)["psnr"], measure(["psnr"], other)["psnr"])


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"weights": {"clip": "f" * 64}},
        {"n": 5},
        {"frames": 8},
        {"size": [32, 32]},
        {"resize": "224"},
        {"codec": "raw"},
        {"seed": 4},
        {"options": {"net": "vgg"}},
        {"task": "0" * 64},
        {"id": "ssim"},
    ],
)
def test_values_of_two_rules_are_not(clips, change):
    one = measure(["psnr"], clips)["psnr"].manifest
    with pytest.raises(
        ValueError, match=rf"psnr.* cannot be compared, since they differ in {next(iter(change))} \("
    ):
        comparable(one, replace(one, **change))


def test_a_skipped_metric_compares_with_nothing(clips):
    skipped = measure(["lpips"], clips)["lpips"]
    with pytest.raises(ValueError, match=r"a skipped metric cannot be compared"):
        comparable(skipped, skipped)


def test_uint8_and_float_give_the_same_numbers(videos):
    darker = [v // 2 for v in videos]
    as_bytes = measure(["psnr", "ssim"], Clips(videos=videos, sources=darker))
    as_floats = measure(
        ["psnr", "ssim"], Clips(videos=[v.astype(np.float32) / 255 for v in videos], sources=darker)
    )
    assert as_bytes == as_floats

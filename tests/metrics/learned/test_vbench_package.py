"""The bridge to the package vbench, which needs an environment of its own: driven by a stand-in with its
interface and file formats."""

import io
import sys

import av
import numpy as np
import pytest

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.settings import VBenchPackage
from vgen.metrics.learned.vbench_package import DIMENSIONS, lossless

STAND_IN = '''
import json, os
class VBench:
    """What version 0.1.5 does with these arguments, with the clip's index and the prompt's length for a score."""
    def __init__(self, device, full_info_dir, output_path):
        os.makedirs(output_path, exist_ok=True)
        self.out = output_path
    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, local=False, read_frame=False, mode="vbench_standard"):
        assert local and mode == "custom_input" and os.environ["VBENCH_CACHE_DIR"]
        names = sorted(os.listdir(videos_path), reverse=True)[DROPPED:]
        rows = [{"video_path": f"{videos_path}/{n}", "video_results": int(n[:6]) + 100 * len(prompt_list[n])} for n in names]
        with open(f"{self.out}/{name}_eval_results.json", "w") as f:
            json.dump({d: [0.5, rows] for d in dimension_list}, f)
'''  # noqa: E501


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "site" / "vbench").mkdir(parents=True)
    (tmp_path / "site" / "vbench-0.1.5.dist-info").mkdir()
    (tmp_path / "site" / "vbench-0.1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n"
    )
    (tmp_path / "site" / "vbench" / "__init__.py").write_text(STAND_IN.replace("DROPPED", "0"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    for file in {file for dimension in DIMENSIONS for file in dimension.files}:
        (tmp_path / "cache" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / file).write_bytes(file.encode())
    return LearnedMetrics(vbench=VBenchPackage(python=sys.executable, cache=str(tmp_path / "cache")))


def test_scores_come_back_by_clip_with_their_own_prompts(package, videos):
    clips = Clips(videos=videos, prompts=["", "a", "bb", "ccc"])
    found = measure(["vbench_overall_consistency", "vbench_imaging_quality"], clips, package)
    assert found["vbench_overall_consistency"].per_clip == [0, 101, 202, 303]
    assert found["vbench_imaging_quality"].per_clip == pytest.approx([0, 1.01, 2.02, 3.03]), (
        "per video it is out of 100"
    )
    options = found["vbench_imaging_quality"].manifest.options
    assert (options["vbench"], options["fps"]) == ("0.1.5", "8.0")
    assert len(options["files"]) == 64


def test_a_dropped_clip_is_an_error(package, videos, tmp_path):
    (tmp_path / "site" / "vbench" / "__init__.py").write_text(STAND_IN.replace("DROPPED", "1"))
    with pytest.raises(ValueError, match="must score each of 4 clips, got 3"):
        measure(["vbench_motion_smoothness"], Clips(videos=videos), package)


def test_its_failure_is_one_sentence(package, videos, tmp_path):
    (tmp_path / "site" / "vbench" / "__init__.py").write_text("raise OSError('no detectron2')")
    with pytest.raises(
        ValueError, match="vbench could not measure motion_smoothness: OSError: no detectron2"
    ):
        measure(["vbench_motion_smoothness"], Clips(videos=videos), package)


def test_weights_that_it_would_fetch_are_looked_for_first(package, videos, tmp_path):
    name = "vbench_motion_smoothness"
    (tmp_path / "cache" / "amt_model" / "amt-s.pth").unlink()
    assert "holds amt_model/amt-s.pth" in measure([name], Clips(videos=videos), package)[name].skipped
    package.vbench.python = "/nowhere/python"
    assert "is not there" in measure([name], Clips(videos=videos), package)[name].skipped


def test_the_clips_lose_nothing_but_the_rounding_to_yuv(videos):
    with av.open(io.BytesIO(lossless(videos[0], 8))) as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == videos[0].shape
    assert np.abs(read.astype(int) - videos[0]).max() <= 3

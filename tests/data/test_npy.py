"""An array on disk that grows row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgen.data.npy import GrowingArray


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_it_is_the_file_numpy_would_have_written(tmp_path: Path, dtype: type) -> None:
    rows = np.random.default_rng(0).integers(0, 200, (1_003, 4, 3)).astype(dtype)
    with GrowingArray(tmp_path / "grown.npy") as grown:
        for part in np.split(rows, [1, 9, 10, 500]):  # the count passes from one digit to four
            grown.append(part)
    np.save(tmp_path / "whole.npy", rows)
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize(
    ("rows", "got"),
    [(np.zeros((2, 5), np.float16), r"float16 \(5,\)"), (np.zeros((2, 4)), r"float64 \(4,\)")],
)
def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path, rows: np.ndarray, got: str) -> None:
    with GrowingArray(tmp_path / "a.npy") as grown:
        grown.append(np.ones((3, 4), np.float16))
        with pytest.raises(ValueError, match=rf"rows of .*a\.npy are float16 \(4,\), got {got}"):
            grown.append(rows)
    assert np.load(tmp_path / "a.npy").shape == (3, 4)


def test_after_an_error_the_file_holds_no_rows(tmp_path: Path) -> None:
    def filled() -> None:
        with GrowingArray(tmp_path / "a.npy") as grown:
            grown.append(np.ones((3, 4), np.float16))
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        filled()
    assert np.load(tmp_path / "a.npy").shape == (0, 4)


def test_an_array_without_rows_is_none(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"nothing was written to .*a\.npy"),
        GrowingArray(tmp_path / "a.npy"),
    ):
        pass

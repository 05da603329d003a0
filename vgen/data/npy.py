"""A ``.npy`` file that grows row by row, for arrays that do not fit into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy


class GrowingArray:
    """Rows of one shape and type, appended to ``path``; leaving the context writes how many there are. After
    an error the file says none.

    numpy pads a header so that its first axis may grow in place, which is what this relies on.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._row: tuple[tuple[int, ...], np.dtype] | None = None
        self._num_rows = 0

    def append(self, rows: np.ndarray) -> None:
        """``rows`` n ...: all of one shape but for n. Raises ValueError where they differ."""
        row = (rows.shape[1:], rows.dtype)
        if self._row is None:
            self._row = row
            self._write_header()
        if row != self._row:
            raise ValueError(
                f"rows of {self._file.name} are {self._row[1]} {self._row[0]}, got {row[1]} {row[0]}"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self._num_rows += len(rows)

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Raises ValueError where nothing was appended: then there is no shape to write."""
        with self._file:
            if error is not None:
                return
            if self._row is None:
                raise ValueError(f"nothing was written to {self._file.name}")
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        assert self._row is not None
        shape, dtype = self._row
        fields = {
            "descr": npy.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._num_rows, *shape),
        }
        npy.write_array_header_1_0(self._file, fields)

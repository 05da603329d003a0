"""Laws of a clip's fields: what is not bent is the canonical picture."""

from __future__ import annotations

import pytest
import torch

from vgen.layers.canonical_field import (
    FieldKind,
    Instant,
    VideoField,
    VideoFieldSpec,
    pixel_points,
    read_at,
)
from vgen.layers.hash_grid import HashGridSpec
from vgen.methods import _reconstruction
from vgen.methods._reconstruction import canonical_pictures, shown_frames
from vgen.methods._rendering import Shown

FEW = HashGridSpec(num_levels=4, log2_entries=8, base_resolution=4)
KINDS = pytest.mark.parametrize("kind", list(FieldKind))


def field_of(kind: FieldKind, num_groups: int = 1) -> VideoField:
    torch.manual_seed(0)
    spec = VideoFieldSpec(kind=kind, num_groups=num_groups, deformation=FEW, canonical=FEW, width=16)
    field = VideoField(spec).requires_grad_(False)
    for name, p in field.named_parameters():
        if name.endswith("table"):
            torch.nn.init.normal_(p, std=0.5)
    return field


def still(field: VideoField) -> VideoField:
    """Without deformation."""
    for name, p in field.named_parameters():
        if name.startswith("deformations"):
            torch.nn.init.zeros_(p)
    return field


@KINDS
def test_without_deformation_every_frame_is_the_canonical_picture(kind: FieldKind) -> None:
    field, shown = still(field_of(kind)), Shown(num_frames=3, height_px=12, width_px=10)
    picture = canonical_pictures(field, shown.size, border=2)
    assert picture.shape == (1, 3, 16, 14)
    inner = picture[0, :, 2:-2, 2:-2]
    for frames in (shown_frames(field, shown, 2), shown_frames(field, shown, 2, [picture[0]])):
        torch.testing.assert_close(frames, inner.expand(3, -1, -1, -1), atol=1e-5, rtol=0)


def test_a_picture_twice_as_fine_is_read_at_the_same_places() -> None:
    """Of a picture whose colours are its points, the points come back, at either size."""
    points = pixel_points(8, 6)
    for times in (1, 2):
        rows = (torch.arange(times * 12) + 0.5) / times - 2.5
        columns = (torch.arange(times * 10) + 0.5) / times - 2.5
        picture = torch.stack(torch.meshgrid(rows / 8, columns / 6, indexing="ij"))
        torch.testing.assert_close(read_at(picture, points, (8, 6), 2), points, atol=1e-5, rtol=0)


@KINDS
def test_chunks_do_not_show(kind: FieldKind, monkeypatch: pytest.MonkeyPatch) -> None:
    field, shown = field_of(kind), Shown(num_frames=2, height_px=9, width_px=7)
    whole = canonical_pictures(field, shown.size, 1), shown_frames(field, shown, 1)
    monkeypatch.setattr(_reconstruction, "CHUNK", 10)
    parts = canonical_pictures(field, shown.size, 1), shown_frames(field, shown, 1)
    torch.testing.assert_close(parts, whole)


@KINDS
def test_frames_differ_and_groups_are_apart(kind: FieldKind) -> None:
    field, points = field_of(kind, num_groups=2), pixel_points(5, 5)
    for bend in field.deformations:
        torch.nn.init.normal_(list(bend.parameters())[-2])
    first, later = (field(points, Instant(i, 4))[0] for i in (0, 3))
    assert not torch.allclose(first, later)
    assert not torch.allclose(first[0], first[1])


def test_autocast_does_not_blur_the_points() -> None:
    field, points = field_of(FieldKind.HASH), pixel_points(5, 5)
    plain = field.bent(points, Instant(1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(field.bent(points, Instant(1, 2)), plain)


def test_more_frames_than_embeddings() -> None:
    field = field_of(FieldKind.FOURIER)
    with pytest.raises(ValueError, match="most_frames=200"):
        field(pixel_points(2, 2), Instant(200, 201))


@pytest.mark.parametrize("knobs", [{"num_groups": 0}, {"width": 0}])
def test_what_no_field_can_be(knobs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        VideoFieldSpec(**knobs)  # type: ignore[arg-type]

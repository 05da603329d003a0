"""Captions that say more than the text encoder reads: counted before training, and said once."""

from __future__ import annotations

import logging

from vgen.backbones.image_model import ImageModel
from vgen.data.clips import Clips
from vgen.data.fields import Needs

log = logging.getLogger(__name__)
MOST_READ = 2000
"""Captions that are looked at; of more, so many at equal distances."""
_CAPTION = Needs(required=frozenset(), optional=frozenset({"caption"}))


def say_cut_captions(model: ImageModel, clips: Clips) -> None:
    """One line on how many captions of the training clips lose their end, and how much of it; none where all
    are read whole."""
    if "caption" not in clips.needs.names or not len(clips.rows):
        return
    rows = clips.rows[:: -(-len(clips.rows) // MOST_READ)]
    reader = clips.reader.reading(_CAPTION)
    captions = [reader[row].caption or "" for row in rows]
    lost = [num for caption in captions if (num := model.left_out(caption))]
    if not lost:
        return
    looked_at = "" if len(rows) == len(clips.rows) else f" (of {len(clips.rows):,} in all)"
    log.warning(
        "%d of %d captions%s, %.0f %%, are longer than the text encoder reads (%d tokens): up to %d tokens "
        "at their ends are left out; shorter captions say all",
        len(lost),
        len(rows),
        looked_at,
        100 * len(lost) / len(rows),
        model.tokenizer.model_max_length - 2,
        max(lost),
    )

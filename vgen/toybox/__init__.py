"""The miniature world: typed scenes, one renderer, captions, splits, and the oracle that reads videos back
into facts."""

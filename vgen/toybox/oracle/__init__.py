"""The oracle: reads any uint8 video back into facts, with numpy and scipy alone and nothing learned."""

from vgen.toybox.oracle.facts import Facts, Seen, read, read_image

__all__ = ["Facts", "Seen", "read", "read_image"]

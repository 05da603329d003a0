"""Shards: videos in, plain WebDataset tars with an index, a manifest and a ledger out; and the reader and the
order that training uses."""

"""Examples to memory-mapped documents under a content hash, and from there to batches."""

"""From data files to batches: rows -> examples -> trained and untrained tokens -> prepared folder -> ``Batch``."""

"""Data files to other data files: convert, split, sample, invert."""

"""Rows to examples: what columns mean, and which side of the split an example is on."""

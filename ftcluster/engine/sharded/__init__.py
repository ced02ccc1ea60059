"""One trial over several processes with DeepSpeed's ZeRO; only this package imports DeepSpeed."""

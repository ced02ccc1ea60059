"""ftcluster: fine-tuning sweeps on a cluster, compared in MLflow, promoted to the registry."""

__version__ = "0.1.0"

"""A run's records: durable on this machine first (``spool``), then in MLflow, each exactly once (``projector``)."""

"""The prepared data of a sweep's trials; those of the same data share it."""

from __future__ import annotations

from ftcluster.config.schema import RunConfig
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.training.bench import prepare_data


class Datasets:
    """Each is prepared, or found, once."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedData] = {}

    def of(self, config: RunConfig) -> PreparedData:
        """What a trial reads.

        Raises:
            DataError: its data cannot be used.
        """
        key = repr((config.model, config.data, config.objective))
        if key not in self._prepared:
            self._prepared[key] = prepare_data(config)
        return self._prepared[key]

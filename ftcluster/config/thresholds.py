"""How much of a finding about the data is a warning, and how much stops a run, unless a config says otherwise.

Shares of rows: a finding on more than this share counts, 0 is any row at all and 1 is never. What each finding means
is ``data.audit.findings``' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ftcluster.config.suggest import did_you_mean

NEVER = 1.0
# finding -> (warns above, refuses above)
_DEFAULTS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "unusable": (0.0, NEVER),  # data.max_bad_rows refuses
        "too_long": (0.02, NEVER),
        "untrained": (0.0, 0.5),
        "duplicates": (0.01, NEVER),
        "near_duplicates": (0.05, NEVER),
        "overlap": (0.0, 0.2),
        "encoding": (0.0, 0.2),
        "lost_characters": (0.0, 0.5),
        "control_characters": (0.0, 0.5),
        "empty_answers": (0.0, 0.2),
        "short_answers": (0.5, NEVER),
        "markers": (0.0, 0.2),
        "control_tokens": (0.0, 0.2),
        "placeholders": (0.0, NEVER),
        "other_languages": (NEVER, NEVER),
    }
)
WARN: Mapping[str, float] = MappingProxyType({name: shares[0] for name, shares in _DEFAULTS.items()})
REFUSE: Mapping[str, float] = MappingProxyType({name: shares[1] for name, shares in _DEFAULTS.items()})


def threshold_problems(field: str, shares: Mapping[str, float]) -> Iterator[str]:
    """What is wrong with the thresholds of ``data.warn`` or ``data.refuse``, a sentence each."""
    for name, share in shares.items():
        if name not in _DEFAULTS:
            near = did_you_mean(name, _DEFAULTS)
            yield f"{field}.{name}: there is no such finding.{near} Known: {', '.join(_DEFAULTS)}."
        elif not 0 <= share <= 1:
            yield f"{field}.{name}={share:g} must be a share of the rows, from 0 (any row) to 1 (never)."

"""What may be written down about a run: nested settings as dotted keys, secrets struck out.

Works on names and URLs only: a secret in a free text, or in a file that is stored as an artifact, is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET = re.compile(r"secret|passw(or)?d|api[_-]?key|credential", re.IGNORECASE)
# "hf_token" and "apiTokens" are secrets; "tokenizer" is none, nor is a count such as "max_new_tokens: 64".
_TOKEN = re.compile(r"tokens?(?![a-z])", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s]*@", re.IGNORECASE)


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": 1e-3}}`` -> ``{"optim.lr": 1e-3}``, with secrets hidden; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{key}.")
        else:
            flat[key] = hide_secrets(key, value)
    return flat


def hide_secrets(key: str, value: Any) -> Any:
    """The value, ``***`` where its key names a secret, and without the user of any URL in it."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET.search(key) or (_TOKEN.search(key) and not isinstance(value, (int, float))):
        return HIDDEN
    if isinstance(value, Mapping):
        return {name: hide_secrets(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide_secrets(key, item) for item in value]
    return hide_url_users(value) if isinstance(value, str) else value


def hide_url_users(text: str) -> str:
    """``postgresql://me:pass@db/x`` -> ``postgresql://***@db/x``."""
    return _USER_OF_URL.sub(rf"\1{HIDDEN}@", text)

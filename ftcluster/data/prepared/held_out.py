"""Whether two prepared folders ask the same: what is trained on may differ, what is held out may not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from ftcluster.data.prepared.documents import Documents
from ftcluster.data.prepared.folder import HeldOutSplit, PreparedData


def tokens_hash(documents: Documents) -> str:
    """Of tokens and of which of them count; losses over documents of one hash can be compared."""
    digest = hashlib.sha256()
    for index in range(len(documents)):
        tokens, trained = documents.get(index)
        digest.update(len(tokens).to_bytes(8))
        digest.update(tokens.tobytes())
        digest.update(trained.tobytes())
    return digest.hexdigest()


def questions_hash(data: PreparedData, split: HeldOutSplit) -> str:
    """Of questions and references, whatever their tokens; answers to questions of one hash can be compared."""
    asked = [[asdict(each)["messages"], each.reference] for each in data.held_out(split)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def same_held_out(one: PreparedData, other: PreparedData) -> bool:
    """Whether both hold out the same tokens, for validation and for tests."""
    return one.folder.name == other.folder.name or all(
        tokens_hash(mine) == tokens_hash(theirs)
        for mine, theirs in ((one.validation, other.validation), (one.test, other.test))
    )

"""Vectors of texts: how far they are from those of another program, and how alike two are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: The name under which tests serve the model of sentences.
ENCODER = "minilm"

#: How far a number may be from the reference. That computes in f64 and Realm in f32, over six
#: layers, where the numbers of a vector are about 0.05.
APART_MAX = 2e-6

_VECTORS = Path(__file__).parents[2] / "vectors" / "models" / "minilm.json"


@dataclass(frozen=True)
class Reference:
    """Texts, their tokens, and the vectors that numpy makes of them."""

    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    vectors: Sequence[Sequence[float]]

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(len(ids) for ids in self.ids)


def reference() -> Reference:
    """What `tests/vectors/models/minilm.py` has made."""
    return Reference(**json.loads(_VECTORS.read_text()))


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two numbers of the same place."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors of length 1."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))

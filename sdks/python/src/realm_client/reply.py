"""What comes back from a call: chunks, then one result."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

#: A JSON value as the standard library reads it.
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is: the tokens since the chunk before, and the place of the first."""

    first: int
    tokens: tuple[int, ...]
    seed: int | None  # what the answer is drawn with, in a call's first chunk


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, and the natural logarithm of what the model gave it; -9999 is next to nothing."""

    id: int
    text: str  # with something else in place of what is no whole character
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely a token was to the model itself, and which ones were likeliest in its place."""

    chosen: ScoredToken
    top: tuple[ScoredToken, ...] = ()  # the likeliest first


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed reply: text, or a value of the program's own making."""

    index: int
    text: str | None = None
    step: str | None = None  # the pipeline step it belongs to
    value: Json = None
    progress: Progress | None = None  # of an answer that can be resumed
    logprobs: tuple[Logprobs, ...] = ()  # of the tokens since the chunk before, where asked for


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost, in tokens."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of the tenant's limits; `None` where there is no such limit."""

    requests: int | None
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Completion:
    """The last frame of a call that was served."""

    data: Json
    finish: str | None
    usage: Usage | None
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The whole answer to any function."""

    data: Json
    text: str
    finish: str | None
    usage: Usage | None
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class TextReply:
    """The whole answer to `generate` and `chat`. `finish` is `stop` or `length`."""

    text: str
    finish: str
    usage: Usage
    quota: Quota | None
    logprobs: tuple[Logprobs, ...] = ()  # of every token, where they were asked for


@dataclass(frozen=True, slots=True)
class PipelineReply:
    """The outputs of a pipeline by name; the output of a model's step is its text."""

    outputs: Mapping[str, Json]
    usage: Usage | None
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the model sees it."""

    tokens: Sequence[int]
    count: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each text, in their order, each of `dimensions` single-precision numbers.

    `array.array` is a sequence of floats; numpy reads all of it with `numpy.array(vectors)`.
    `tokens` has what each text took.
    """

    vectors: Sequence[array[float]]
    dimensions: int
    tokens: Sequence[int]
    usage: Usage | None
    quota: Quota | None


@dataclass(frozen=True, slots=True)
class Health:
    """`status` is `ok` or `draining`."""

    status: str
    version: str
    uptime_s: float


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A function this tenant may call."""

    name: str
    description: str
    params_schema: Json
    streams: bool


@dataclass(frozen=True, slots=True)
class EmbedInfo:
    """What a model makes of texts.

    A vector has `dimensions` numbers, of which fewer may be asked for where it `shortens`; a text
    may have `tokens_max` tokens.
    """

    dimensions: int
    tokens_max: int
    shortens: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model this tenant may use. `context` is in tokens.

    `functions` has those of `generate`, `chat` and `embed` that it can be asked for; `None` where
    this door does not know, because the model is not loaded on its node.
    """

    alias: str
    ready: bool
    context: int | None
    functions: Sequence[str] | None = None
    embeds: EmbedInfo | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server offers to this tenant."""

    version: str
    functions: Sequence[FunctionInfo]
    models: Sequence[ModelInfo]
    pipelines: Sequence[str]

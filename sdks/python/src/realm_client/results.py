"""Makes each function's own result from its chunks and its last frame. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from realm_client import vectors
from realm_client.fields import FieldError, Fields, item_count, item_text
from realm_client.reply import (
    Chunk,
    Completion,
    Embeddings,
    EmbedInfo,
    FunctionInfo,
    Health,
    Json,
    Logprobs,
    Metadata,
    ModelInfo,
    PipelineReply,
    Reply,
    TextReply,
    Tokens,
)
from realm_client.scored import decode_logprobs


def to_reply(chunks: Sequence[Chunk], end: Completion) -> Reply:
    """Any function: its data as it is, its text joined."""
    return Reply(end.data, _text(chunks, end), end.finish, end.usage, end.quota)


def to_text_reply(chunks: Sequence[Chunk], end: Completion) -> TextReply:
    """`generate` and `chat`."""
    if end.finish is None or end.usage is None:
        raise FieldError("the last frame has no finish or no usage")
    logprobs = _logprobs(chunks, end)
    return TextReply(_text(chunks, end), end.finish, end.usage, end.quota, logprobs)


def to_pipeline_reply(_chunks: Sequence[Chunk], end: Completion) -> PipelineReply:
    """`pipeline`."""
    outputs = Fields(end.data, "data").raw("outputs")
    if not isinstance(outputs, dict):
        raise FieldError("data.outputs is not an object")
    return PipelineReply(outputs, end.usage, end.quota)


def to_tokens(_chunks: Sequence[Chunk], end: Completion) -> Tokens:
    """`tokenize`."""
    data = Fields(end.data, "data")
    return Tokens(data.items("tokens", item_count), data.count("count"))


def to_embeddings(_chunks: Sequence[Chunk], end: Completion) -> Embeddings:
    """`embed`."""
    data = Fields(end.data, "data")
    read = data.items("vectors", vectors.read)
    dimensions = data.count("dimensions")
    if any(len(vector) != dimensions for vector in read):
        raise FieldError(f"data.vectors has others than of {dimensions} numbers")
    return Embeddings(read, dimensions, data.items("tokens", item_count), end.usage, end.quota)


def to_health(_chunks: Sequence[Chunk], end: Completion) -> Health:
    """`health`."""
    data = Fields(end.data, "data")
    return Health(data.text("status"), data.text("version"), data.number("uptime_s"))


def to_metadata(_chunks: Sequence[Chunk], end: Completion) -> Metadata:
    """`metadata`."""
    data = Fields(end.data, "data")
    return Metadata(
        version=data.text("version"),
        functions=data.items("functions", _function),
        models=data.items("models", _model),
        pipelines=data.items("pipelines", item_text),
    )


def _text(chunks: Sequence[Chunk], end: Completion) -> str:
    """The streamed text, or the whole one of a call that was not streamed."""
    if chunks:
        return "".join(chunk.text or "" for chunk in chunks)
    whole = end.data.get("text") if isinstance(end.data, dict) else None
    return whole if isinstance(whole, str) else ""


def _logprobs(chunks: Sequence[Chunk], end: Completion) -> tuple[Logprobs, ...]:
    """Those of the streamed tokens, or of the whole answer of a call that was not streamed."""
    if chunks:
        return tuple(told for chunk in chunks for told in chunk.logprobs)
    return decode_logprobs(Fields(end.data, "data")) if isinstance(end.data, dict) else ()


def _function(value: Json) -> FunctionInfo:
    fields = Fields(value, "function")
    return FunctionInfo(
        name=fields.text("name"),
        description=fields.text("description"),
        params_schema=fields.raw("params_schema"),
        streams=fields.flag("streams"),
    )


def _model(value: Json) -> ModelInfo:
    fields = Fields(value, "model")
    return ModelInfo(
        alias=fields.text("alias"),
        ready=fields.flag("ready"),
        context=fields.optional("context", fields.count),
        functions=fields.items("functions", item_text) if fields.has("functions") else None,
        embeds=_embed_info(fields.object("embeds")) if fields.has("embeds") else None,
    )


def _embed_info(fields: Fields) -> EmbedInfo:
    return EmbedInfo(
        dimensions=fields.count("dimensions"),
        tokens_max=fields.count("tokens_max"),
        shortens=fields.flag("shortens"),
    )

"""Asyncio client of Realm, the multi-tenant inference plane.

`Client` makes calls; every failure is a `RealmError`. `realm_client.protocol` is the protocol
itself without any I/O, for those who bring their own.
"""

from realm_client.backoff import Backoff, Clock
from realm_client.client import Client, Message, Sampling
from realm_client.errors import (
    Busy,
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    InsecureServer,
    InvalidRequest,
    Moved,
    NotAllowed,
    NotFound,
    ProgramError,
    ProtocolError,
    RateLimited,
    RealmError,
    ServerError,
    SlowReader,
    Unauthenticated,
)
from realm_client.formats import ResponseFormat
from realm_client.reply import (
    Chunk,
    Embeddings,
    EmbedInfo,
    FunctionInfo,
    Health,
    Logprobs,
    Metadata,
    ModelInfo,
    PipelineReply,
    Quota,
    Reply,
    ScoredToken,
    TextReply,
    Tokens,
    Usage,
)
from realm_client.stream import Stream

__all__ = [
    "Backoff",
    "Busy",
    "CallCancelled",
    "Chunk",
    "Client",
    "Clock",
    "ConnectionLost",
    "DeadlineExceeded",
    "Draining",
    "EmbedInfo",
    "Embeddings",
    "FunctionInfo",
    "Health",
    "InsecureServer",
    "InvalidRequest",
    "Logprobs",
    "Message",
    "Metadata",
    "ModelInfo",
    "Moved",
    "NotAllowed",
    "NotFound",
    "PipelineReply",
    "ProgramError",
    "ProtocolError",
    "Quota",
    "RateLimited",
    "RealmError",
    "Reply",
    "ResponseFormat",
    "Sampling",
    "ScoredToken",
    "ServerError",
    "SlowReader",
    "Stream",
    "TextReply",
    "Tokens",
    "Unauthenticated",
    "Usage",
]

"""The client: keeps one session to a server, makes calls on it, and replaces it when it ends."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Literal, TypedDict, TypeVar, Unpack

from realm_client import results
from realm_client.backoff import Backoff, Clock, SystemClock
from realm_client.connect import Opened, SendKey, Target, open_session, to_ws_url
from realm_client.errors import ConnectionLost, Draining, RealmError
from realm_client.formats import ResponseFormat
from realm_client.policy import Policy
from realm_client.reply import (
    Chunk,
    Completion,
    Embeddings,
    Health,
    Json,
    Metadata,
    PipelineReply,
    Reply,
    TextReply,
    Tokens,
)
from realm_client.request import Request, Trace
from realm_client.running import CHUNKS_UNREAD_MAX
from realm_client.session import Session
from realm_client.stream import Stream

R = TypeVar("R")

#: Writes the span that the caller is in into headers, as W3C Trace Context has them.
Propagate = Callable[[MutableMapping[str, str]], None]

#: Sessions a call tries that go away before it has begun: a load balancer may offer a draining
#: server twice, hardly three times in a row unless all of them drain.
SESSIONS_MAX = 3

#: Functions whose answers the server can resume, where its built-in program serves them.
RESUMABLE = frozenset({"generate", "chat"})


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Sampling(TypedDict, total=False):
    """How `generate` and `chat` pick tokens; what is left out is the server's default."""

    model: str
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]  # by the tokens' ids
    seed: int
    stop: str | Sequence[str]
    response_format: ResponseFormat  # what the answer keeps to
    logprobs: int  # how many of the likeliest tokens to tell with each; 0 tells its own


class Client:
    """Calls functions of a Realm server, many at once, over one WebSocket.

    Use it as `async with Client(url, api_key) as client`, which connects at once; without that the
    first call connects, and `close` is yours to call. It belongs to one event loop.

    Streams of `generate` and `chat` survive the end of their server: where it goes away or the
    connection is lost, another one goes on with the answer. Other calls end with `ConnectionLost`
    where their connection does, and finish where they are when their server goes away; new calls
    go to a new connection.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        api_key: str,
        *,
        retry: Backoff | None = None,
        reconnect: Backoff | None = None,
        resume: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        send_key: SendKey = "header",
        chunks_unread_max: int = CHUNKS_UNREAD_MAX,
        propagate: Propagate | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Takes `ws`, `wss`, `http` or `https` addresses; `/v1/ws` is added where there is no path.

        Of several addresses each new connection takes the next one. `retry` repeats calls that
        were refused for a while (limits, no place, draining); without it the refusal is raised.
        `reconnect` bounds the attempts to connect, and to have an answer resumed. Without `resume`
        streams end where their connection does. `propagate` makes each call a part of the trace
        that its caller is in; `opentelemetry.propagate.inject` is one. `clock` and `rng` are for
        tests.
        """
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise ValueError("a client needs an address")
        self._targets = [Target(to_ws_url(url), api_key, ssl_context, send_key) for url in urls]
        self._turn = 0
        self._reconnect = reconnect or Backoff()
        self._resume = resume
        self._propagate = propagate
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._policy = Policy(retry, self._reconnect, chunks_unread_max, self._clock, self._rng)
        self._opened: Opened | None = None
        self._opening: asyncio.Task[Opened] | None = None
        self._sessions: set[Session] = set()  # the current one, and retired ones until they end
        self._watchers: set[asyncio.Task[None]] = set()
        self._movers: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def tenant(self) -> str | None:
        """Whom the server knows this client as, once connected."""
        return None if self._opened is None else self._opened.tenant

    @property
    def server_version(self) -> str | None:
        """The version of the server, once connected."""
        return None if self._opened is None else self._opened.version

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects, unless that is already so. Calls do it by themselves."""
        await self._session()

    async def close(self) -> None:
        """Ends running calls and closes the connection. The client is of no use afterwards."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for mover in self._movers:
            mover.cancel()
        await asyncio.gather(*(session.close() for session in self._sessions))
        if self._watchers:
            await asyncio.wait(self._watchers)

    async def generate(
        self, prompt: str, *, deadline_s: float | None = None, **sampling: Unpack[Sampling]
    ) -> TextReply:
        """Continues a prompt, and answers with the whole text."""
        params = {"prompt": prompt, **_params(sampling)}
        return await self._whole("generate", params, deadline_s, results.to_text_reply)

    def generate_stream(
        self, prompt: str, *, deadline_s: float | None = None, **sampling: Unpack[Sampling]
    ) -> Stream[TextReply]:
        """Continues a prompt, text by text."""
        params = {"prompt": prompt, **_params(sampling)}
        return self._stream("generate", params, deadline_s, results.to_text_reply)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        deadline_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> TextReply:
        """Answers a conversation with the whole text."""
        params = {"messages": list(messages), **_params(sampling)}
        return await self._whole("chat", params, deadline_s, results.to_text_reply)

    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        deadline_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream[TextReply]:
        """Answers a conversation, text by text."""
        params = {"messages": list(messages), **_params(sampling)}
        return self._stream("chat", params, deadline_s, results.to_text_reply)

    async def pipeline(
        self, name: str, inputs: Mapping[str, Json], *, deadline_s: float | None = None
    ) -> PipelineReply:
        """Runs a pipeline to its end."""
        params = {"pipeline": name, "input": dict(inputs)}
        return await self._whole("pipeline", params, deadline_s, results.to_pipeline_reply)

    def pipeline_stream(
        self, name: str, inputs: Mapping[str, Json], *, deadline_s: float | None = None
    ) -> Stream[PipelineReply]:
        """Runs a pipeline; each chunk names its step."""
        params = {"pipeline": name, "input": dict(inputs)}
        return self._stream("pipeline", params, deadline_s, results.to_pipeline_reply)

    async def tokenize(
        self, text: str, *, model: str | None = None, deadline_s: float | None = None
    ) -> Tokens:
        """The tokens of a text."""
        params = {"text": text} if model is None else {"text": text, "model": model}
        return await self._whole("tokenize", params, deadline_s, results.to_tokens)

    async def embed(
        self,
        texts: str | Sequence[str | Sequence[int]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        deadline_s: float | None = None,
    ) -> Embeddings:
        """A vector for each text; each text is a string or token ids.

        `dimensions` takes the first numbers of each vector, where the model was trained for that.
        Vectors have the length 1 unless `normalize` is false.
        """
        listed = [texts] if isinstance(texts, str) else texts
        params: dict[str, Json] = {
            "texts": [text if isinstance(text, str) else list(text) for text in listed]
        }
        if model is not None:
            params["model"] = model
        if dimensions is not None:
            params["dimensions"] = dimensions
        if not normalize:
            params["normalize"] = False
        return await self._whole("embed", params, deadline_s, results.to_embeddings)

    async def health(self, *, deadline_s: float | None = None) -> Health:
        """Whether the server is well."""
        return await self._whole("health", {}, deadline_s, results.to_health)

    async def metadata(self, *, deadline_s: float | None = None) -> Metadata:
        """What the server offers to this tenant."""
        return await self._whole("metadata", {}, deadline_s, results.to_metadata)

    async def call(
        self, function: str, params: Mapping[str, Json], *, deadline_s: float | None = None
    ) -> Reply:
        """Calls any function, such as those of the tenant's own program."""
        return await self._whole(function, dict(params), deadline_s, results.to_reply)

    def call_stream(
        self, function: str, params: Mapping[str, Json], *, deadline_s: float | None = None
    ) -> Stream[Reply]:
        """Calls any function and streams what it says."""
        return self._stream(function, dict(params), deadline_s, results.to_reply)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Runs `work` until the client is closed at the latest. For `Stream`."""
        mover = asyncio.create_task(work, name="realm-client-move")
        self._movers.add(mover)
        mover.add_done_callback(self._movers.discard)
        return mover

    async def place(self) -> Session:
        """A session on which one more call may start now. For `Stream`."""
        for _ in range(SESSIONS_MAX):
            session = await self._session()
            while session.accepts_calls and not session.has_place:
                await session.place_changed()
            if session.has_place:
                return session
        raise Draining("every connection went away before the call began", code="draining")

    async def _whole(
        self,
        function: str,
        params: dict[str, Json],
        deadline_s: float | None,
        finish: Callable[[tuple[Chunk, ...], Completion], R],
    ) -> R:
        trace = self._trace()
        request = Request(function, params, stream=False, deadline_s=deadline_s, trace=trace)
        return await Stream(self, request, finish, self._policy).result()

    def _stream(
        self,
        function: str,
        params: dict[str, Json],
        deadline_s: float | None,
        finish: Callable[[tuple[Chunk, ...], Completion], R],
    ) -> Stream[R]:
        resumable = self._resume and function in RESUMABLE
        request = Request(
            function,
            params,
            stream=True,
            deadline_s=deadline_s,
            resumable=resumable,
            trace=self._trace(),
        )
        return Stream(self, request, finish, self._policy)

    def _trace(self) -> Trace | None:
        """The span that the caller is in at this moment."""
        if self._propagate is None:
            return None
        headers: dict[str, str] = {}
        self._propagate(headers)
        parent = headers.get("traceparent")
        return None if parent is None else Trace(parent, headers.get("tracestate"))

    async def _session(self) -> Session:
        """The session for new calls. All who wait for one share the attempts to open it."""
        if self._closed:
            raise ConnectionLost("the client is closed")
        if self._opened is not None and self._opened.session.accepts_calls:
            return self._opened.session
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="realm-client-connect")
            self._opening.add_done_callback(self._opening_done)
        opening = self._opening
        await asyncio.wait([opening])  # one who stops waiting does not stop the others' attempts
        if opening.cancelled():
            raise ConnectionLost("the client is closed")
        return opening.result().session

    def _opening_done(self, task: asyncio.Task[Opened]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who waited have it; if none did, it is nobody's

    async def _open(self) -> Opened:
        began_at = self._clock.now()
        if self._opened is not None:
            self._turn += 1  # that one is lost, or takes no more calls
        attempts = 0
        while True:
            try:
                target = self._targets[self._turn % len(self._targets)]
                opened = await open_session(target, self._clock)
            except RealmError as error:
                attempts += 1
                self._turn += 1
                elapsed_s = self._clock.now() - began_at
                delay_s = self._reconnect.delay_s(attempts, elapsed_s, error, self._rng)
                if delay_s is None:
                    raise
            else:
                self._keep(opened)
                return opened
            await self._clock.sleep(delay_s)

    def _keep(self, opened: Opened) -> None:
        self._opened = opened
        self._sessions.add(opened.session)
        watcher = asyncio.create_task(self._watch(opened.session), name="realm-client-watch")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, session: Session) -> None:
        await session.wait_closed()
        self._sessions.discard(session)


def _params(sampling: Sampling) -> dict[str, Json]:
    """As JSON has them: the keys of an object are texts."""
    params: dict[str, Json] = dict(sampling)
    if "logit_bias" in sampling:
        params["logit_bias"] = {str(token): by for token, by in sampling["logit_bias"].items()}
    return params

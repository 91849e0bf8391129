"""What has arrived of one answer, over all the calls that brought it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from realm_client.errors import ConnectionLost, Moved, ProtocolError, RealmError
from realm_client.reply import Chunk, Completion, Usage


@dataclass(frozen=True, slots=True)
class Resume:
    """What a server needs to go on with an answer that another one began."""

    tokens: tuple[int, ...]
    text_bytes: int
    seed: int


class Answer:
    """Follows an answer by its tokens, so that none is lost or doubled where it moves."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._text_bytes = 0
        self._seed: int | None = None
        self._chunks = 0
        self._followed = True

    @property
    def token_count(self) -> int:
        """Tokens whose text has arrived."""
        return len(self._tokens)

    @property
    def resumable(self) -> bool:
        """Whether a server can go on: nothing has arrived, or all of it with its tokens."""
        return self._followed

    def survives(self, error: RealmError) -> bool:
        """Whether the answer may go on elsewhere after its call has ended so."""
        return self._followed and isinstance(error, ConnectionLost | Moved)

    def resume(self) -> Resume | None:
        """Where to go on; `None` while nothing has arrived, and the call is made anew."""
        if self._seed is None:
            return None
        return Resume(tuple(self._tokens), self._text_bytes, self._seed)

    def take(self, chunk: Chunk) -> Chunk:
        """Takes in the next chunk, and numbers it among those of all calls."""
        self._follow(chunk)
        numbered = replace(chunk, index=self._chunks)
        self._chunks += 1
        return numbered

    def whole(self, completion: Completion, resumed: int) -> Completion:
        """The end of the whole answer, from that of a call that began behind `resumed` tokens.

        Those were the call's prompt, as the server counts; here they are the answer's again.
        """
        usage = completion.usage
        if usage is None or resumed == 0:
            return completion
        prompt_tokens = max(0, usage.prompt_tokens - resumed)
        whole = Usage(
            prompt_tokens=prompt_tokens,
            cached_tokens=min(usage.cached_tokens, prompt_tokens),
            completion_tokens=usage.completion_tokens + resumed,
        )
        return replace(completion, usage=whole)

    def _follow(self, chunk: Chunk) -> None:
        progress = chunk.progress
        if not self._followed:
            return
        if progress is None or chunk.text is None:
            self._followed = False
            return
        if progress.first != len(self._tokens):
            raise ProtocolError(
                f"token {progress.first} of the answer came where {len(self._tokens)} was due"
            )
        if self._seed is None:
            self._seed = progress.seed
            self._followed = progress.seed is not None
        self._tokens.extend(progress.tokens)
        self._text_bytes += len(chunk.text.encode(errors="surrogatepass"))

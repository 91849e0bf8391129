"""Calls a program without an agent, for tests.

Its models say what `answer` says, a word at a time, and every word is a token. Hooks stand beside
what they say; how these steer it is only told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from componentize_py_types import Err
from wit_world.imports import clock, config, model, random, reply, store, types
from wit_world.imports import log as lines

from realm_guest.program import Outcome, Program
from realm_guest.refusal import invalid

if TYPE_CHECKING:
    # The world of a program without hooks has none of this.
    from realm_guest.hooks import Ask, Beside, Steer

CONTEXT_DEFAULT = 2048


@dataclass(slots=True)
class Rehearsed:
    """What became of a call."""

    outcome: Outcome = field(default_factory=Outcome)
    pieces: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    #: What hooks have said of each next token.
    steers: list[Steer] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All the text that was written."""
        return "".join(self.pieces)


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """A program and what stands for its host."""

    program: Program
    #: Given the prompt; of a conversation, a line `role: content` for each message.
    answer: Callable[[str], str] | None = None
    #: What stands beside the program's generations.
    hooks: Ask | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    tenant: str = "default/rehearsal"
    models: Sequence[str] = ("model",)
    context: int = CONTEXT_DEFAULT
    #: What the program's store holds; what it puts there is put here.
    store: dict[str, bytes] = field(default_factory=dict)
    #: Milliseconds since the Unix epoch.
    now_ms: int = 0

    def call(self, name: str, params: Any) -> Rehearsed:
        """Serves one call of a function."""
        told = Rehearsed()
        # Not a generator's context manager: those write into exceptions, and `Err` is frozen.
        with ExitStack() as stack:
            self._stage(stack, told)
            told.outcome = self.program.call(name, json.dumps(params))
        return told

    def _stage(self, stack: ExitStack, told: Rehearsed) -> None:
        """Puts the rehearsal behind the imports of the world."""

        def put(module: Any, name: str, function: Callable[..., Any]) -> None:
            stack.enter_context(mock.patch.object(module, name, function))

        put(model, "list_models", lambda: list(self.models))
        put(model.Model, "open", lambda name: self._open(name, told))
        put(reply, "write_text", told.pieces.append)
        put(reply, "write_scored", lambda text, _logprobs: told.pieces.append(text))
        put(reply, "write_json", lambda text: told.values.append(json.loads(text)))
        put(config, "get", self.settings.get)
        put(config, "tenant", lambda: self.tenant)
        put(lines, "emit", lambda _level, message: told.log.append(message))
        put(store, "get", self.store.get)
        put(store, "set", self.store.__setitem__)
        put(store, "delete", lambda key: self.store.pop(key, None) is not None)
        put(store, "keys", self._keys)
        put(clock, "now", lambda: self.now_ms)
        put(clock, "elapsed", lambda: 0)
        put(random, "bytes", lambda count: bytes(at % 256 for at in range(count)))

    def _keys(self, prefix: str, after: str | None) -> list[str]:
        return sorted(key for key in self.store if key.startswith(prefix) and key > (after or ""))

    def _open(self, name: str, told: Rehearsed) -> model.Model:
        if name not in self.models:
            raise Err(types.Error_UnknownModel(name))
        return _Model(name, self, told)


class _Model(model.Model):
    def __init__(self, name: str, rehearsal: Rehearsal, told: Rehearsed) -> None:
        self._name = name
        self._rehearsal = rehearsal
        self._told = told
        self._words: list[str] = []

    def __enter__(self) -> _Model:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def info(self) -> model.Info:
        context = self._rehearsal.context
        return model.Info(self._name, "rehearsal", context, len(self._words), True)

    def abilities(self) -> model.Abilities:
        return model.Abilities(generates=True, chats=True, embeds=None)

    def tokenize(self, text: str, special: bool) -> list[int]:  # noqa: ARG002
        known = len(self._words)
        self._words += _words(text)
        return list(range(known, len(self._words)))

    def detokenize(self, ids: list[int]) -> bytes:
        return self._text(ids).encode()

    def tokenize_chat(self, messages: list[types.Message]) -> list[int]:
        prompt = "".join(f"{message.role}: {message.content}\n" for message in messages)
        return self.tokenize(prompt, False)

    def generate(self, prompt: list[int], params: model.Params) -> model.Generation:
        beside = self._beside(prompt, params)
        params = (beside and beside.params) or params
        room = self._rehearsal.context - len(prompt)
        if room <= 0:
            limit = types.TokenLimit(len(prompt), self._rehearsal.context - 1)
            raise Err(types.Error_TooLong(limit))
        if self._rehearsal.answer is None:
            raise Err(types.Error_Refused("the rehearsal has no answers"))
        answer = self._rehearsal.answer(self._text(prompt))
        for stop in params.stop:
            answer = answer.split(stop)[0]
        most = room if params.tokens_max is None else min(room, params.tokens_max)
        return _Generation(_words(answer), most, len(prompt), (beside, self._told.steers))

    def keep(self, tokens: list[int], shared_tokens: int) -> model.Prefix:  # noqa: ARG002
        return _Prefix(self, tokens)

    def _beside(self, prompt: list[int], params: model.Params) -> Beside | None:
        if self._rehearsal.hooks is None:
            return None
        from realm_guest.hooks import Request  # noqa: PLC0415

        return self._rehearsal.hooks(Request(self._name, prompt, params))

    def embed(self, texts: list[model.Text], params: model.EmbedParams) -> model.Embedded:  # noqa: ARG002
        raise Err(types.Error_Refused("the rehearsal has no vectors"))

    def _text(self, ids: Sequence[int]) -> str:
        for token in ids:
            if token >= len(self._words):
                raise invalid(f"there is no token {token}")
        return "".join(self._words[token] for token in ids)


class _Prefix(model.Prefix):
    def __init__(self, of: _Model, tokens: list[int]) -> None:
        self._of = of
        self._tokens = tokens

    def __enter__(self) -> _Prefix:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def length(self) -> int:
        return len(self._tokens)

    def extend(self, tail: list[int]) -> _Prefix:
        return _Prefix(self._of, self._tokens + tail)

    def generate(self, tail: list[int], params: model.Params) -> model.Generation:
        return self._of.generate(self._tokens + tail, params)


class _Generation(model.Generation):
    def __init__(
        self,
        words: Sequence[str],
        most: int,
        prompt_tokens: int,
        hooked: tuple[Beside | None, list[Steer]],
    ) -> None:
        self._left = list(words[:most])
        finish = types.Finish.LENGTH if len(words) > most else types.Finish.STOP
        usage = types.Usage(prompt_tokens, 0, len(self._left))
        self._summary = model.Summary(finish, usage)
        self._is_ended = False
        self._beside, self._steers = hooked
        self._steer(None)

    def _steer(self, last: int | None) -> None:
        if self._beside is not None:
            self._steers.append(self._beside.bias(last))

    def _told(self, word: str) -> str:
        """What becomes of a word."""
        if self._beside is None:
            return word
        verdict = self._beside.on_token(0, word)
        text: str = getattr(verdict, "value", word)
        if type(verdict).__name__ == "Verdict_Stop":
            self._summary.usage.completion_tokens -= len(self._left)
            self._summary.finish = types.Finish.STOP
            self._left.clear()
            return text
        if not self._left:
            return text + self._beside.on_finish(self._summary.finish)
        self._steer(0)
        return text

    def __enter__(self) -> _Generation:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next(self) -> list[types.Token] | None:
        if self._left:
            return [types.Token(0, self._told(self._left.pop(0)), None)]
        self._is_ended = True
        return None

    def summary(self) -> model.Summary | None:
        return self._summary if self._is_ended else None


def _words(text: str) -> list[str]:
    return re.findall(r"\S*\s|\S+", text)

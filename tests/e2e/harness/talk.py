"""What tests ask the model, always greedily, so that an answer can be compared."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from realm_client import Client, Message

#: Long enough to stream, short enough for a debug build.
TOKENS = 24

QUESTIONS = [
    "Why is the sky blue?",
    "Name three fruits.",
    "What is the capital of France?",
    "How do birds fly?",
    "What is two plus two?",
    "Tell me about the moon.",
    "Who wrote Hamlet?",
    "What do cows eat?",
    "Why do leaves fall in autumn?",
    "What is a prime number?",
    "How is bread made?",
    "Where do penguins live?",
    "What is photosynthesis?",
    "Describe a sunset.",
    "What is the tallest mountain?",
    "Why do we sleep?",
]

#: Longer than a block of the KV cache, several times over.
LONG_PROMPT = (
    "The harbour woke slowly that morning. Fishermen mended their nets on the quay, gulls argued "
    "over the scraps, and the smell of tar and salt hung in the still air. A boy carried water "
    "from the pump to the boats, counting his steps as he always did, while the old lighthouse "
    "keeper watched the horizon for the ship that had been due three days before. Nobody spoke "
    "of it, yet everybody looked. When the bell rang at last, it was not for the ship, "
)


def asked(question: str, system: str | None = None) -> list[Message]:
    """A conversation of one question."""
    messages: list[Message] = [{"role": "user", "content": question}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


@dataclass(frozen=True, slots=True)
class Heard:
    """A streamed answer, and when its pieces came."""

    text: str
    gaps_s: Sequence[float]


async def answer(client: Client, question: str, max_tokens: int = TOKENS) -> str:
    """A greedy answer in one piece."""
    return (await client.chat(asked(question), max_tokens=max_tokens, temperature=0)).text


async def stream(client: Client, question: str, max_tokens: int = TOKENS) -> Heard:
    """A greedy answer, piece by piece."""
    stream = client.chat_stream(asked(question), max_tokens=max_tokens, temperature=0)
    pieces: list[str] = []
    times: list[float] = []
    async for chunk in stream:
        pieces.append(chunk.text or "")
        times.append(time.monotonic())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return Heard("".join(pieces), gaps)

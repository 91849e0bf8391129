"""Streams that are read to their end, whatever happens to their server meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from realm_client import Chunk, Stream, TextReply


class Reader:
    """Reads a stream, and says when it is well under way."""

    def __init__(self, stream: Stream[TextReply]) -> None:
        self.stream = stream
        self.under_way = asyncio.Event()
        self.chunks: list[Chunk] = []

    async def read(self) -> TextReply:
        """Reads to the end."""
        async for chunk in self.stream:
            self.chunks.append(chunk)
            if len(self.chunks) == 4:
                self.under_way.set()
        return await self.stream.result()

    @property
    def legs(self) -> list[int]:
        """Where in the chunks a call began."""
        progress = [chunk.progress for chunk in self.chunks]
        return [
            at for at, each in enumerate(progress) if each is not None and each.seed is not None
        ]

    def check(self, reply: TextReply) -> None:
        """Nothing is lost, nothing doubled."""
        assert [chunk.index for chunk in self.chunks] == list(range(len(self.chunks)))
        due = 0
        for chunk in self.chunks:
            assert chunk.progress is not None
            assert chunk.progress.first == due
            due += len(chunk.progress.tokens)
        assert reply.text == "".join(chunk.text or "" for chunk in self.chunks)
        # The last token may be one without text, such as the end of the answer.
        assert reply.usage.completion_tokens - due in {0, 1}


async def all_under_way(
    readers: Sequence[Reader], reading: Sequence[asyncio.Task[TextReply]]
) -> None:
    """Waits until every stream is, and none has ended."""
    for reader, task in zip(readers, reading, strict=True):
        waiting = asyncio.create_task(reader.under_way.wait())
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        assert reader.under_way.is_set(), task
    assert not any(task.done() for task in reading), "the streams are too short for this machine"

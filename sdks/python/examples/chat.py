"""Streams a model's answer: `chat.py [--url URL] [--key KEY] QUESTION`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from realm_client import Client, RealmError


def read_args() -> argparse.Namespace:
    """The command line; address and key may come from the environment."""
    parser = argparse.ArgumentParser(description="Streams a model's answer.")
    parser.add_argument("question")
    parser.add_argument("--url", default=os.environ.get("REALM_URL", "ws://127.0.0.1:8080"))
    parser.add_argument("--key", default=os.environ.get("REALM_API_KEY"))
    parser.add_argument("--max-tokens", type=int, default=200)
    args = parser.parse_args()
    if not args.key:
        parser.error("give --key or set REALM_API_KEY")
    return args


async def answer(args: argparse.Namespace) -> None:
    """Asks, and prints the answer as it arrives."""
    async with Client(args.url, args.key) as client:
        stream = client.chat_stream(
            [{"role": "user", "content": args.question}], max_tokens=args.max_tokens
        )
        async for chunk in stream:
            print(chunk.text, end="", flush=True)
        reply = await stream.result()
        print(f"\n[{reply.usage.completion_tokens} tokens, {reply.finish}]", file=sys.stderr)


def main() -> int:
    """Runs the example."""
    try:
        asyncio.run(answer(read_args()))
    except RealmError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A program that sums up texts longer than a model reads.

`summarise` cuts a text into parts that fit the model, sums up one after the other and streams a
line for each; `parts` only says how a text would be cut. The setting `style` changes what the model
is asked for, and the parameter `response_format` what each line keeps to.
"""

from __future__ import annotations

import itertools
import re

from realm_guest import (
    Asked,
    GenerateParams,
    Message,
    Model,
    Outcome,
    Params,
    Program,
    generate,
    greedy,
    invalid,
    open_model,
    setting,
    write_text,
)

#: What is asked of each part, where the tenant's owner sets no other.
STYLE = "Sum up the text in one short sentence."

#: Tokens of a line, and of what a chat template puts around a part at most.
LINE_TOKENS_MAX = 48
AROUND_TOKENS = 64

#: Tokens of a part where the caller does not say: a page, of which one sentence still says much.
PART_TOKENS_DEFAULT = 512

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {
        "text": {"type": "string"},
        "part_tokens": {"type": "integer", "minimum": 16, "default": PART_TOKENS_DEFAULT},
        "model": {"type": "string"},
        "response_format": {"type": "object"},
    },
}

program = Program()


@program.function(
    description="Sums up a text of any length, a line for each part.", params=SCHEMA, streams=True
)
def summarise(params: Params) -> Outcome:
    """Serves `summarise`."""
    asked, parts = _cut(params)
    for part in parts:
        write_text("- ")
        _sum_up(asked, part)
        write_text("\n")
    return Outcome(data={"parts": len(parts)})


@program.function(description="How a text would be cut into parts.", params=SCHEMA)
def parts(params: Params) -> Outcome:
    """Serves `parts`."""
    _, cut = _cut(params)
    return Outcome(data={"parts": cut})


def _cut(params: Params) -> tuple[Asked, list[str]]:
    text = params.required_text("text")
    most = params.whole32("part_tokens", 16) or PART_TOKENS_DEFAULT
    constraint = params.constraint("response_format")
    model = open_model(params.text("model"))
    params.finish()
    most = min(most, model.info().context - LINE_TOKENS_MAX - AROUND_TOKENS)
    # What keeps to something ends where that is whole, and may have more than one line.
    stop = ["\n"] if constraint is None else []
    answer = GenerateParams(greedy(), [], None, LINE_TOKENS_MAX, stop, constraint, 0)
    return Asked(model, answer), cut(model, text, most)


def cut(model: Model, text: str, tokens_max: int) -> list[str]:
    """Cuts a text between sentences into as few parts as have `tokens_max` tokens at most."""
    sentences = re.findall(r"\S.*?(?:[.!?](?=\s)|\Z|\n\n)", text.strip(), re.DOTALL)
    counts = [len(model.tokenize(sentence, False)) for sentence in sentences]
    if any(count > tokens_max for count in counts):
        raise invalid(f"`text` has a sentence of more than {tokens_max} tokens")
    found: list[str] = []
    room = 0
    for sentence, count in zip(sentences, counts, strict=True):
        if not found or count > room:
            found.append(sentence.strip())
            room = tokens_max - count
        else:
            found[-1] += f" {sentence.strip()}"
            # The space belongs to the next token with most vocabularies, and not with all.
            room -= count + 1
    return found


def _sum_up(asked: Asked, part: str) -> None:
    messages = [Message("system", setting("style") or STYLE), Message("user", part)]
    prompt = asked.model.tokenize_chat(messages)
    pieces = (token.text for step in generate(asked.model, prompt, asked.params) for token in step)
    # What an answer begins with is often a space or two.
    for piece in itertools.dropwhile(lambda text: not text.strip(), pieces):
        write_text(piece)


Handler = program.handler()

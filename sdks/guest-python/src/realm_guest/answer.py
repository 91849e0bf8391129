"""From a prompt to a streamed answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from componentize_py_types import Err
from wit_world.imports import model
from wit_world.imports.model import Model, Prefix, Sampling, Summary
from wit_world.imports.model import Params as GenerateParams
from wit_world.imports.types import Error_Failed, Logprobs, Token

from realm_guest.host import write_scored, write_text
from realm_guest.params import Params
from realm_guest.refusal import invalid

#: Tokens of an answer when the caller does not say.
TOKENS_DEFAULT = 512

#: Sampling when the caller does not say: lively, without the long tail.
TEMPERATURE_DEFAULT = 0.7
TOP_P_DEFAULT = 0.95


def greedy() -> Sampling:
    """Takes the likeliest token every time."""
    return Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        seed=None,
    )


def open_model(name: str | None = None) -> Model:
    """Opens the model of that name, or the tenant's default."""
    name = name or next(iter(model.list_models()), None)
    if name is None:
        raise invalid("no `model` is named, and the tenant has none")
    return model.Model.open(name)


@dataclass(slots=True)
class Asked:
    """What every function that answers takes besides its prompt."""

    model: Model
    params: GenerateParams

    @classmethod
    def take(cls, rest: Params) -> Asked:
        """Takes everything that a caller may say of an answer, and refuses what is left.

        That is `model`, `max_tokens`, `stop`, `logprobs`, `response_format` and how tokens are
        chosen.
        """
        name = rest.text("model")
        params = GenerateParams(
            sampling=_sampling(rest),
            bias=rest.biases("logit_bias"),
            logprobs=rest.whole32("logprobs", 0),
            tokens_max=rest.whole32("max_tokens", 1) or TOKENS_DEFAULT,
            stop=rest.texts("stop"),
            constraint=rest.constraint("response_format"),
            shared_tokens=0,
        )
        rest.finish()
        return cls(open_model(name), params)


def _sampling(rest: Params) -> Sampling:
    sampling = greedy()
    sampling.temperature, sampling.top_p = TEMPERATURE_DEFAULT, TOP_P_DEFAULT
    for name in (
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
    ):
        number = rest.number(name)
        if number is not None:
            setattr(sampling, name, number)
    sampling.top_k = rest.whole32("top_k", 0) or sampling.top_k
    sampling.seed = rest.whole("seed")
    return sampling


def generate(
    model: Model | Prefix, prompt: Sequence[int], params: GenerateParams
) -> Generator[list[Token], None, Summary]:
    """The tokens of an answer, as many at a time as are there; its summary is what it returns.

    Of a prefix, `prompt` is what is behind it.
    """
    with model.generate(list(prompt), params) as generation:
        while (tokens := generation.next()) is not None:
            yield tokens
        summary = generation.summary()
    if summary is None:
        raise Err(Error_Failed("no summary"))
    return summary


def answer(
    asked: Asked, prompt: Sequence[int], change: Callable[[str], str] = lambda text: text
) -> Summary:
    """Generates an answer and streams what `change` makes of each piece of it."""
    scored: list[Logprobs] = []
    tokens = generate(asked.model, prompt, asked.params)
    while True:
        try:
            step = next(tokens)
        except StopIteration as ended:
            if scored:
                # They are of what never became text: a stop string, or a part of a character.
                write_scored("", scored)
            summary: Summary = ended.value
            return summary
        scored += [token.logprobs for token in step if token.logprobs is not None]
        text = "".join(token.text for token in step)
        if text and scored:
            write_scored(change(text), scored)
            scored = []
        elif text:
            write_text(change(text))

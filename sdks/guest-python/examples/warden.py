"""A program with hooks.

`generate` never says the word that the setting `ban` names, blots out the one that `redact` names
and says at the end how often that was, ends before the one that `end` names, says nothing but the
words of `only`, and refuses prompts that are longer than `prompt-tokens` allows. It takes no call
before it has shown that it blots out.
"""

from __future__ import annotations

from realm_guest import (
    Asked,
    Bias,
    Finish,
    Outcome,
    Params,
    Program,
    answer,
    invalid,
    open_model,
    setting,
)
from realm_guest.health import health
from realm_guest.hooks import (
    Beside,
    Request,
    Steer,
    Steer_Add,
    Steer_Only,
    Steer_Same,
    Verdict,
    Verdict_Rewrite,
    Verdict_Stop,
    hooks,
)

SCHEMA = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}

program = Program()


@program.function(
    description="Goes on with a text, within what the tenant's settings let it say.",
    params=SCHEMA,
    streams=True,
)
def generate(params: Params) -> Outcome:
    """Serves `generate`."""
    prompt = params.required_text("prompt")
    asked = Asked.take(params)
    return Outcome(answer(asked, asked.model.tokenize(prompt, False)).finish)


class Watch(Beside):
    """The text of one answer, which is let out as soon as it is certain."""

    def __init__(self, redacted: str | None, end: str | None) -> None:
        self._redacted = redacted
        self._end = end
        #: May yet turn out to be the beginning of a word that is watched for.
        self._held = ""
        self._blots = 0

    def on_token(self, token: int, text: str) -> Verdict:  # noqa: ARG002
        """Lets out what is certain."""
        self._held += text
        at = -1 if self._end is None else self._held.find(self._end)
        if at < 0:
            return Verdict_Rewrite(self._release())
        self._held = self._held[:at]
        return Verdict_Stop(self._release() + self._held)

    def on_finish(self, finish: Finish) -> str:  # noqa: ARG002
        """The rest, and how often the word was blotted out."""
        return self._held if self._redacted is None else f"{self._held} [{self._blots} blotted out]"

    def _release(self) -> str:
        if self._redacted is not None:
            self._blots += self._held.count(self._redacted)
            self._held = self._held.replace(self._redacted, "#" * len(self._redacted))
        watched = [word for word in (self._redacted, self._end) if word is not None]
        certain = 0
        while certain < len(self._held) and not any(
            word.startswith(self._held[certain:]) for word in watched
        ):
            certain += 1
        told, self._held = self._held[:certain], self._held[certain:]
        return told


class Steered(Watch):
    """The same, of which tokens are steered from the first one on."""

    def __init__(self, steer: Steer, redacted: str | None, end: str | None) -> None:
        super().__init__(redacted, end)
        self._steer = steer

    def bias(self, last: int | None) -> Steer:
        """What is said once holds."""
        return self._steer if last is None else Steer_Same()


def watch(request: Request) -> Beside | None:
    """Says what stands beside a generation."""
    most = setting("prompt-tokens")
    if most is not None and len(request.prompt) > int(most):
        raise invalid(f"the prompt has more than {most} tokens")
    words = (setting("redact") or None, setting("end") or None)
    only, ban = setting("only"), setting("ban")
    if only is not None:
        ids = [token for word in only.split() for token in beginnings(request.model, word)]
        return Steered(Steer_Only(ids), *words)
    if ban is not None:
        banned = [Bias(token, -100.0) for token in beginnings(request.model, ban)]
        return Steered(Steer_Add(banned), *words)
    return None if words == (None, None) else Watch(*words)


def beginnings(name: str, word: str) -> list[int]:
    """The tokens that a word may begin with, within a text and at its start."""
    with open_model(name) as model:
        spelled = [model.tokenize(text, False)[:1] for text in (word, f" {word}")]
    return sorted({token for tokens in spelled for token in tokens})


def check() -> None:
    """A warden that lets its word out is worse than none."""
    watch = Watch("secret", None)
    verdicts = [watch.on_token(0, piece) for piece in ("a se", "cre", "t and a sec", "")]
    told = "".join(verdict.value for verdict in verdicts if isinstance(verdict, Verdict_Rewrite))
    if (told, watch.on_finish(Finish.STOP)) != ("a ###### and a ", "sec [1 blotted out]"):
        raise ValueError(f"it makes `{told}` of a word that comes in pieces")


Handler = program.handler()
Hooks = hooks(watch)
Health = health(check)

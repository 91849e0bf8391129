"""Makes the vectors of a real model of sentences: `minilm.py FOLDER`, the package's, prints them as JSON.

The model's own tokenizer takes the texts apart, and numpy computes them in f64, layer by layer, by the paper.
Run it with numpy and tokenizers installed; no test needs either.
"""

import json
import math
import pathlib
import sys

import numpy as np
import tokenizers

TEXTS = [
    "This is an example sentence",
    "The sea is wide and the sky above it is grey.",
    "Das Meer ist weit, und der Himmel darüber ist grau.",
    "A cat sleeps on the warm roof.",
    "SELECT name FROM users WHERE id = 7;",
    "Σ naïve façade 東京 🙂",
    "The quick brown fox jumps over the lazy dog. " * 20,
]


def main(folder: pathlib.Path) -> None:
    words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.no_truncation()
    words.no_padding()
    model = Model(folder)
    ids = [words.encode(text).ids for text in TEXTS]
    vectors = [model.vector(text) for text in ids]
    rounded = [[round(float(x), 7) for x in vector] for vector in vectors]
    print(json.dumps({"texts": TEXTS, "ids": ids, "vectors": rounded}))


class Model:
    def __init__(self, folder: pathlib.Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        content = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.data = content[8 + length :]
        self.tensors = json.loads(content[8 : 8 + length])

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        begin, end = tensor["data_offsets"]
        return np.frombuffer(self.data[begin:end], dtype="<f4").reshape(tensor["shape"]).astype(np.float64)

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self[f"{name}.weight"] + self[f"{name}.bias"]

    def attend(self, name: str, x: np.ndarray) -> np.ndarray:
        rows, width = x.shape
        heads = self.config["num_attention_heads"]
        split = lambda part: self.dense(f"{name}.self.{part}", x).reshape(rows, heads, -1).transpose(1, 0, 2)
        queries, keys, values = split("query"), split("key"), split("value")
        scores = queries @ keys.transpose(0, 2, 1) / math.sqrt(width / heads)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return self.dense(f"{name}.output.dense", (shares @ values).transpose(1, 0, 2).reshape(rows, width))

    def vector(self, ids: list[int]) -> np.ndarray:
        at = "embeddings"
        x = self[f"{at}.word_embeddings.weight"][ids] + self[f"{at}.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{at}.LayerNorm", x + self[f"{at}.token_type_embeddings.weight"][0])
        gelu = np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))))
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            x = self.norm(f"{name}.attention.output.LayerNorm", x + self.attend(f"{name}.attention", x))
            wide = gelu(self.dense(f"{name}.intermediate.dense", x))
            x = self.norm(f"{name}.output.LayerNorm", x + self.dense(f"{name}.output.dense", wide))
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

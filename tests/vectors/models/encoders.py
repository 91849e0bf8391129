"""Makes the references of models that embed: `encoders.py FOLDER` writes one JSON file each.

As `make.py` does for models that generate, and with the same weights of names; instead of logits
a file has some texts of tokens, of several lengths, and the vectors that each way of pooling makes
of them, before any is scaled to length 1.

Made with torch 2.15.0 and transformers 5.24.0, numpy 2 and Python 3.11.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy
import torch
import transformers
from make import (
    FEED_FORWARD,
    HEADS,
    PLAIN,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Case,
    common,
    qwen3,
    rope,
    weights,
)

LENGTHS = (37, 1, 80)
LAYERS = 3
INNER = 128


class Encoder(Case):
    """A model that reads texts, and may be followed by matrices that change their vectors."""

    dense: tuple[str, ...] = ()

    def both(self, ours: str, shape: list[int], theirs: str) -> None:
        """A matrix or norm and its bias."""
        self.add(f"{ours}.weight", shape, f"{theirs}.weight")
        self.add(f"{ours}.bias", shape[-1:], f"{theirs}.bias")

    def embeddings(self, positions: bool) -> None:
        theirs = "embeddings."
        self.add("token_embd.weight", [WIDTH, VOCABULARY], theirs + "word_embeddings.weight")
        self.add("token_types.weight", [WIDTH, 2], theirs + "token_type_embeddings.weight")
        if positions:
            self.add("position_embd.weight", [WIDTH, TOKENS], theirs + "position_embeddings.weight")
        self.both("token_embd_norm", [WIDTH], theirs + "LayerNorm")

    def extend(self) -> None:
        """Two matrices behind the pooling."""
        self.dense = ("dense_2.weight", "dense_3.weight")
        self.add(self.dense[0], [WIDTH, INNER], None)
        self.add(self.dense[1], [INNER, WIDTH], None)

    def own(self) -> dict[str, Any]:
        a = self.architecture
        return {
            "general.architecture": a,
            f"{a}.block_count": self.config.num_hidden_layers,
            f"{a}.context_length": TOKENS,
            f"{a}.embedding_length": WIDTH,
            f"{a}.feed_forward_length": FEED_FORWARD,
            f"{a}.attention.head_count": HEADS,
        }


def bert() -> Encoder:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=TOKENS,
        layer_norm_eps=1e-12,
        pad_token_id=None,
    )
    case = Encoder("bert", "bert", config)
    case.say(attention__layer_norm_epsilon=1e-12, attention__causal=False)
    case.embeddings(positions=True)
    for i in range(LAYERS):
        ours, theirs = f"blk.{i}.", f"encoder.layer.{i}."
        attention = theirs + "attention."
        for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
            case.both(f"{ours}attn_{part}", [WIDTH, WIDTH], f"{attention}self.{name}")
        case.both(ours + "attn_output", [WIDTH, WIDTH], attention + "output.dense")
        case.both(ours + "attn_output_norm", [WIDTH], attention + "output.LayerNorm")
        case.both(ours + "ffn_up", [WIDTH, FEED_FORWARD], theirs + "intermediate.dense")
        case.both(ours + "ffn_down", [FEED_FORWARD, WIDTH], theirs + "output.dense")
        case.both(ours + "layer_output_norm", [WIDTH], theirs + "output.LayerNorm")
    return case


def nomic_bert() -> Encoder:
    config = transformers.NomicBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        head_dim=WIDTH // HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=TOKENS,
        layer_norm_eps=1e-12,
        rope_parameters=rope(1000.0),
    )
    case = Encoder("nomic-bert", "nomic-bert", config)
    case.say(attention__layer_norm_epsilon=1e-12, attention__causal=False, rope__freq_base=1000.0)
    case.embeddings(positions=False)
    for i in range(LAYERS):
        ours, theirs = f"blk.{i}.", f"layers.{i}."
        attention = theirs + "self_attn."
        fused = ours + "attn_qkv.weight"
        case.add(fused, [WIDTH, 3 * WIDTH], None)
        for at, part in enumerate("qkv"):
            case.placed[f"{attention}{part}_proj.weight"] = lambda at=at, fused=fused: weights(
                fused, [WIDTH, 3 * WIDTH]
            )[at * WIDTH : (at + 1) * WIDTH]
        case.add(ours + "attn_output.weight", [WIDTH, WIDTH], attention + "o_proj.weight")
        case.both(ours + "attn_output_norm", [WIDTH], theirs + "post_attention_layernorm")
        case.gated(ours, "", theirs + "mlp.", FEED_FORWARD)
        case.both(ours + "layer_output_norm", [WIDTH], theirs + "post_mlp_layernorm")
    return case


def gemma_embedding(name: str, window: int) -> Encoder:
    """The window that a file names is the model's whole one, of which half is on either side."""
    config = transformers.Gemma3TextConfig(
        **common(
            rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope()},
            sliding_window=window,
            query_pre_attn_scalar=16,
            tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh",
            sliding_window_pattern=6,
            num_hidden_layers=6,
            use_bidirectional_attention=True,
        )
    )
    case = Encoder(name, "gemma-embedding", config)
    case.offset_norms = True
    case.say(
        attention__sliding_window=window,
        rope__freq_base=1e6,
        attention__head_count_kv=2,
        attention__key_length=16,
        attention__value_length=16,
        attention__layer_norm_rms_epsilon=1e-5,
    )
    case.place(**PLAIN | {"head_norms": True, "post_norms": True, "tied": True})
    return case


def gemma_embedding_dense() -> Encoder:
    case = gemma_embedding("gemma-embedding-dense", 20)
    a = "gemma-embedding"
    case.metadata |= {
        f"{a}.dense_2_feat_in": WIDTH,
        f"{a}.dense_2_feat_out": INNER,
        f"{a}.dense_3_feat_in": INNER,
        f"{a}.dense_3_feat_out": WIDTH,
    }
    case.extend()
    return case


def qwen3_embedding() -> Encoder:
    """A model that generates, and embeds because its file says how."""
    given = qwen3()
    case = Encoder("qwen3-embedding", "qwen3", given.config, given.head_dim)
    case.metadata, case.tensors, case.placed = given.metadata, given.tensors, given.placed
    case.say(
        attention__head_count_kv=2,
        attention__key_length=32,
        attention__value_length=32,
        attention__layer_norm_rms_epsilon=1e-5,
    )
    return case


def states_of(case: Encoder) -> list[torch.Tensor]:
    """The last layer's output for each text."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(
        case.config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    state = model.state_dict()
    placed = {name.removeprefix("model."): change for name, change in case.placed.items()}
    placed.pop("lm_head.weight", None)
    for name, tensor in placed.items():
        values = torch.from_numpy(numpy.ascontiguousarray(tensor()))
        assert state[name].shape == values.shape, (case.name, name, state[name].shape)
        state[name].copy_(values)
    left = [name for name in state if name not in placed and not name.startswith("pooler.")]
    assert not left, (case.name, left)
    with torch.no_grad():
        return [model(torch.tensor([text])).last_hidden_state[0] for text in texts()]


def texts() -> list[list[int]]:
    return [[(7 * at * at + 3 * at + n) % VOCABULARY for at in range(n)] for n in LENGTHS]


def made(case: Encoder) -> dict[str, Any]:
    pools: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mean": lambda states: states.mean(0),
        "cls": lambda states: states[0],
        "last": lambda states: states[-1],
    }
    states = states_of(case)

    def vector(pooled: torch.Tensor) -> list[float]:
        for name in case.dense:
            pooled = torch.from_numpy(weights(name, case.tensors[name])) @ pooled
        return [round(x, 6) for x in pooled.tolist()]

    return {
        "metadata": case.own() | case.metadata,
        "tensors": case.tensors,
        "texts": texts(),
        "vectors": {name: [vector(pool(each)) for each in states] for name, pool in pools.items()},
    }


def main(folder: pathlib.Path) -> None:
    makers: list[Callable[[], Encoder]] = [
        bert,
        nomic_bert,
        lambda: gemma_embedding("gemma-embedding", 20),
        gemma_embedding_dense,
        qwen3_embedding,
    ]
    for make in makers:
        case = make()
        with (folder / f"{case.name}.json").open("w") as out:
            json.dump(made(case), out, separators=(",", ":"))
            out.write("\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

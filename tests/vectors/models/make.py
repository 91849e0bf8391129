"""Makes the references of the architectures: `make.py FOLDER` writes one JSON file for each case.

Each is a tiny model of random weights, computed by the package transformers in float32. A file says
what a model file would say of it, and has the shapes of its tensors, some tokens and the logits
behind some of them. It holds no weights: both sides make them from names (`weights`).

Made with torch 2.15.0 and transformers 5.24.0, numpy 2 and Python 3.11.
"""

import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy
import torch
import transformers

VOCABULARY = 96
WIDTH = 64
HEADS = 4
KV_HEADS = 2
FEED_FORWARD = 96
TOKENS = 80
POSITIONS = (0, 1, 15, 40, 79)
GOLDEN = numpy.uint64(0x9E3779B97F4A7C15)


def mix(x: numpy.ndarray) -> numpy.ndarray:
    """The finaliser of SplitMix64."""
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def weights(name: str, shape: list[int]) -> numpy.ndarray:
    """A tensor from its name.

    FNV-1a of the name seeds SplitMix64, whose upper 24 bits are a number from -1 to 1. Matrices are
    that by 0.3, norms 1 and a quarter of it, the rest a quarter.
    """
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    counter = numpy.arange(1, math.prod(shape) + 1, dtype=numpy.uint64)
    bits = mix(numpy.uint64(seed) + counter * GOLDEN) >> numpy.uint64(40)
    values = bits.astype(numpy.float32) / numpy.float32(2**23) - numpy.float32(1)
    if "norm" in name:
        values = numpy.float32(1) + values * numpy.float32(0.25)
    elif "factors" in name or "freqs" in name:
        values = numpy.float32(2) + values
    else:
        values = values * numpy.float32(0.3 if len(shape) > 1 else 0.25)
    return values.reshape(shape[::-1])


class Case:
    """A model: what its file says, and where each of its tensors goes in transformers."""

    def __init__(self, name: str, architecture: str, config: Any, head_dim: int = 16) -> None:
        self.name, self.architecture = name, architecture
        self.config, self.head_dim = config, head_dim
        self.context = TOKENS
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, list[int]] = {}
        self.placed: dict[str, Callable[[], numpy.ndarray]] = {}
        self.permuted = self.fused = self.offset_norms = False
        self.experts = self.shared = 0
        self.inner = FEED_FORWARD

    def add(
        self,
        ours: str,
        shape: list[int],
        theirs: str | None,
        change: Callable[[Any], Any] = lambda w: w,
    ) -> None:
        self.tensors[ours] = shape
        if theirs:
            self.placed[theirs] = lambda: change(weights(ours, shape))

    def norm(self, ours: str, size: int, theirs: str) -> None:
        self.add(
            ours,
            [size],
            theirs,
            (lambda w: w - numpy.float32(1)) if self.offset_norms else lambda w: w,
        )

    def turned(self, heads: int) -> Callable[[Any], Any]:
        """Files of llamas have the pairs of a head beside each other, transformers in halves."""
        if not self.permuted:
            return lambda w: w
        return lambda w: (
            w.reshape(heads, self.head_dim // 2, 2, WIDTH).swapaxes(1, 2).reshape(w.shape)
        )

    def place(self, *, biases: bool, head_norms: bool, post_norms: bool, tied: bool) -> None:
        q, kv = HEADS * self.head_dim, KV_HEADS * self.head_dim
        self.add("token_embd.weight", [WIDTH, VOCABULARY], "model.embed_tokens.weight")
        self.norm("output_norm.weight", WIDTH, "model.norm.weight")
        if not tied:
            self.add("output.weight", [WIDTH, VOCABULARY], "lm_head.weight")
        for i in range(self.config.num_hidden_layers):
            ours, theirs = f"blk.{i}.", f"model.layers.{i}."
            attention, mlp = theirs + "self_attn.", theirs + "mlp."
            self.norm(ours + "attn_norm.weight", WIDTH, theirs + "input_layernorm.weight")
            if self.fused:
                self.add(
                    ours + "attn_qkv.weight", [WIDTH, q + 2 * kv], attention + "qkv_proj.weight"
                )
            else:
                for part, rows, heads in (("q", q, HEADS), ("k", kv, KV_HEADS), ("v", kv, 0)):
                    change = self.turned(heads) if heads else lambda w: w
                    self.add(
                        f"{ours}attn_{part}.weight",
                        [WIDTH, rows],
                        f"{attention}{part}_proj.weight",
                        change,
                    )
                    if biases:
                        self.add(f"{ours}attn_{part}.bias", [rows], f"{attention}{part}_proj.bias")
            if head_norms:
                self.norm(ours + "attn_q_norm.weight", self.head_dim, attention + "q_norm.weight")
                self.norm(ours + "attn_k_norm.weight", self.head_dim, attention + "k_norm.weight")
            self.add(ours + "attn_output.weight", [q, WIDTH], attention + "o_proj.weight")
            self.feed_forward(ours, mlp)
            before = "pre_feedforward_layernorm" if post_norms else "post_attention_layernorm"
            self.norm(ours + "ffn_norm.weight", WIDTH, f"{theirs}{before}.weight")
            if post_norms:
                self.norm(
                    ours + "post_attention_norm.weight",
                    WIDTH,
                    theirs + "post_attention_layernorm.weight",
                )
                self.norm(
                    ours + "post_ffw_norm.weight",
                    WIDTH,
                    theirs + "post_feedforward_layernorm.weight",
                )

    def feed_forward(self, ours: str, theirs: str) -> None:
        """One feed-forward, fused or not, or experts, with or without one that all rows share."""
        if self.experts:
            self.mixture(ours, theirs)
        elif self.fused:
            rows = 2 * FEED_FORWARD
            self.add(ours + "ffn_up.weight", [WIDTH, rows], theirs + "gate_up_proj.weight")
            self.add(ours + "ffn_down.weight", [FEED_FORWARD, WIDTH], theirs + "down_proj.weight")
        else:
            self.gated(ours, "", theirs, FEED_FORWARD)

    def gated(self, ours: str, kind: str, theirs: str, inner: int) -> None:
        self.add(f"{ours}ffn_gate{kind}.weight", [WIDTH, inner], theirs + "gate_proj.weight")
        self.add(f"{ours}ffn_up{kind}.weight", [WIDTH, inner], theirs + "up_proj.weight")
        self.add(f"{ours}ffn_down{kind}.weight", [inner, WIDTH], theirs + "down_proj.weight")

    def mixture(self, ours: str, theirs: str) -> None:
        inner, gate, up = self.inner, f"{ours}ffn_gate_exps.weight", f"{ours}ffn_up_exps.weight"
        shape = [WIDTH, inner, self.experts]
        self.add(ours + "ffn_gate_inp.weight", [WIDTH, self.experts], theirs + "gate.weight")
        self.add(gate, shape, None)
        self.add(up, shape, None)
        self.placed[theirs + "experts.gate_up_proj"] = lambda: numpy.concatenate(
            [weights(gate, shape), weights(up, shape)], axis=1
        )
        down = [inner, WIDTH, self.experts]
        self.add(ours + "ffn_down_exps.weight", down, theirs + "experts.down_proj")
        if self.shared:
            wish = ours + "ffn_gate_inp_shexp.weight"
            self.add(
                wish, [WIDTH], theirs + "shared_expert_gate.weight", lambda w: w.reshape(1, WIDTH)
            )
            self.gated(ours, "_shexp", theirs + "shared_expert.", self.shared)

    def say(self, **values: Any) -> None:
        for name, value in values.items():
            self.metadata[f"{self.architecture}.{name.replace('__', '.')}"] = value

    def made(self) -> dict[str, Any]:
        a = self.architecture
        own = {
            "general.architecture": a,
            f"{a}.block_count": self.config.num_hidden_layers,
            f"{a}.context_length": self.context,
            f"{a}.embedding_length": WIDTH,
            f"{a}.feed_forward_length": FEED_FORWARD,
            f"{a}.attention.head_count": HEADS,
            f"{a}.attention.head_count_kv": KV_HEADS,
            f"{a}.attention.key_length": self.head_dim,
            f"{a}.attention.value_length": self.head_dim,
            f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        }
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            self.config, attn_implementation="eager", dtype=torch.float32
        ).eval()
        state = model.state_dict()
        for name, tensor in self.placed.items():
            values = torch.from_numpy(numpy.ascontiguousarray(tensor()))
            assert state[name].shape == values.shape, (
                self.name,
                name,
                state[name].shape,
                values.shape,
            )
            state[name].copy_(values)
        left = [name for name in state if name not in self.placed and name != "lm_head.weight"]
        assert not left, (self.name, left)
        tokens = [(7 * at * at + 3 * at + 5) % VOCABULARY for at in range(TOKENS)]
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        return {
            "metadata": own | self.metadata,
            "tensors": self.tensors,
            "tokens": tokens,
            "positions": POSITIONS,
            "logits": [[round(x, 6) for x in logits[at].tolist()] for at in POSITIONS],
        }


def common(head_dim: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": head_dim,
        "max_position_embeddings": TOKENS,
        "rms_norm_eps": 1e-5,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    } | more


def rope(base: float = 10_000.0, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base} | more


PLAIN = {"biases": False, "head_norms": False, "post_norms": False, "tied": False}


def llama(name: str, parameters: dict[str, Any], **says: Any) -> Case:
    config = transformers.LlamaConfig(**common(rope_parameters=parameters))
    case = Case(name, "llama", config)
    case.permuted = True
    case.say(rope__freq_base=parameters["rope_theta"], **says)
    case.place(**PLAIN)
    return case


def mistral() -> Case:
    config = transformers.MistralConfig(**common(rope_parameters=rope(), sliding_window=20))
    case = Case("mistral", "llama", config)
    case.permuted = True
    case.say(attention__sliding_window=20)
    case.place(**PLAIN)
    return case


def llama3() -> Case:
    """Llama 3 writes its way to scale as a factor for each frequency."""
    parameters = rope(
        500.0,
        rope_type="llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    case = llama("llama3", parameters)
    case.metadata["llama.rope.freq_base"] = 500.0
    model = transformers.AutoModelForCausalLM.from_config(case.config)
    own = model.model.rotary_emb.inv_freq.double()
    plain = 500.0 ** (-torch.arange(0, 16, 2).double() / 16)
    case.tensors["rope_freqs.weight"] = [8]
    case.values = {"rope_freqs.weight": [float(x) for x in plain / own]}
    return case


def qwen2() -> Case:
    case = Case(
        "qwen2",
        "qwen2",
        transformers.Qwen2Config(**common(rope_parameters=rope(1e6), tie_word_embeddings=True)),
    )
    case.say(rope__freq_base=1e6)
    case.place(**PLAIN | {"biases": True, "tied": True})
    return case


def qwen3() -> Case:
    case = Case(
        "qwen3", "qwen3", transformers.Qwen3Config(**common(32, rope_parameters=rope(1e6))), 32
    )
    case.say(rope__freq_base=1e6)
    case.place(**PLAIN | {"head_norms": True})
    return case


def gemma2() -> Case:
    config = transformers.Gemma2Config(
        **common(
            rope_parameters=rope(),
            sliding_window=20,
            query_pre_attn_scalar=16,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=30.0,
            tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh",
        )
    )
    case = Case("gemma2", "gemma2", config)
    case.offset_norms = True
    case.say(attention__sliding_window=20, attn_logit_softcapping=5.0, final_logit_softcapping=30.0)
    case.place(**PLAIN | {"post_norms": True, "tied": True})
    return case


def gemma3(name: str, window: int) -> Case:
    config = transformers.Gemma3TextConfig(
        **common(
            rope_parameters={
                "full_attention": rope(1e6, rope_type="linear", factor=8.0),
                "sliding_attention": rope(),
            },
            sliding_window=window,
            query_pre_attn_scalar=16,
            tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh",
            sliding_window_pattern=6,
            num_hidden_layers=6,
        )
    )
    case = Case(name, "gemma3", config)
    case.offset_norms = True
    case.say(
        attention__sliding_window=window,
        rope__freq_base=1e6,
        rope__scaling__type="linear",
        rope__scaling__factor=8.0,
    )
    case.place(**PLAIN | {"head_norms": True, "post_norms": True, "tied": True})
    return case


def phi3(name: str, stretched_to: int | None) -> Case:
    """One that is stretched takes its long factors: the tokens are more than its context was."""
    parameters = rope()
    case = Case(name, "phi3", None)
    case.fused = True
    case.say(rope__dimension_count=16)
    if stretched_to:
        names = ["rope_factors_short.weight", "rope_factors_long.weight"]
        short, long = ([float(x) for x in weights(name, [8])] for name in names)
        case.tensors |= {name: [8] for name in names}
        parameters = rope(
            rope_type="longrope",
            short_factor=short,
            long_factor=long,
            original_max_position_embeddings=32,
        )
        case.context = stretched_to
        case.say(
            rope__scaling__original_context_length=32,
            rope__scaling__attn_factor=math.sqrt(1 + math.log(stretched_to / 32) / math.log(32)),
        )
    case.config = transformers.Phi3Config(
        **common(
            rope_parameters=parameters,
            max_position_embeddings=case.context,
            original_max_position_embeddings=32,
            sliding_window=None,
        )
    )
    case.place(**PLAIN)
    return case


def mixtral() -> Case:
    config = transformers.MixtralConfig(
        **common(rope_parameters=rope(), num_local_experts=4, num_experts_per_tok=2)
    )
    case = Case("mixtral", "llama", config)
    case.permuted, case.experts = True, 4
    case.say(expert_count=4, expert_used_count=2)
    case.place(**PLAIN)
    return case


def qwen2moe() -> Case:
    more = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 128,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
    }
    config = transformers.Qwen2MoeConfig(**common(rope_parameters=rope(1e6), **more))
    case = Case("qwen2moe", "qwen2moe", config)
    case.experts, case.inner, case.shared = 4, 32, 128
    case.say(
        rope__freq_base=1e6,
        expert_count=4,
        expert_used_count=2,
        expert_feed_forward_length=32,
        expert_shared_feed_forward_length=128,
    )
    case.place(**PLAIN | {"biases": True})
    return case


def qwen3moe() -> Case:
    more = {
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
    }
    config = transformers.Qwen3MoeConfig(**common(32, rope_parameters=rope(1e6), **more))
    case = Case("qwen3moe", "qwen3moe", config, 32)
    case.experts, case.inner = 6, 32
    case.say(
        rope__freq_base=1e6, expert_count=6, expert_used_count=3, expert_feed_forward_length=32
    )
    case.place(**PLAIN | {"head_norms": True})
    return case


def main(folder: pathlib.Path) -> None:
    linear = rope(rope_type="linear", factor=4.0)
    yarn = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=20)
    makers: list[Callable[[], Case]] = [
        lambda: llama("llama", rope()),
        lambda: llama(
            "llama-linear", linear, rope__scaling__type="linear", rope__scaling__factor=4.0
        ),
        lambda: llama(
            "llama-yarn",
            yarn,
            rope__scaling__type="yarn",
            rope__scaling__factor=4.0,
            rope__scaling__original_context_length=20,
        ),
        llama3,
        mistral,
        qwen2,
        qwen3,
        gemma2,
        lambda: gemma3("gemma3", 20),
        lambda: gemma3("gemma3-wide", 128),
        mixtral,
        qwen2moe,
        qwen3moe,
        lambda: phi3("phi3", None),
        lambda: phi3("phi3-longrope", 128),
    ]
    for make in makers:
        case = make()
        made = case.made() | {"values": getattr(case, "values", {})}
        with (folder / f"{case.name}.json").open("w") as out:
            json.dump(made, out, separators=(",", ":"))
            out.write("\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

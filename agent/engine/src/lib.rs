//! Prompt to tokens: model files, tokenizer, forward pass, KV cache, scheduler, sampler.

//! Whole paths, the tidy rules, and the fixtures both need.

pub mod tiny_gguf;

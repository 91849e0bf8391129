//! An agent driven through its two ends: what it is told to hold, and whom it lets in.

#[cfg(test)]
#[path = "../../../tests/src/tiny_adapter.rs"]
mod tiny_adapter;
#[cfg(test)]
#[expect(unreachable_pub, reason = "other crates use it where it is a part of a library")]
#[path = "../../../tests/src/tiny_gguf.rs"]
mod tiny_gguf;
#[cfg(test)]
#[path = "../../../tests/src/tiny_parts.rs"]
mod tiny_parts;

// The attribute tells the linter that helpers in these modules are test code too.
#[cfg(test)]
mod adapters;
#[cfg(test)]
mod house;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod residents;

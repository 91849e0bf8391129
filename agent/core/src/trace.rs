//! What a call leaves behind of its way: spans, gathered until it has ended. Pure.
//!
//! A door begins a recording ([`Tracer`]), if that call is to leave one ([`Sampling`]); whoever
//! works on the call adds spans to its [`Scope`], with times that it knows anyway. The recording
//! goes out as one [`Finished`] when nobody holds a piece of it any more. Nothing here knows what
//! a collector is, and where no trace is recorded nothing is allocated or read.
//!
//! A span's attributes are names and numbers. What a client wrote, what a model answered and what
//! opens a door are in none of them.

mod context;
mod recording;
mod sampling;
mod span;
mod tracer;

pub use context::{Parent, SpanId, TraceId};
pub use recording::{Finished, Open, Scope};
pub use sampling::{Ratio, Sampling};
pub use span::{CANCELLED, Key, Moment, OK, Role, Span, SpanName, Value, outcome};
pub use tracer::{Outside, Queue, Tracer};

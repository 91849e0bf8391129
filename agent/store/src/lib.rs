//! Model artifacts: sources, resume, verification and the content-addressed cache.

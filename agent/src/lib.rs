//! One agent: the rooms wired together.

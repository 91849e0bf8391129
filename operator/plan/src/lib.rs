//! From raw specs to the desired state of every node, without a clock, a socket or randomness.

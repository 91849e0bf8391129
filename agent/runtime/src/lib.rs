//! Tenants' programs as WebAssembly components, each in its own sandbox beside the weights.

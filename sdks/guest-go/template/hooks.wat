;; What the SDK exports besides for a program with hooks.
  (func (export "realm:tenant/hooks@0.1.0#on-request") (param i32) (result i32) unreachable)
  (func (export "cabi_post_realm:tenant/hooks@0.1.0#on-request") (param i32))
  (func (export "realm:tenant/hooks@0.1.0#bias") (param i32 i32) (result i32) unreachable)
  (func (export "cabi_post_realm:tenant/hooks@0.1.0#bias") (param i32))
  (func (export "realm:tenant/hooks@0.1.0#on-token") (param i32 i32 i32) (result i32) unreachable)
  (func (export "cabi_post_realm:tenant/hooks@0.1.0#on-token") (param i32))
  (func (export "realm:tenant/hooks@0.1.0#on-finish") (param i32) (result i32) unreachable)
  (func (export "cabi_post_realm:tenant/hooks@0.1.0#on-finish") (param i32))

;; What the SDK exports besides for a program that says whether it works.
  (func (export "realm:tenant/health@0.1.0#check") (result i32) unreachable)
  (func (export "cabi_post_realm:tenant/health@0.1.0#check") (param i32))

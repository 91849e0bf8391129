;; A program that does its work in a 64-bit memory: a wide part, which serves, and two narrow ones with
;; 32-bit memories, which stand between it and the host and hand everything on: calls of the host, and
;; the host's calls.
(component
  (type $limit' (record (field "tokens" u64) (field "tokens-max" u64)))
  (type $finish' (enum "stop" "length"))
  (import "realm:tenant/types@0.1.0" (instance $types
    (export "token-limit" (type $limit (eq $limit')))
    (type $error' (variant
      (case "unknown-function" string) (case "unknown-model" string) (case "invalid" string)
      (case "too-long" $limit) (case "model-not-ready" string) (case "busy" u64)
      (case "refused" string) (case "failed" string)))
    (export "error" (type (eq $error')))
    (export "finish" (type (eq $finish')))))
  (alias export $types "token-limit" (type $token-limit))
  (alias export $types "error" (type $error))
  (alias export $types "finish" (type $finish))
  (import "realm:tenant/reply@0.1.0" (instance $reply
    (export "write-text" (func (param "text" string)))))
  (alias export $reply "write-text" (func $host-write))
  (type $info (record (field "name" string) (field "description" string)
    (field "params-schema" string) (field "streams" bool)))
  (type $request (record (field "function" string) (field "params" string)))
  (type $outcome (record (field "finish" $finish) (field "data" (option string))))

  ;; The memory of a narrow part: so many bytes more, which nobody gives back.
  (core module $narrow-room
    (memory (export "memory") 16)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free
        (i32.and (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 7)) (i32.const -8)))
      (local.get $at)))

  (component $front
    (import "write-text" (func $host-write (param "text" string)))
    (core instance $room (instantiate $narrow-room))
    (alias core export $room "memory" (core memory $memory))
    (alias core export $room "realloc" (core func $realloc))
    (core func $host-write (canon lower (func $host-write) (memory $memory)))
    (core module $code
      (import "host" "write" (func $write (param i32 i32)))
      (func (export "write") (param i32 i32) (call $write (local.get 0) (local.get 1))))
    (core instance $code (instantiate $code (with "host" (instance
      (export "write" (func $host-write))))))
    (func (export "write-text") (param "text" string)
      (canon lift (core func $code "write") (memory $memory) (realloc $realloc))))

  (component $wide
    (type $limit (record (field "tokens" u64) (field "tokens-max" u64)))
    (import "limit" (type $token-limit (eq $limit)))
    (type $error' (variant
      (case "unknown-function" string) (case "unknown-model" string) (case "invalid" string)
      (case "too-long" $token-limit) (case "model-not-ready" string) (case "busy" u64)
      (case "refused" string) (case "failed" string)))
    (import "error" (type $error (eq $error')))
    (type $finish' (enum "stop" "length"))
    (import "finish" (type $finish (eq $finish')))
    (type $info' (record (field "name" string) (field "description" string)
      (field "params-schema" string) (field "streams" bool)))
    (import "info" (type $info (eq $info')))
    (type $request' (record (field "function" string) (field "params" string)))
    (import "request" (type $request (eq $request')))
    (type $outcome' (record (field "finish" $finish) (field "data" (option string))))
    (import "outcome" (type $outcome (eq $outcome')))
    (import "write-text" (func $write-text (param "text" string)))

    (core module $room
      (memory (export "memory") i64 16)
      (data (i64.const 16) "{}")
      (data (i64.const 32) "echospingrowleaphighpastwrapmuchbackdenytell")
      (global $free (mut i64) (i64.const 4096))
      ;; So many bytes more, which nobody gives back.
      (func (export "realloc") (param i64 i64 i64 i64) (result i64)
        (local $at i64)
        (local.set $at (global.get $free))
        (global.set $free
          (i64.and (i64.add (i64.add (local.get $at) (local.get 3)) (i64.const 7)) (i64.const -8)))
        (local.get $at)))
    (core instance $room (instantiate $room))
    (alias core export $room "memory" (core memory $memory))
    (alias core export $room "realloc" (core func $realloc))
    (core func $write-text (canon lower (func $write-text) (memory $memory)))

    (core module $code
      (import "room" "memory" (memory i64 16))
      (import "front" "write" (func $write (param i64 i64)))
      ;; Eleven, with names of four letters, the same schema, and no description.
      (func (export "functions") (result i64)
        (local $number i64)
        (local $at i64)
        (loop $each
          (local.set $at (i64.add (i64.const 1024) (i64.mul (local.get $number) (i64.const 56))))
          (i64.store (local.get $at)
            (i64.add (i64.const 32) (i64.mul (local.get $number) (i64.const 4))))
          (i64.store offset=8 (local.get $at) (i64.const 4))
          (i64.store offset=32 (local.get $at) (i64.const 16))
          (i64.store offset=40 (local.get $at) (i64.const 2))
          (local.set $number (i64.add (local.get $number) (i64.const 1)))
          (br_if $each (i64.lt_u (local.get $number) (i64.const 11))))
        (i64.store (i64.const 512) (i64.const 1024))
        (i64.store (i64.const 520) (i64.const 11))
        (i64.const 512))
      ;; Answers its parameters, whatever the function but for what that does to them.
      (func (export "handle")
        (param $name i64) (param $name-length i64) (param $text i64) (param $length i64) (result i64)
        (local $letter i32)
        (local.set $letter (i32.load8_u (local.get $name)))
        ;; spin: never ends.
        (if (i32.eq (local.get $letter) (i32.const 0x73)) (then (loop $ever (br $ever))))
        ;; grow: takes a page at a time.
        (if (i32.eq (local.get $letter) (i32.const 0x67)) (then
          (loop $more (br_if $more (i64.ne (memory.grow (i64.const 1)) (i64.const -1))))))
        ;; leap: takes more than there are addresses.
        (if (i32.eq (local.get $letter) (i32.const 0x6c)) (then
          (drop (memory.grow (i64.const 0x1000000000000)))))
        ;; high: says that the text is 4 GiB above where it is.
        (if (i32.eq (local.get $letter) (i32.const 0x68)) (then
          (local.set $text (i64.add (local.get $text) (i64.const 0x100000000)))))
        ;; past: says that it is where no memory is.
        (if (i32.eq (local.get $letter) (i32.const 0x70)) (then
          (local.set $text (i64.const 0x40000000))))
        ;; wrap: says that it begins with the last byte of all addresses.
        (if (i32.eq (local.get $letter) (i32.const 0x77)) (then (local.set $text (i64.const -1))))
        ;; much: says that it is 4 GiB longer than it is.
        (if (i32.eq (local.get $letter) (i32.const 0x6d)) (then
          (local.set $length (i64.add (local.get $length) (i64.const 0x100000000)))))
        ;; deny: too long, with a number of more than 32 bits.
        (if (i32.eq (local.get $letter) (i32.const 0x64)) (then
          (i32.store8 (i64.const 640) (i32.const 1))
          (i32.store8 offset=8 (i64.const 640) (i32.const 3))
          (i64.store offset=16 (i64.const 640) (i64.const 0x200000000))
          (i64.store offset=24 (i64.const 640) (i64.const 7))
          (return (i64.const 640))))
        ;; tell: writes its parameters to the client too.
        (if (i32.eq (local.get $letter) (i32.const 0x74)) (then
          (call $write (local.get $text) (local.get $length))))
        (i32.store8 offset=16 (i64.const 640) (i32.const 1))
        (i64.store offset=24 (i64.const 640) (local.get $text))
        (i64.store offset=32 (i64.const 640) (local.get $length))
        ;; back: says that its answer is 4 GiB above where it is.
        (select (i64.const 0x100000280) (i64.const 640)
          (i32.eq (local.get $letter) (i32.const 0x62)))))
    (core instance $code (instantiate $code
      (with "room" (instance $room))
      (with "front" (instance (export "write" (func $write-text))))))
    (func $functions (result (list $info))
      (canon lift (core func $code "functions") (memory $memory)))
    (func $handle (param "request" $request) (result (result $outcome (error $error)))
      (canon lift (core func $code "handle") (memory $memory) (realloc $realloc)))
    (export "functions" (func $functions))
    (export "handle" (func $handle)))

  (component $narrow
    (type $limit (record (field "tokens" u64) (field "tokens-max" u64)))
    (import "limit" (type $token-limit (eq $limit)))
    (type $error' (variant
      (case "unknown-function" string) (case "unknown-model" string) (case "invalid" string)
      (case "too-long" $token-limit) (case "model-not-ready" string) (case "busy" u64)
      (case "refused" string) (case "failed" string)))
    (import "error" (type $error (eq $error')))
    (type $finish' (enum "stop" "length"))
    (import "finish" (type $finish (eq $finish')))
    (type $info' (record (field "name" string) (field "description" string)
      (field "params-schema" string) (field "streams" bool)))
    (import "info" (type $info (eq $info')))
    (type $request' (record (field "function" string) (field "params" string)))
    (import "request" (type $request (eq $request')))
    (type $outcome' (record (field "finish" $finish) (field "data" (option string))))
    (import "outcome" (type $outcome (eq $outcome')))
    (import "functions" (func $wide-functions (result (list $info))))
    (import "handle" (func $wide-handle
      (param "request" $request) (result (result $outcome (error $error)))))

    (core instance $room (instantiate $narrow-room))
    (alias core export $room "memory" (core memory $memory))
    (alias core export $room "realloc" (core func $realloc))
    (core func $wide-functions
      (canon lower (func $wide-functions) (memory $memory) (realloc $realloc)))
    (core func $wide-handle
      (canon lower (func $wide-handle) (memory $memory) (realloc $realloc)))

    (core module $code
      (import "wide" "functions" (func $functions (param i32)))
      (import "wide" "handle" (func $handle (param i32 i32 i32 i32 i32)))
      (func (export "functions") (result i32)
        (call $functions (i32.const 16))
        (i32.const 16))
      (func (export "handle") (param i32 i32 i32 i32) (result i32)
        (call $handle (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 64))
        (i32.const 64)))
    (core instance $code (instantiate $code (with "wide" (instance
      (export "functions" (func $wide-functions))
      (export "handle" (func $wide-handle))))))
    (func $functions (result (list $info))
      (canon lift (core func $code "functions") (memory $memory)))
    (func $handle (param "request" $request) (result (result $outcome (error $error)))
      (canon lift (core func $code "handle") (memory $memory) (realloc $realloc)))
    (export $error-x "error" (type $error))
    (export $finish-x "finish" (type $finish))
    (export $info-x "function-info" (type $info))
    (export $request-x "request" (type $request))
    (export $outcome-x "outcome" (type $outcome))
    (export "functions" (func $functions) (func (result (list $info-x))))
    (export "handle" (func $handle)
      (func (param "request" $request-x) (result (result $outcome-x (error $error-x))))))

  (instance $front (instantiate $front (with "write-text" (func $host-write))))
  (alias export $front "write-text" (func $write-text))
  (instance $wide (instantiate $wide (with "write-text" (func $write-text))
    (with "limit" (type $token-limit)) (with "error" (type $error)) (with "finish" (type $finish))
    (with "info" (type $info)) (with "request" (type $request)) (with "outcome" (type $outcome))))
  (alias export $wide "functions" (func $functions))
  (alias export $wide "handle" (func $handle))
  (instance $narrow (instantiate $narrow
    (with "limit" (type $token-limit)) (with "error" (type $error)) (with "finish" (type $finish))
    (with "info" (type $info)) (with "request" (type $request)) (with "outcome" (type $outcome))
    (with "functions" (func $functions)) (with "handle" (func $handle))))
  (export "realm:tenant/handler@0.1.0" (instance $narrow)))

;; What Go's runtime wants of an operating system (WASI preview 1), and a plugin does not have: no arguments, no environment,
;; no files. Nothing here calls the host, because Go asks for the time while it lends memory to the host, and a component may
;; not call out then. So the clock only counts, and the real time is `weir:plugin/clock`.
(module
  (import "env" "memory" (memory 0))
  (global $now (mut i64) (i64.const 1))
  (global $random (mut i64) (i64.const 0x9e3779b97f4a7c15))

  ;; One microsecond a look.
  (func (export "clock_time_get") (param i32 i64 i32) (result i32)
    (global.set $now (i64.add (global.get $now) (i64.const 1000)))
    (i64.store (local.get 2) (global.get $now))
    (i32.const 0))

  ;; Seeds of maps; the same in each instance, and good for nothing else.
  (func (export "random_get") (param $at i32) (param $len i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $len)))
        (global.set $random
          (i64.add (i64.mul (global.get $random) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
        (i64.store8 (local.get $at) (i64.shr_u (global.get $random) (i64.const 56)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; No arguments, no environment: two counts of zero.
  (func $none (export "args_sizes_get") (export "environ_sizes_get") (param i32 i32) (result i32)
    (i32.store (local.get 0) (i32.const 0))
    (i32.store (local.get 1) (i32.const 0))
    (i32.const 0))
  (func (export "args_get") (export "environ_get") (param i32 i32) (result i32) (i32.const 0))

  ;; What is written goes nowhere, and all of it: a plugin speaks through `weir:plugin/log`.
  (func (export "fd_write") (param $fd i32) (param $at i32) (param $count i32) (param $written i32) (result i32)
    (i32.store (local.get $written) (i32.const 0))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (i32.store (local.get $written)
          (i32.add (i32.load (local.get $written)) (i32.load offset=4 (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; No other file: 8 is EBADF.
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_close") (param i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_get") (export "fd_fdstat_set_flags") (export "fd_prestat_get") (param i32 i32) (result i32)
    (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))

  ;; Nobody else is there to wait for.
  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "poll_oneoff") (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "proc_exit") (param i32) unreachable))

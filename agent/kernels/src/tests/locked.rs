//! Weights that are locked in memory are, and no longer than those live that lie beside them.

use std::fs;

use crate::backend::Backend as _;
use crate::cpu::Cpu;
use crate::format::Format;

/// KiB of this process that are locked.
fn locked_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The only test of this process that locks anything, so that what is locked is of its matrices.
#[test]
fn weights_stay_in_memory_for_as_long_as_they_live_where_that_is_asked_for() {
    let (rows, cols) = (64, 256);
    for format in [Format::F32, Format::Q4_1] {
        let bytes = vec![0; format.tensor_bytes(rows, cols).unwrap()];
        let holds = Cpu::matrix_bytes(format, rows, cols).unwrap();
        let before = locked_kib();

        let plain = Cpu::detect(1).matrix(format, rows, cols, &bytes).unwrap();
        assert_eq!(locked_kib(), before, "{format}");

        let mut cpu = Cpu::detect(1).locking_weights(true);
        let [locked, beside] = [(); 2].map(|()| cpu.matrix(format, rows, cols, &bytes).unwrap());
        let both = locked_kib();
        assert!(both * 1024 >= 2 * holds, "{format}: {both} KiB of twice {holds} bytes");
        assert_eq!(both % 2048, before % 2048, "{format}: whole large pages");
        drop((plain, locked));
        assert_eq!(locked_kib(), both, "{format}: one of the two is left");
        drop(beside);
        assert_eq!(locked_kib(), before, "{format}");
    }
}

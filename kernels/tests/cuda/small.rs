//! Every kernel in small shapes: what compute-sanitizer watches, under which a launch takes a hundred times as long.

use super::{attention::*, few::*, matvec::*, rows::*, *};

#[test]
fn every_kernel() {
    each(&FORMATS, |bench| {
        check_plain(bench, &[(7, 48), (33, 72)]);
        check_gated(bench, &[(7, 48), (33, 72)]);
        check_head(bench);
        check_rotate(bench, &[(4, 2, 16, 64, false), (3, 1, 64, 72, true)]);
        check_embed(bench);
        check_norm(bench, &[(3, 32), (1, 9216)]);
        check_rotate_append(bench);
        check_activate(bench);
        check_last_and_pick(bench);
        check_decode(bench, &[(2, 2), (4, 2), (9, 3), (8, 1)], &[(2, 70, Some(50))]);
        check_general(bench);
        if bench.format() != Format::F32 {
            check_prefill(bench, &[(1, 2, 1, 5, 70, None), (1, 2, 1, 37, 130, Some(40))]);
            // Fewer tiles than multiprocessors, more than those, and rows that leave no room for all sums.
            check_few(bench, &[(33, 72), (2200, 64), (16, 14_336)], &[5]);
            check_few_late(bench, &[(40, 72)], &[5]);
            check_few_rotate(bench, &[(4, 2, 16, 72, 3), (15, 1, 128, 64, 2), (1, 1, 16, 14_336, 8)]);
        }
        let unseen: Vec<_> = bench.kernels.launches().filter(|(name, launches)| *launches == 0 && *name != "read_memory").collect();
        assert!(unseen.is_empty(), "{:?}: no launch of {unseen:?}", bench.format());
    });
}

//! The kit itself: it passes what is right, and each check catches the fault that it is for.

use crate::{
    Backend, BoxModel, LoadSpec, ManualClock, Measured, NoopSink,
    sim::{Fault, Sim, SimModel},
};

fn sim() -> SimModel {
    Sim::default().load(&LoadSpec::new("none")).expect("sim")
}

mod plain {
    crate::conformance_suite!(super::sim);
}

mod erased {
    crate::conformance_suite!(|| Box::new(super::sim()) as super::BoxModel);
}

mod measured {
    crate::conformance_suite!(|| super::Measured::new(super::sim(), super::ManualClock::default(), super::NoopSink));
}

/// Each fault is caught by the check meant for it, with a message that says what is wrong.
mod kit {
    use super::{Backend, Fault, LoadSpec, Sim, SimModel};

    fn faulty(fault: Fault) -> impl Fn() -> SimModel {
        move || Sim::default().with_fault(fault).load(&LoadSpec::new("none")).expect("sim")
    }

    macro_rules! catches {
        ($($fault:ident by $check:ident saying $message:literal;)+) => {
            $(
                #[test]
                #[should_panic(expected = $message)]
                #[expect(non_snake_case, reason = "the fault's own name")]
                fn $fault() {
                    super::super::$check(faulty(Fault::$fault));
                }
            )+
        };
    }

    catches! {
        AcceptsBadToken by bad_input_is_a_kind saying "an unknown token";
        ChunkStartsOver by chunking_is_invisible saying "three chunks against one prefill";
        ClaimsDeviceTiming by device_time_is_as_claimed saying "claimed and not given";
        CorruptsOnOverflow by overflow_leaves_the_cache_usable saying "after a refused call";
        EmptyDecodeRefused by decode_on_empty_is_a_prompt saying "decode on an empty cache";
        ForgetsToken by phase_split_is_invisible saying "token by token";
        GreedyDisagrees by greedy_agrees_with_the_scores saying "picked another token";
        RunForgets by a_run_is_its_steps saying "picked other tokens";
        IgnoresTruncate by truncating_forgets saying "after truncating";
        LeaksAcrossRows by rows_are_independent saying "among neighbours";
        LeaksAcrossSessions by sessions_are_independent saying "another cache's calls";
        MiscountsLength by lengths_are_counted saying "prefill adds its tokens";
        NoEvidence by placement_is_evidenced saying "no evidence";
        NotDeterministic by same_input_same_output saying "gave another output";
        ReloadDiffers by reloading_changes_nothing saying "gave another model";
    }

    #[test]
    #[should_panic(expected = "decode works although the device is lost")]
    fn a_device_that_was_not_lost_is_noticed() {
        super::super::a_lost_device_is_named(&Sim::default(), &LoadSpec::new("none"), || ());
    }
}

//! Ceilings measured beside a run.

use super::*;
use phase_core::DType;

/// What the observer was told of ceilings.
#[derive(Default)]
struct Told(Vec<String>);

impl Observer for Told {
    fn progress(&mut self, progress: &Progress<'_>) {
        if let Progress::NoCeilings { message } = progress {
            self.0.push((*message).to_owned());
        }
    }
}

/// Reads on `clock` in as many milliseconds as `milliseconds` says of each time, and multiplies.
fn meter<'a>(clock: &'a ManualClock, mut milliseconds: impl FnMut() -> Option<u64> + 'a) -> CeilingMeter<'a> {
    let read = CeilingLoad::new("reading", CeilingKind::Read { working_set_bytes: 8 }, 1e9, move |_| {
        clock.advance(Duration::from_millis(milliseconds().ok_or("the memory is gone")?));
        Ok(())
    });
    let multiply = CeilingLoad::new("multiplying", CeilingKind::Product { dtype: DType::F32 }, 1e9, move |_| {
        clock.advance(Duration::from_millis(1));
        Ok(())
    });
    CeilingMeter::new(vec![read, multiply], |rates| Ceilings::new("a test", None, rates))
}

fn kept(dir: &Path) -> Vec<Ceilings> {
    SealedRun::open(dir).unwrap().ceilings().to_vec()
}

#[test]
fn a_machine_that_is_slow_at_first_is_measured_again_after_every_block() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let clock = stage.clock.clone();
    let mut slow = [900, 500, 500, 400, 100, 200, 400].into_iter();
    let given =
        Ceilings::from_json(r#"{ "schema": "phase.ceilings/1", "source": "by hand", "bytes_per_s": 1, "flops_per_s": 1 }"#).unwrap();
    let runner = stage.create(Stage2::small(), dir.path()).unwrap().with_ceilings(vec![given.clone()]);
    let mut runner = runner.with_ceiling_meter(meter(&clock, || slow.next()));
    runner.run(&mut (), &AtomicBool::new(false)).unwrap();
    drop(runner);
    let kept = kept(dir.path());
    assert_eq!(kept[0], given);
    // A warm-up, two times before the first of four blocks, one after each.
    let rate = &kept[1].rates[0];
    assert!((rate.high - 1e10).abs() < 1e6 && (rate.low - 2e9).abs() < 1e6, "{rate:?}");
    assert_eq!((rate.blocks, slow.next()), (6, None));
    assert!(validate(dir.path()).is_ok());
}

#[test]
fn a_stopped_run_keeps_what_it_measured_and_a_resumed_one_measures_no_more() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let clock = stage.clock.clone();
    let cancel = AtomicBool::new(false);
    let mut runner = stage.create(Stage2::small(), dir.path()).unwrap().with_ceiling_meter(meter(&clock, || Some(100)));
    runner.run(&mut StopAfter { blocks: 1, cancel: &cancel }, &cancel).unwrap();
    drop(runner);
    let mut runner = stage.resume(dir.path()).unwrap().with_ceiling_meter(meter(&clock, || Some(1)));
    runner.run(&mut (), &AtomicBool::new(false)).unwrap();
    drop(runner);
    let rate = kept(dir.path()).remove(0).rates.remove(0);
    assert!(rate.blocks == 3 && (rate.high - 1e10).abs() < 1e6, "{rate:?}");
}

#[test]
fn a_run_goes_on_where_its_ceilings_can_not_be_measured() {
    for (fails_after, kept_blocks) in [(0, None), (1, None), (4, Some(3))] {
        let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
        let clock = stage.clock.clone();
        let mut times = std::iter::repeat_n(100, fails_after);
        let mut told = Told::default();
        let mut runner = stage.create(Stage2::small(), dir.path()).unwrap().with_ceiling_meter(meter(&clock, || times.next()));
        let finish = runner.run(&mut told, &AtomicBool::new(false)).unwrap();
        assert!(matches!(finish, Finish::Complete { failures: 0, .. }));
        drop(runner);
        assert!(told.0.len() == 1 && told.0[0].contains("reading: the memory is gone"), "{:?}", told.0);
        assert_eq!(kept(dir.path()).first().map(|c| c.rates[0].blocks), kept_blocks);
    }
}

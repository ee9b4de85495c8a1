//! Runs that have to end at some time.

use super::*;

const NONE: Energy = Energy::NoData { reason: NoData::Budget };

/// A run within `seconds`: how long it took, its energies, and what was told before the first sitting.
fn within(seconds: f64, lab: &Lab, plan: Plan) -> (f64, EnergySummary, Vec<(String, bool)>) {
    struct Agenda(Vec<(String, bool)>);
    impl Observer for Agenda {
        fn progress(&mut self, progress: &Progress<'_>) {
            if let Progress::EnergyAgenda { replays, left_s } = progress {
                let planned: f64 = replays.iter().filter(|r| !r.left_out).map(|r| r.seconds).sum();
                assert!(planned <= left_s.unwrap(), "{planned} of {left_s:?}");
                assert!(replays.iter().all(|r| r.left_out || r.passes.is_some()), "blocks told how long passes take: {replays:?}");
                self.0 = replays.iter().map(|r| (format!("{} {}", r.call, r.backend), r.left_out)).collect();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let options = EnergyOptions::default().with_budget_s(seconds).unwrap();
    let runner = lab.stage.create(plan, dir.path()).unwrap();
    let mut runner = runner.with_energy(lab.setup(&lab.calibration()), options).unwrap();
    let (start, mut agenda) = (lab.stage.clock.now(), Agenda(Vec::new()));
    let finish = runner.run(&mut agenda, &AtomicBool::new(false)).unwrap();
    assert!(matches!(finish, Finish::Complete { failures: 0, .. }), "{finish:?}");
    let took = lab.stage.clock.now().since(start).as_secs_f64();
    validate(dir.path()).unwrap();
    let energy = Run::open(dir.path()).unwrap().energy().unwrap().clone();
    for cell in energy.cells.iter().filter(|c| c.energy.bounds().is_some()) {
        assert_holds(&cell.energy, lab.truth(cell).0, 0.02);
    }
    (took, energy, agenda.0)
}

fn known(energy: &EnergySummary) -> usize {
    energy.cells.iter().filter(|c| c.energy.bounds().is_some()).count()
}

#[test]
fn a_budget_is_kept_by_shorter_windows_and_then_by_leaving_calls_out() {
    let with_budget = |seconds| within(seconds, &Lab::new(COUNTER, hungry(), frugal()), Lab::plan());
    // Two calls on two backends take 144 s with windows of five seconds.
    let (took, energy, agenda) = with_budget(110.0);
    assert!((85.0..=110.0).contains(&took), "{took} s");
    assert_eq!((known(&energy), agenda.len()), (4, 4), "{energy:?}");
    // Enough for one call's shortest windows: decode is the first in turn.
    let (took, energy, agenda) = with_budget(65.0);
    assert!(took <= 65.0 && known(&energy) == 2, "{took} s, {energy:?}");
    assert_eq!(agenda.iter().map(|(_, out)| *out).collect::<Vec<_>>(), [false, false, true, true], "{agenda:?}");
    for cell in energy.cells.iter().filter(|c| c.phase == Phase::Prefill) {
        assert_eq!((&cell.energy, &cell.window, &cell.single), (&NONE, &NONE, &None));
        let [note] = cell.notes.as_slice() else { panic!("{:?}", cell.notes) };
        let number = |after: &str| note.split(after).nth(1).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
        assert!((20.0..30.0).contains(&number("take ")) && number("least; ") < number("take "), "{note}");
    }
    // Enough for none: the run is whole all the same.
    let (took, energy, _) = with_budget(10.0);
    assert!(took <= 12.0 && energy.cells.iter().all(|c| c.energy == NONE && c.notes.len() == 1), "{took} s, {energy:?}");
}

#[test]
fn every_phase_of_every_backend_has_its_turn_before_a_second_prompt_has() {
    let two = REQUEST.replace("}]", "}, { id = \"b\", kind = \"steady\", batch = 2, prompt_tokens = 8, decode_steps = 0, warmup = 1 }]");
    let spec = || Plan::new(&Stage2::spec(&two)).unwrap();
    // Two prompts and decode, of which one does not fit.
    let (took, energy, _) = within(110.0, &Lab::new(COUNTER, hungry(), frugal()), spec());
    let out: Vec<_> = energy.cells.iter().filter(|c| c.energy == NONE).map(|c| (c.phase, c.shape.new_tokens)).collect();
    assert!(took <= 110.0 && out.iter().all(|o| *o == (Phase::Prefill, 8)) && (1..=2).contains(&out.len()), "{out:?} after {took} s");
    assert_eq!(known(&energy), energy.cells.len() - out.len());
}

#[test]
fn what_is_left_of_a_budget_makes_the_worst_verdicts_better() {
    // A part-time sensor in step with the call at first: no verdict, or a wide one, until it is made again.
    let locked = || [vec![(0.02, 650.0), (0.08, 300.0)], vec![(0.1, 350.0)]];
    let lab = Lab::new(PART_TIME, locked(), locked());
    let (short, _, _) = within(140.0, &lab, Lab::plan());
    let lab = Lab::new(PART_TIME, locked(), locked());
    let (long, energy, _) = within(600.0, &lab, Lab::plan());
    assert!(short <= 140.0 && long <= 600.0 && long > 150.0, "{short} s, {long} s: the rest was used");
    assert!(known(&energy) >= 3, "{energy:?}");
    // A sensor that sees all has nothing to gain, and ends early.
    let lab = Lab::new(COUNTER, hungry(), frugal());
    let (took, energy, _) = within(600.0, &lab, Lab::plan());
    assert!(took < 170.0 && known(&energy) == 4, "{took} s");
}

#[test]
fn a_sitting_that_the_clock_cuts_short_says_so_and_ends() {
    // The device becomes warmer in every window, so that windows are made again and again.
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    lab.device.warming.lock().unwrap().0 = 4.0;
    let options = EnergyOptions::default().with_budget_s(75.0).unwrap();
    let runner = lab.stage.create(Lab::plan(), dir.path()).unwrap();
    let mut runner = runner.with_energy(lab.setup(&lab.calibration()), options).unwrap();
    let start = lab.stage.clock.now();
    assert!(matches!(runner.run(&mut (), &AtomicBool::new(false)).unwrap(), Finish::Complete { .. }));
    assert!(lab.stage.clock.now().since(start).as_secs_f64() <= 78.0);
    validate(dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let cells = &run.energy().unwrap().cells;
    assert!(cells.iter().all(|c| c.energy.reason() == Some(NoData::Budget)), "{cells:?}");
    assert!(cells.iter().flat_map(|c| &c.notes).any(|n| n.contains("0 of its windows were made when the run's time ended; ")), "{cells:?}");
}

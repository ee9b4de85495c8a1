//! The runner's part: which sittings are held, when, and what is made of their verdicts.

use super::{
    EnergyOptions, EnergyPlan, EnergySetup, EnergySitting, LeftOut, Meter,
    agenda::{Waiting, agenda, need, pass_s, turns},
    budget::{Need, allot},
    judge::Heard,
    planned::{Call, calls, covering},
    sit::{Cancelled, Guest, Sitter, replays_of, rest_of},
    stored::{held, sittings},
    summary::middle_and_bounds,
};
use crate::{Observer, Plan, Progress, Residency, Runner, ScenarioError, cold::nanos, reading::Work, results::read_records};
use phase_core::{Arm, Clock as _, Energy, NoData, Timestamp};
use phase_energy::{BaselineKind, SensorKind, SensorModel, more_replays};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A run's meter, and what is still to be written.
#[derive(Debug)]
pub(crate) struct Metering<'a> {
    meter: Box<dyn Meter + 'a>,
    models: Vec<SensorModel>,
    unwritten: Option<EnergySitting>,
    /// When the last sitting has to be over, where the run has a budget.
    deadline: Option<Timestamp>,
    /// The longest that a model was loaded for a sitting of its own, seconds.
    load_s: f64,
}

/// Looks at a device that somebody's work before may still keep from its rest; what it is not at rest after has no number.
const REST_LOOKS: u32 = 6;
/// Most times as many replays as before.
const MOST_TIMES: u32 = 4;

impl<'a> Runner<'a> {
    /// Measures energy after the last block, or says in every cell why it can't be measured. Without this call a run has no
    /// energy. A resumed run needs it again.
    ///
    /// # Errors
    /// [`ScenarioError::Plan`] for sensors that are not the meter's, or a calibration that contradicts itself.
    pub fn with_energy(mut self, setup: EnergySetup<'a>, options: EnergyOptions) -> Result<Self, ScenarioError> {
        let (sensors, reason, notes) = match setup {
            EnergySetup::Absent { reason, notes } => (Vec::new(), Some(reason), notes),
            EnergySetup::Present { meter, sensors, notes } => {
                let same = meter.sensors().into_iter().eq(sensors.iter().map(|s| (s.id.clone(), s.reading)));
                if !same || sensors.is_empty() {
                    return Err(ScenarioError::plan("the sensors are not those that the meter reads"));
                }
                let models = sensors.iter().map(|s| s.calibration.model()).collect::<Result<_, _>>();
                let models = models.map_err(|e| ScenarioError::plan(e.to_string()))?;
                self.metering = Some(Metering { meter, models, unwritten: None, deadline: self.deadline(&options), load_s: 0.0 });
                (sensors, None, notes)
            }
        };
        if self.resumed && self.manifest.energy.as_ref().is_some_and(|before| before.sensors != sensors) {
            return Err(ScenarioError::plan("the energy sensors or their calibrations are not those that this run was started with"));
        }
        self.manifest.energy = Some(EnergyPlan { options, sensors, reason, notes });
        Ok(self)
    }

    /// The budget's end, less what comes after the last sitting: the power without models, and files.
    fn deadline(&self, options: &EnergyOptions) -> Option<Timestamp> {
        Some(Timestamp::from_nanos(self.clock.now().as_nanos().saturating_add(nanos(options.for_replays()?))))
    }

    /// Whether this run was started with sensors that this process was not given: its energy will not be recorded.
    pub fn lacks_energy(&self) -> bool {
        self.metering.is_none() && self.manifest.energy.as_ref().is_some_and(|e| e.reason.is_none())
    }

    /// Takes the power of devices that nobody uses. [`run`](Self::run) begins with it; whoever opens a device before, to ask for its
    /// facts or its ceilings, calls this first: with a context of this process a device is not idle. A power that still falls is
    /// looked at again, for up to six rests. A second call does nothing.
    pub fn deep_idle(&mut self) {
        if self.resumed || self.metering.as_ref().is_none_or(|metering| metering.unwritten.is_some()) {
            return;
        }
        let Some(mut metering) = self.metering.take() else { return };
        for _ in 0..REST_LOOKS {
            let sitting = EnergySitting::new("", 0, 0, rest_of(BaselineKind::DeepIdle));
            metering.unwritten = self.sitter(&mut metering, |sitter| sitter.deep_idle(sitting));
            let plan = self.manifest.energy.as_ref();
            let heard = metering.unwritten.as_ref().zip(plan).and_then(|(sitting, plan)| Heard::new(sitting, plan).ok());
            if heard.is_none_or(|heard| heard.settled()) {
                break;
            }
        }
        self.metering = Some(metering);
    }

    /// After the last model is dropped: what remains of the runtimes.
    pub(crate) fn context_resident(&mut self) -> Result<(), ScenarioError> {
        let Some(mut metering) = self.metering.take() else { return Ok(()) };
        let number = held(self.dir.path())?;
        let sitting = self.new_sitting(number, rest_of(BaselineKind::ContextResident));
        if let Some(rested) = self.sitter(&mut metering, |sitter| sitter.rest(sitting)) {
            rested.store(&mut self.dir)?;
        }
        Ok(())
    }

    /// Holds every sitting that is left: each call in its turn, then, in what is left of a budget, those once more whose
    /// verdicts are too wide. `false` when cancelled.
    pub(crate) fn sit(&mut self, observer: &mut dyn Observer, cancel: &AtomicBool) -> Result<bool, ScenarioError> {
        let Some(mut metering) = self.metering.take() else { return Ok(true) };
        if let Some(mut sitting) = metering.unwritten.take() {
            sitting.run_id.clone_from(&self.manifest.run_id);
            sitting.store(&mut self.dir)?;
        }
        let done = self.sit_through(&mut metering, observer, cancel);
        self.metering = Some(metering);
        done
    }

    fn sit_through(
        &mut self,
        metering: &mut Metering<'a>,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<bool, ScenarioError> {
        let Some(options) = self.manifest.energy.as_ref().map(|e| e.options) else { return Ok(true) };
        let plan = self.plan().clone();
        let waiting = self.waiting(metering, &plan, options)?;
        let left_s = self.left_s(metering);
        observer.progress(&Progress::EnergyAgenda { replays: &agenda(&options, &waiting, left_s), left_s });
        let total = waiting.len();
        for done in 0..total {
            let now = &waiting[done];
            observer.progress(&Progress::Energy { call: &now.call.id(), done, total });
            let needs: Vec<_> = waiting[done..].iter().map(|w| w.need.clone()).collect();
            let left_s = self.left_s(metering);
            let Some(share) = allot(&needs, &options, left_s).into_iter().next() else { continue };
            let (sits, out) = now.guests.split_at(share.guests);
            if let Some(left_s) = left_s.filter(|_| !out.is_empty()) {
                self.leave_out(now.call, out, &share.lacks_s, left_s)?;
            }
            // Within a budget nothing is done twice before everything was done once.
            let attempts = if left_s.is_some() { 0..1 } else { 0..options.attempts.max(1) };
            let mut guests = sits.to_vec();
            for attempt in attempts {
                let options = fitted(options, share.window_s, &metering.models, left_s.is_some());
                match self.attempt(metering, (&plan, now.call, attempt), (options, guests), observer, cancel)? {
                    Some(again) => guests = again.into_iter().map(|(guest, _)| guest).collect(),
                    None => return Ok(false),
                }
            }
        }
        if metering.deadline.is_some() { self.refine(metering, (&plan, options, &waiting), observer, cancel) } else { Ok(true) }
    }

    /// One attempt of `guests` at `call`: those whose verdict another one would help, and how wide it is. `None` when
    /// cancelled.
    fn attempt(
        &mut self,
        metering: &mut Metering<'a>,
        (plan, call, attempt): (&Plan, Call, u32),
        (options, guests): (EnergyOptions, Vec<Guest>),
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<Option<Vec<(Guest, f64)>>, ScenarioError> {
        let groups: Vec<Vec<Guest>> = match plan.residency {
            Residency::All => vec![guests],
            Residency::One => guests.into_iter().map(|g| vec![g]).collect(),
        };
        let mut again = Vec::new();
        for group in groups.into_iter().filter(|g| !g.is_empty()) {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if plan.residency == Residency::One {
                self.stable.drop_all();
                let begun = self.clock.now();
                self.load(group[0].at, None, observer)?;
                metering.load_s = metering.load_s.max(self.clock.now().since(begun).as_secs_f64());
                // No block is left that the load could be recorded in.
                self.pending.clear();
            }
            let number = held(self.dir.path())?;
            let sitting = self.new_sitting(number, replays_of(call, attempt));
            let mut stable = std::mem::replace(&mut self.stable, crate::stable::Stable::new(0));
            let sat = self.sitter(metering, |sitter| {
                sitter.options = options;
                sitter.replays(sitting, (plan, call), &group, &mut stable, cancel)
            });
            self.stable = stable;
            match sat {
                None | Some(Err(Cancelled)) => return Ok(None),
                Some(Ok(sitting)) => {
                    self.failures += sitting.failures.len();
                    sitting.store(&mut self.dir)?;
                    again.extend(self.again(&sitting, &group)?);
                }
            }
        }
        if plan.residency == Residency::One {
            self.stable.drop_all();
        }
        Ok(Some(again))
    }

    /// What waits for its turn: calls, who replays them, and what that takes by the times of the blocks.
    fn waiting(&self, metering: &Metering<'a>, plan: &Plan, options: EnergyOptions) -> Result<Vec<Waiting>, ScenarioError> {
        let records = read_records(self.dir.path(), &self.manifest.run_id, &mut Work::unwatched())?;
        let sensors = self.manifest.energy.as_ref().map_or(&[][..], |e| &e.sensors);
        let waits = |call: Call| {
            let guests = self.guests(call)?;
            let pass_s = |guest: &Guest| pass_s(&records, &guest.arm, call);
            let need = need(&options, plan, (sensors, &metering.models), &guests, pass_s, metering.load_s);
            Ok(Waiting { call, guests, need })
        };
        turns(calls(plan)).into_iter().map(waits).collect()
    }

    /// Seconds of the budget that are left for sittings; `None` without one.
    fn left_s(&self, metering: &Metering<'a>) -> Option<f64> {
        Some(metering.deadline?.since(self.clock.now()).as_secs_f64())
    }

    /// In what is left of a budget: verdicts that are spoilt or too wide once more, the worst first, while they fit.
    fn refine(
        &mut self,
        metering: &mut Metering<'a>,
        (plan, options, waiting): (&Plan, EnergyOptions, &[Waiting]),
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<bool, ScenarioError> {
        for attempt in 1..options.attempts.max(1) {
            let mut worst = Vec::new();
            let sittings = self.sittings()?;
            for (at, w) in waiting.iter().enumerate() {
                let last = |s: &&EnergySitting| s.replayed() == Some((w.call, attempt - 1)) && !s.windows.is_empty();
                for sitting in sittings.iter().filter(last) {
                    let again = self.again(sitting, &self.covered())?;
                    worst.extend(again.into_iter().map(|(guest, width)| (width, at, guest, sitting)));
                }
            }
            worst.sort_by(|a, b| b.0.total_cmp(&a.0));
            for (_, at, guest, sitting) in worst {
                let left_s = self.left_s(metering).unwrap_or(0.0);
                let Waiting { call, need, .. } = &waiting[at];
                let Some(guest) = affordable(&options, need, &guest, sitting, left_s) else { continue };
                observer.progress(&Progress::Energy { call: &call.id(), done: waiting.len(), total: waiting.len() });
                if self.attempt(metering, (plan, *call, attempt), (options, vec![guest]), observer, cancel)?.is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Says of `guests` that the time was not enough for their replays of `call`.
    fn leave_out(&mut self, call: Call, guests: &[Guest], needs_s: &[f64], left_s: f64) -> Result<(), ScenarioError> {
        let number = held(self.dir.path())?;
        let mut sitting = self.new_sitting(number, replays_of(call, 0));
        sitting.out_of_time = true;
        let out = guests.iter().zip(needs_s);
        sitting.left_out = out.map(|(guest, needs_s)| LeftOut { backend: guest.arm.clone(), needs_s: *needs_s, left_s }).collect();
        sitting.store(&mut self.dir)
    }

    /// The backends whose device a sensor covers and that did not replay `call` yet.
    fn guests(&self, call: Call) -> Result<Vec<Guest>, ScenarioError> {
        let before = self.sittings()?;
        let sat = |arm: &Arm| {
            let here = before.iter().filter(|s| s.replayed().is_some_and(|(c, _)| c == call));
            here.flat_map(|s| s.windows.iter().map(|w| &w.backend).chain(s.failures.iter().map(|f| &f.backend))).any(|b| b == arm)
        };
        Ok(self.covered().into_iter().filter(|guest| !sat(&guest.arm)).collect())
    }

    /// The backends whose device a sensor covers.
    fn covered(&self) -> Vec<Guest> {
        let sensors = self.manifest.energy.as_ref().map_or(&[][..], |e| &e.sensors);
        let guest = |(at, entry): (usize, &crate::BackendEntry)| {
            let boundary = self.manifest.boundaries.get(entry.boundary.as_ref()?)?;
            let sensor = *covering(sensors, &boundary.stack).first()?;
            Some(Guest { at, arm: entry.backend.clone(), sensor, replays: None, dither_s: None })
        };
        let entries = self.plan().backends.iter().enumerate().filter_map(|(at, arm)| Some((at, self.manifest.backend(arm)?)));
        entries.filter_map(guest).collect()
    }

    /// Those of `group` whose verdict more replays, or the same once more, would help; and how wide it is, infinite where
    /// there is none.
    fn again(&self, sitting: &EnergySitting, group: &[Guest]) -> Result<Vec<(Guest, f64)>, ScenarioError> {
        let Some(plan) = &self.manifest.energy else { return Ok(Vec::new()) };
        let heard = Heard::new(sitting, plan)?;
        let next = |guest: &Guest| {
            let boundary = self.manifest.boundaries.get(self.manifest.backend(&guest.arm)?.boundary.as_ref()?)?;
            let window = sitting.windows.iter().find(|w| w.backend == guest.arm)?;
            let found = heard.found(&guest.arm, &covering(&plan.sensors, &boundary.stack));
            let replays = window.plan.replays;
            // No number of replays takes the floor away: they are for what is above it.
            let goal = plan.options.accuracy.max(1.25 * found.floor) - found.floor;
            let more = |share: f64| more_replays(replays, share - found.floor, goal).map(|n| n.min(MOST_TIMES * replays));
            let sensor = &plan.sensors[guest.sensor].calibration;
            let spoilt = |guest: Guest| Some((guest, f64::INFINITY));
            match &found.window {
                Energy::NoData { reason: NoData::TooUncertain | NoData::TooFewUpdates } => {
                    spoilt(Guest { replays: more(f64::INFINITY), ..guest.clone() })
                }
                Energy::NoData { reason: NoData::ThermalDrift } => spoilt(Guest { replays: Some(replays), ..guest.clone() }),
                Energy::NoData { reason: NoData::SensorLocked } if sensor.kind == SensorKind::PartTime => {
                    spoilt(Guest { replays: Some(replays), dither_s: Some(sensor.update_ns * 1e-9), ..guest.clone() })
                }
                known => {
                    let [mid, low, high] = middle_and_bounds(known)?;
                    let width = (high - low) / 2.0 / mid;
                    Some((Guest { replays: Some(more(width)?), ..guest.clone() }, width))
                }
            }
        };
        Ok(group.iter().filter_map(next).collect())
    }

    fn sittings(&self) -> Result<Vec<EnergySitting>, ScenarioError> {
        sittings(self.dir.path(), &self.manifest.run_id)
    }

    fn new_sitting(&self, number: usize, what: super::SittingKind) -> EnergySitting {
        EnergySitting::new(&self.manifest.run_id, u32::try_from(number).unwrap_or(u32::MAX), self.segment(), what)
    }

    fn sitter<T>(&self, metering: &mut Metering<'a>, with: impl FnOnce(&mut Sitter<'_>) -> T) -> Option<T> {
        let plan = self.manifest.energy.as_ref()?;
        let Metering { meter, models, deadline, .. } = metering;
        let mut sitter = Sitter {
            meter: &mut **meter,
            clock: &self.clock,
            sensors: &plan.sensors,
            models: models.clone(),
            options: plan.options,
            until: *deadline,
        };
        Some(with(&mut sitter))
    }
}

/// The options with windows of `window_s`. A window that has to be short can't be planned for more than its edges allow.
fn fitted(options: EnergyOptions, window_s: f64, models: &[SensorModel], budget: bool) -> EnergyOptions {
    if !budget {
        return options;
    }
    let edge = models.iter().map(SensorModel::update_s).fold(0.0, f64::max) / window_s;
    EnergyOptions { window_s, accuracy: options.accuracy.max(edge.min(0.5)), ..options }
}

/// `guest` with as many replays of its next attempt as `left_s` allows, after those of `sitting`. `None` where that would be
/// no better.
fn affordable(options: &EnergyOptions, need: &Need, guest: &Guest, sitting: &EnergySitting, left_s: f64) -> Option<Guest> {
    let window = sitting.windows.iter().find(|w| w.backend == guest.arm)?;
    let (before, wanted) = (window.plan.replays, guest.replays.unwrap_or(window.plan.replays));
    let length_s = Duration::from_nanos(window.ends_ns.last()? - window.starts_ns.first()?).as_secs_f64();
    let replay_s = length_s / f64::from(before);
    // Replays that were spoilt are made again; of the others it takes more.
    let least = if wanted > before { before + before / 4 + 1 } else { before };
    let lengths = [f64::from(least) * replay_s, f64::from(wanted.max(least)) * replay_s];
    let alone = Need { pass_s: vec![0.0], ..need.clone() };
    let window_s = alone.longest_s(options, 1, left_s, lengths)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two counts")]
    let replays = ((window_s / replay_s) as u32).clamp(least, wanted.max(least));
    Some(Guest { replays: Some(replays), ..guest.clone() })
}

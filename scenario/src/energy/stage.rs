//! The runner's part: which sittings are held, when, and what is made of their verdicts.

use super::{
    EnergyOptions, EnergyPlan, EnergySetup, EnergySitting, Meter,
    judge::Heard,
    planned::{Call, calls, covering},
    sit::{Cancelled, Guest, Sitter, replays_of, rest_of},
    stored::{held, sittings},
    summary::middle_and_bounds,
};
use crate::{Observer, Plan, Progress, Residency, Runner, ScenarioError, cold::nanos};
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
}

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
                self.metering = Some(Metering { meter, models, unwritten: None, deadline: self.deadline(&options) });
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
        let EnergyOptions { budget_s, settle_s, rest_s, .. } = *options;
        let left = Duration::from_secs_f64((budget_s? - 2.0 * settle_s - rest_s).max(0.0));
        Some(Timestamp::from_nanos(self.clock.now().as_nanos().saturating_add(nanos(left))))
    }

    /// Whether this run was started with sensors that this process was not given: its energy will not be recorded.
    pub fn lacks_energy(&self) -> bool {
        self.metering.is_none() && self.manifest.energy.as_ref().is_some_and(|e| e.reason.is_none())
    }

    /// Before anything is loaded: the power of a device that nobody uses.
    pub(crate) fn deep_idle(&mut self) {
        if self.resumed {
            return;
        }
        let Some(mut metering) = self.metering.take() else { return };
        let sitting = EnergySitting::new("", 0, 0, rest_of(BaselineKind::DeepIdle));
        let rested = self.sitter(&mut metering, |sitter| sitter.rest(sitting));
        metering.unwritten = rested;
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

    /// Holds every sitting that is left. `false` when cancelled.
    pub(crate) fn sit(&mut self, observer: &mut dyn Observer, cancel: &AtomicBool) -> Result<bool, ScenarioError> {
        let Some(mut metering) = self.metering.take() else { return Ok(true) };
        if let Some(mut sitting) = metering.unwritten.take() {
            sitting.run_id.clone_from(&self.manifest.run_id);
            sitting.store(&mut self.dir)?;
        }
        let plan = self.plan().clone();
        let all = calls(&plan);
        for (done, call) in all.iter().enumerate() {
            observer.progress(&Progress::Energy { call: &call.id(), done, total: all.len() });
            if !self.sit_for(&mut metering, (&plan, *call, all.len() - done - 1), observer, cancel)? {
                self.metering = Some(metering);
                return Ok(false);
            }
        }
        self.metering = Some(metering);
        Ok(true)
    }

    fn sit_for(
        &mut self,
        metering: &mut Metering<'a>,
        (plan, call, later): (&Plan, Call, usize),
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<bool, ScenarioError> {
        let mut guests = self.guests(call)?;
        let Some(options) = self.fitted(metering, plan, &guests, later) else {
            self.out_of_time(call)?;
            return Ok(true);
        };
        // Within a budget nothing is done twice: what is left is for the other calls.
        let attempts = if options.budget_s.is_some() { 1 } else { options.attempts.max(1) };
        for attempt in 0..attempts {
            let groups: Vec<Vec<Guest>> = match plan.residency {
                Residency::All => vec![guests.clone()],
                Residency::One => guests.iter().map(|g| vec![g.clone()]).collect(),
            };
            guests.clear();
            for group in groups.into_iter().filter(|g| !g.is_empty()) {
                if cancel.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                if plan.residency == Residency::One {
                    self.stable.drop_all();
                    self.load(group[0].at, None, observer)?;
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
                    None | Some(Err(Cancelled)) => return Ok(false),
                    Some(Ok(sitting)) => {
                        self.failures += sitting.failures.len();
                        sitting.store(&mut self.dir)?;
                        guests.extend(self.again(&sitting, &group)?);
                    }
                }
            }
        }
        if plan.residency == Residency::One {
            self.stable.drop_all();
        }
        Ok(true)
    }

    /// The options with windows that fit the budget; `None` where no time is left.
    fn fitted(&self, metering: &mut Metering<'a>, plan: &Plan, guests: &[Guest], later: usize) -> Option<EnergyOptions> {
        let options = self.manifest.energy.as_ref()?.options;
        let Some(deadline) = metering.deadline.filter(|_| !guests.is_empty()) else { return Some(options) };
        let left = deadline.since(self.clock.now());
        let sittings = if plan.residency == Residency::One { guests.len() } else { 1 };
        let fit = self.sitter(metering, |sitter| sitter.fit(guests, sittings, later))?;
        let window_s = fit.window_s(&options, left)?;
        // A window that has to be short can't be planned for more than its edges allow.
        let edge = metering.models.iter().map(SensorModel::update_s).fold(0.0, f64::max) / window_s;
        Some(EnergyOptions { window_s, accuracy: options.accuracy.max(edge.min(0.5)), ..options })
    }

    /// Says of `call` that no time was left for it.
    fn out_of_time(&mut self, call: Call) -> Result<(), ScenarioError> {
        let number = held(self.dir.path())?;
        let mut sitting = self.new_sitting(number, replays_of(call, 0));
        sitting.out_of_time = true;
        sitting.store(&mut self.dir)
    }

    /// The backends whose device a sensor covers and that did not replay `call` yet.
    fn guests(&self, call: Call) -> Result<Vec<Guest>, ScenarioError> {
        let before = self.sittings()?;
        let sat = |arm: &Arm| {
            let here = before.iter().filter(|s| s.replayed().is_some_and(|(c, _)| c == call));
            here.flat_map(|s| s.windows.iter().map(|w| &w.backend).chain(s.failures.iter().map(|f| &f.backend))).any(|b| b == arm)
        };
        let sensors = self.manifest.energy.as_ref().map_or(&[][..], |e| &e.sensors);
        let guest = |(at, entry): (usize, &crate::BackendEntry)| {
            let boundary = self.manifest.boundaries.get(entry.boundary.as_ref()?)?;
            let sensor = *covering(sensors, &boundary.stack).first()?;
            let arm = entry.backend.clone();
            (!sat(&arm)).then_some(Guest { at, arm, sensor, replays: None, dither_s: None })
        };
        let entries = self.plan().backends.iter().enumerate().filter_map(|(at, arm)| Some((at, self.manifest.backend(arm)?)));
        Ok(entries.filter_map(guest).collect())
    }

    /// Those of `group` whose verdict more replays, or the same once more, would help.
    fn again(&self, sitting: &EnergySitting, group: &[Guest]) -> Result<Vec<Guest>, ScenarioError> {
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
            match &found.window {
                Energy::NoData { reason: NoData::TooUncertain | NoData::TooFewUpdates } => {
                    Some(Guest { replays: more(f64::INFINITY), ..guest.clone() })
                }
                Energy::NoData { reason: NoData::ThermalDrift } => Some(Guest { replays: Some(replays), ..guest.clone() }),
                Energy::NoData { reason: NoData::SensorLocked } if sensor.kind == SensorKind::PartTime => {
                    Some(Guest { replays: Some(replays), dither_s: Some(sensor.update_ns * 1e-9), ..guest.clone() })
                }
                known => {
                    let [mid, low, high] = middle_and_bounds(known)?;
                    Some(Guest { replays: Some(more((high - low) / 2.0 / mid)?), ..guest.clone() })
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

//! From sittings to energies: pure, so that whoever reads a run comes to the same numbers.

use super::{
    ArmRest, EnergyCell, EnergyPlan, EnergyRequest, EnergySensorEntry, EnergySitting, EnergySummary, LeftOut, ReplayedWindow, SingleShots,
    SittingKind,
    planned::{Call, calls, covering, octaves},
    sit::LEAST_WINDOWS,
    summary::{middle_and_bounds, per_token},
};
use crate::{Manifest, ScenarioError, WorkloadKind, dir::MANIFEST};
use phase_core::{Arm, Energy, Joules, MacroMethod, NoData, Phase, Shape, Timestamp};
use phase_energy::{
    Baseline, BaselineKind, Cursor, Gate, JouleRange, Recording, ReplayWindow, SamplerCost, Seen, SensorCalibration, Series, VALID_DAYS,
    cross_check, verdict,
};
use phase_policy::{
    ActiveJoules, CellKey, EnergyBasis, EnergySensor, RegimeClass, ScenarioMatrix, add_energies, repeat_energy, reported_energy,
};
use std::collections::BTreeMap;

/// What the power of a device at rest may change by in half of a quiet time, as a share.
const SETTLED: f64 = 0.02;

/// A sitting whose recordings were given their meaning.
pub(super) struct Heard<'a> {
    sitting: &'a EnergySitting,
    sensors: &'a [EnergySensorEntry],
    series: Vec<Series>,
}

/// What one backend's windows of one sitting are worth.
pub(super) struct Found {
    /// The mean of a call.
    pub(super) window: Energy,
    /// Half-width over middle that no more replays take away.
    pub(super) floor: f64,
    single: Option<SingleShots>,
    active: Option<ActiveJoules>,
    call_s: Option<f64>,
    cross_check: Option<f64>,
    notes: Vec<String>,
}

impl<'a> Heard<'a> {
    pub(super) fn new(sitting: &'a EnergySitting, plan: &'a EnergyPlan) -> Result<Self, ScenarioError> {
        let wrong = |e: phase_energy::AttributionError| ScenarioError::damaged(MANIFEST, None, e.to_string());
        let deep = matches!(sitting.what, SittingKind::Rest { rest: BaselineKind::DeepIdle });
        let heard = |(r, s): (&Recording, &EnergySensorEntry)| {
            let mut calibration: SensorCalibration = s.calibration.clone();
            if deep {
                // The least power that it knows is that of a device with a context; one that nobody uses goes below.
                calibration.min_w = 0.0;
            }
            r.series(&calibration, Gate::default()).map_err(wrong)
        };
        let series = sitting.recordings.iter().zip(&plan.sensors).map(heard).collect::<Result<_, _>>()?;
        Ok(Self { sitting, sensors: &plan.sensors, series })
    }

    /// Whether the power stood still in every quiet time: the mean of its second half is that of its first within 2%. Where a
    /// sensor has no mean, it has nothing against it.
    pub(super) fn settled(&self) -> bool {
        let still = |series: &Series, start: u64, end: u64| {
            let mean = |from, to| Baseline::of(BaselineKind::DeepIdle, series, Timestamp::from_nanos(from), Timestamp::from_nanos(to), "");
            let middle = start.midpoint(end);
            let halves = mean(start, middle).zip(mean(middle, end));
            halves.is_none_or(|(a, b)| (a.mean_w - b.mean_w).abs() <= SETTLED * b.mean_w)
        };
        self.series.iter().all(|s| self.sitting.rests.iter().all(|r| still(s, r.start_ns, r.end_ns)))
    }

    /// The power at rest by `sensor`: of all quiet times, and as uncertain as they differ. A device on its way to deep idle has none.
    fn rest(&self, kind: BaselineKind, sensor: usize) -> Option<Baseline> {
        if kind == BaselineKind::DeepIdle && !self.settled() {
            return None;
        }
        let series = self.series.get(sensor)?;
        let times = self.sitting.rests.iter();
        let found: Vec<Baseline> = times
            .filter_map(|r| Baseline::of(kind, series, Timestamp::from_nanos(r.start_ns), Timestamp::from_nanos(r.end_ns), ""))
            .collect();
        let (low, high) = found.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), b| (l.min(b.mean_w), h.max(b.mean_w)));
        let error_w = found.iter().map(|b| b.error_w).fold(0.5 * (high - low), f64::max);
        let mut all = found.first()?.clone();
        all.mean_w = f64::midpoint(low, high);
        all.error_w = error_w;
        Some(all)
    }

    /// What the windows of `arm` are worth, by the sensors at `sensors`: one for each device, added up.
    pub(super) fn found(&self, arm: &Arm, sensors: &[usize]) -> Found {
        let mine = self.sitting.windows.iter().filter(|w| w.backend == *arm);
        let (drifted, windows): (Vec<&ReplayedWindow>, Vec<&ReplayedWindow>) = mine.partition(|w| w.drifted());
        let nothing = |reason: NoData, note: Option<String>| Found {
            window: Energy::NoData { reason },
            floor: 0.0,
            single: None,
            active: None,
            call_s: None,
            cross_check: None,
            notes: note.into_iter().collect(),
        };
        if let Some(failure) = self.sitting.failures.iter().find(|f| f.backend == *arm) {
            return nothing(NoData::NotRecorded, Some(failure.message.clone()));
        }
        if let Some(error) = &self.sitting.meter_error {
            return nothing(NoData::NotRecorded, Some(error.clone()));
        }
        if windows.len() < LEAST_WINDOWS as usize && self.sitting.out_of_time {
            let made: Vec<&&ReplayedWindow> = windows.iter().chain(&drifted).collect();
            let took_s = made.iter().map(|w| w.plan.discard_s + end(w).since(start(w)).as_secs_f64()).sum::<f64>();
            let more_s = took_s / real(made.len().max(1)) * real(LEAST_WINDOWS as usize - windows.len());
            let note = format!("{} of its windows were made when the run's time ended; {more_s:.0} s more were needed", windows.len());
            return nothing(NoData::Budget, Some(note));
        }
        if windows.len() < LEAST_WINDOWS as usize && !drifted.is_empty() {
            return nothing(NoData::ThermalDrift, Some(format!("{} of its windows drifted", drifted.len())));
        }
        let Some(first) = windows.first() else { return nothing(NoData::NotRecorded, None) };
        let calls = f64::from(first.calls);
        let busy_s = windows.iter().flat_map(|w| &w.busy_ns).map(|ns| secs(*ns)).sum::<f64>();
        let replays = real(windows.iter().map(|w| w.busy_ns.len()).sum());
        let call_s = busy_s / replays / calls;
        let (mut window, mut single, mut rest_j, mut floor) = (None::<Energy>, None::<SingleShots>, Some(JouleRange::exactly(0.0)), 0.0);
        for &sensor in sensors {
            let Some(series) = self.series.get(sensor) else { return nothing(NoData::NotRecorded, None) };
            let rest = self.rest(BaselineKind::ModelResident, sensor);
            let replayed: Vec<_> = windows.iter().map(|w| replayed(w, series)).collect();
            let mean = repeat_energy(&verdict(&replayed, series.model(), rest.as_ref(), MacroMethod::Replay), 1.0 / calls);
            let alone = single_shots(&windows, series);
            window = Some(window.map_or_else(|| mean.clone(), |w| add_energies(&w, &mean)));
            single = Some(single.map_or_else(|| alone.clone(), |s| both(&s, &alone)));
            rest_j = rest_j.zip(rest).map(|(sum, r)| sum + JouleRange::around(r.mean_w * call_s, 2.0 * r.error_w * call_s));
            floor = series.model().residual().max(floor);
        }
        let mut window = window.unwrap_or(Energy::NoData { reason: NoData::NoSource });
        let (ratio, agree) = self.cross_check(&windows, sensors);
        if !agree && window.bounds().is_some() {
            window = Energy::NoData { reason: NoData::CrossCheckFailed };
        }
        let reported = single.as_ref().map_or_else(|| window.clone(), |s| reported_energy(&s.energy, &window));
        let active = middle_and_bounds(&reported).zip(rest_j).map(|([joules, low, high], rest)| ActiveJoules {
            above: "model_resident".to_owned(),
            joules: joules - rest.mid_j(),
            low: low - rest.high_j,
            high: high - rest.low_j,
        });
        Found { window, floor: floor + SYSTEMATIC, single, active, call_s: Some(call_s), cross_check: ratio, notes: Vec::new() }
    }

    /// Mean power over the windows by the sensors that count over that by others of the same devices; and whether those that
    /// see all of the time agree.
    fn cross_check(&self, windows: &[&ReplayedWindow], sensors: &[usize]) -> (Option<f64>, bool) {
        let seen = |sensor: usize| {
            let series = self.series.get(sensor)?;
            let parts = windows.iter().filter_map(|w| series.seen(start(w), end(w)));
            let (j, s) = parts.fold((0.0, 0.0), |(j, s), part: Seen| (j + part.joules, s + part.seconds));
            (s > 0.0).then_some((j / s, s))
        };
        let (mut ratio, mut agree) = (None, true);
        for &sensor in sensors {
            let device = &self.sensors[sensor].id.device;
            for other in (0..self.sensors.len()).filter(|o| *o != sensor && self.sensors[*o].id.device == *device) {
                let Some(((a, s), (b, _))) = seen(sensor).zip(seen(other)) else { continue };
                ratio = ratio.or((b > 0.0).then(|| a / b));
                let all = self.sensors[sensor].sees_all() && self.sensors[other].sees_all();
                let slack = |sensor: usize| self.series[sensor].model().residual().max(0.01);
                let range = |w: f64, sensor: usize| JouleRange::around(w * s, w * s * slack(sensor));
                let (ours, theirs) = (range(a, sensor), range(b, other));
                // Within what calibration found them to be off by they need not agree.
                agree &= !all || !ours.disjoint(theirs) || cross_check(ours, theirs, &Gate::default()).is_ok();
            }
        }
        (ratio, agree)
    }
}

/// What windows of one board differ by from day to day, as the judge of windows has it.
const SYSTEMATIC: f64 = 0.015;

fn start(window: &ReplayedWindow) -> Timestamp {
    Timestamp::from_nanos(window.starts_ns.first().copied().unwrap_or(0))
}

fn end(window: &ReplayedWindow) -> Timestamp {
    Timestamp::from_nanos(window.ends_ns.last().copied().unwrap_or(0))
}

fn replayed(window: &ReplayedWindow, series: &Series) -> ReplayWindow {
    let (from, to) = (start(window), end(window));
    let seconds = to.since(from).as_secs_f64();
    let mut attribution = series.attribute(from, to);
    let seen = series.seen(from, to);
    if seen.is_none() && attribution.energy.reason().is_none() {
        attribution.energy = Energy::NoData { reason: NoData::TooFewUpdates };
    }
    ReplayWindow {
        attribution,
        seen: seen.unwrap_or(Seen { joules: 0.0, seconds }),
        seconds,
        starts_s: window.starts_ns.iter().map(|ns| secs(*ns)).collect(),
        idle_s: seconds - window.busy_ns.iter().map(|ns| secs(*ns)).sum::<f64>(),
        celsius: window.celsius,
        clock_mhz: window.clock_mhz,
        slowed: window.slowed,
    }
}

/// The first call of every replay, each by itself.
fn single_shots(windows: &[&ReplayedWindow], series: &Series) -> SingleShots {
    let mut cursor = Cursor::default();
    let (mut calls, mut measured, mut interpolated) = (0, 0, 0);
    let mut reasons: BTreeMap<NoData, u32> = BTreeMap::new();
    let mut sum = [0.0; 3];
    for (from, to) in windows.iter().flat_map(|w| w.starts_ns.iter().zip(&w.first_ends_ns)) {
        let found = series.attribute_from(&mut cursor, Timestamp::from_nanos(*from), Timestamp::from_nanos(*to));
        calls += 1;
        match &found.energy {
            Energy::Measured { .. } => measured += 1,
            Energy::Interpolated { .. } => interpolated += 1,
            other => *reasons.entry(other.reason().unwrap_or(NoData::Unsupported)).or_default() += 1,
        }
        if let Some(j) = middle_and_bounds(&found.energy) {
            (0..3).for_each(|i| sum[i] += j[i]);
        }
    }
    let reason = reasons.iter().max_by_key(|(_, n)| **n).map(|(reason, _)| *reason);
    let [joules, low, high] = sum.map(|j| Joules(j / f64::from(calls.max(1))));
    let energy = match reason {
        Some(reason) => Energy::NoData { reason },
        None if calls == 0 => Energy::NoData { reason: NoData::NotRecorded },
        None if interpolated == 0 => Energy::Measured { joules, low, high },
        None => Energy::Interpolated { joules, low, high },
    };
    SingleShots { calls, measured, interpolated, reason, energy }
}

/// The same calls on two devices.
fn both(a: &SingleShots, b: &SingleShots) -> SingleShots {
    SingleShots {
        calls: a.calls,
        measured: a.measured.min(b.measured),
        interpolated: a.interpolated.max(b.interpolated),
        reason: a.reason.or(b.reason),
        energy: add_energies(&a.energy, &b.energy),
    }
}

/// Everything that follows from the sittings of a run.
pub(crate) fn energies(
    sittings: &[EnergySitting],
    manifest: &Manifest,
    matrix: Option<&ScenarioMatrix>,
) -> Result<Option<EnergySummary>, ScenarioError> {
    let Some(plan) = &manifest.energy else { return Ok(None) };
    let heard = sittings.iter().map(|s| Heard::new(s, plan)).collect::<Result<Vec<_>, _>>()?;
    let sampler = sittings.iter().filter_map(|s| s.recordings.first()?.lateness.cost).reduce(SamplerCost::and);
    let mut summary = EnergySummary { rests: rests(&heard), sampler, ..EnergySummary::default() };
    for arm in &manifest.plan.backends {
        for call in calls(&manifest.plan) {
            summary.cells.push(cell(&heard, plan, manifest, matrix, arm, call));
        }
    }
    for planned in manifest.plan.cells.iter().filter(|c| c.workload.kind == WorkloadKind::Steady) {
        for arm in &manifest.plan.backends {
            let w = &planned.workload;
            let energy = request(&summary.cells, arm, w.batch, w.prompt_tokens, w.decode_steps);
            let new_tokens = w.batch * w.new_tokens();
            let [joules_per_token, tokens_per_joule] = per_token(&energy, new_tokens);
            let (cell, backend) = (planned.id(), arm.clone());
            summary.requests.push(EnergyRequest { cell, backend, new_tokens, energy, joules_per_token, tokens_per_joule });
        }
    }
    Ok(Some(summary))
}

fn rests(heard: &[Heard<'_>]) -> Vec<ArmRest> {
    let mut found = Vec::new();
    for h in heard {
        let kind = match h.sitting.what {
            SittingKind::Rest { rest } => rest,
            SittingKind::Replays { .. } => BaselineKind::ModelResident,
        };
        // A deep idle that was not taken is listed without a number.
        let listed = if kind == BaselineKind::DeepIdle { h.sensors.len() } else { h.series.len() };
        for (sensor, entry) in h.sensors.iter().enumerate().take(listed) {
            let rest = h.rest(kind, sensor);
            found.push(ArmRest {
                rest: kind,
                device: entry.id.device.clone(),
                field: entry.id.field.clone(),
                sitting: h.sitting.number,
                mean_w: rest.as_ref().map(|r| r.mean_w),
                error_w: rest.as_ref().map(|r| r.error_w),
            });
        }
    }
    found
}

fn cell(heard: &[Heard<'_>], plan: &EnergyPlan, manifest: &Manifest, matrix: Option<&ScenarioMatrix>, arm: &Arm, call: Call) -> EnergyCell {
    let Call { phase, batch, context, new_tokens, .. } = call;
    let shape = Shape { batch, new_tokens, context };
    let key = CellKey::new(arm.backend.clone(), arm.mode.as_str(), phase, shape, RegimeClass::Steady);
    let boundary = manifest.backend(arm).and_then(|b| b.boundary.as_ref()).and_then(|id| manifest.boundaries.get(id));
    let sensors = boundary.map_or_else(Vec::new, |b| covering(&plan.sensors, &b.stack));
    let of_call = |h: &&Heard<'_>| h.sitting.replayed().is_some_and(|(replayed, _)| replayed == call);
    let sat = |h: &&Heard<'_>| {
        of_call(h) && (h.sitting.windows.iter().any(|w| w.backend == *arm) || h.sitting.failures.iter().any(|f| f.backend == *arm))
    };
    // One that the clock cut short says less than the one before it.
    let last = heard.iter().rfind(|h| sat(h) && !h.sitting.out_of_time).or_else(|| heard.iter().rfind(sat));
    let mut made = EnergyCell {
        cell: key.id(),
        backend: arm.clone(),
        phase,
        shape,
        energy: Energy::NoData { reason: NoData::NotRecorded },
        window: Energy::NoData { reason: NoData::NotRecorded },
        single: None,
        basis: None,
        joules_per_token: None,
        tokens_per_joule: None,
        call_s: None,
        over_blocks: None,
        cross_check: None,
        sitting: last.map(|h| h.sitting.number),
        notes: Vec::new(),
        key: Some(key),
    };
    let Some(h) = last.filter(|_| !sensors.is_empty()) else {
        let reason = plan.reason.unwrap_or(if sensors.is_empty() { NoData::NoSource } else { NoData::NotRecorded });
        made.energy = Energy::NoData { reason };
        made.window = made.energy.clone();
        let left_out = |h: &Heard<'_>| h.sitting.left_out.iter().rfind(|l| l.backend == *arm).cloned();
        match heard.iter().filter(of_call).filter_map(left_out).next_back().filter(|_| !sensors.is_empty()) {
            Some(LeftOut { needs_s, left_s, .. }) => {
                made.energy = Energy::NoData { reason: NoData::Budget };
                made.window = made.energy.clone();
                made.notes.push(format!("its replays take {needs_s:.0} s at least; {left_s:.0} s were left of the run's time"));
            }
            // As runs said it before they named the seconds.
            None if !sensors.is_empty() && heard.iter().any(|h| of_call(&h) && h.sitting.out_of_time) => {
                made.notes.push("no time was left for it in the run's budget".to_owned());
            }
            None => {}
        }
        return made;
    };
    let Found { window, single, active, call_s, cross_check, notes, floor: _ } = h.found(arm, &sensors);
    made.energy = single.as_ref().map_or_else(|| window.clone(), |s| reported_energy(&s.energy, &window));
    let alone = single.as_ref().map_or_else(|| window.clone(), |s| s.energy.clone());
    let sensors = sensors.iter().map(|s| identity(&plan.sensors[*s])).collect();
    made.basis = Some(EnergyBasis { single: alone, window: window.clone(), active, sensors });
    let tokens = batch * new_tokens;
    [made.joules_per_token, made.tokens_per_joule] = per_token(&made.energy, tokens);
    let median = made.key.as_ref().and_then(|key| matrix?.cell(key)?.time);
    made.over_blocks = call_s.zip(median).map(|(s, t)| s * 1e9 / t.median_ns);
    EnergyCell { window, single, call_s, cross_check, notes, ..made }
}

/// A prefill and all stretches of decode after it.
fn request(cells: &[EnergyCell], arm: &Arm, batch: usize, prompt: usize, steps: usize) -> Energy {
    let of = |phase: Phase, shape: Shape| {
        let key = CellKey::new(arm.backend.clone(), arm.mode.as_str(), phase, shape, RegimeClass::Steady);
        let cell = cells.iter().find(|c| c.key.as_ref() == Some(&key));
        cell.map_or(Energy::NoData { reason: NoData::NotRecorded }, |c| c.energy.clone())
    };
    let prefill = of(Phase::Prefill, Shape { batch, new_tokens: prompt, context: 0 });
    octaves(prompt, steps).into_iter().fold(prefill, |sum, (context, steps)| {
        let step = of(Phase::Decode, Shape { batch, new_tokens: 1, context });
        add_energies(&sum, &repeat_energy(&step, real(steps)))
    })
}

fn identity(sensor: &EnergySensorEntry) -> EnergySensor {
    let EnergySensorEntry { id, calibration, reading: _ } = sensor;
    let text = serde_json::to_string(calibration).unwrap_or_default();
    EnergySensor {
        device: id.device.clone(),
        driver: id.driver.clone(),
        field: id.field.clone(),
        perimeter: id.perimeter.to_string(),
        calibration: blake3::hash(text.as_bytes()).to_hex().to_string(),
        calibrated_unix_s: calibration.taken_unix_s,
        expires_unix_s: calibration.taken_unix_s.map(|t| t + VALID_DAYS * 86_400),
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run are below 2^53")]
fn secs(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls")]
fn real(n: usize) -> f64 {
    n as f64
}

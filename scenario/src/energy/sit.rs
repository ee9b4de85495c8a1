//! One sitting: quiet times and windows while the sensors are read.

use super::{
    DeviceState, EnergyOptions, EnergySensorEntry, EnergySitting, Meter, MeterError, ReplayedWindow, Rest, SittingFailure, SittingKind,
    planned::Call, replay::Replayer, stored::SittingCall,
};
use crate::{
    Plan,
    clock::SharedClock,
    random::Random,
    stable::{Slot, Stable},
    task::{Lane, REPLAY_CALLS},
};
use phase_core::{Arm, Clock as _, Timestamp};
use phase_energy::{BaselineKind, MacroPlan, SamplerPlan, SensorModel};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A replay takes at least this long, seconds; shorter calls are put together.
const MIN_REPLAY_S: f64 = 0.002;
/// Windows beyond the plan's, in place of those in which the device became warmer or slower.
const MORE_ROUNDS: u32 = 4;
/// Fewer windows have no interval worth the name.
pub(super) const LEAST_WINDOWS: u32 = 5;
/// The first work of a sitting warms the device for so many settling times.
const FIRST_WARM: f64 = 3.0;
/// Looks at the device's state in a window.
const LOOKS: f64 = 24.0;

/// Who sits, with what is known from the attempt before.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Position in the plan's backends.
    pub(super) at: usize,
    pub(super) arm: Arm,
    /// The sensor that its windows are planned for: its position.
    pub(super) sensor: usize,
    /// Replays in a window, where an attempt before found how many it takes.
    pub(super) replays: Option<u32>,
    /// Dither, where an attempt before found that the plan's is not enough.
    pub(super) dither_s: Option<f64>,
}

/// Why a sitting ended early.
pub(super) struct Cancelled;

/// What all sittings of a run share.
pub(super) struct Sitter<'a> {
    pub(super) meter: &'a mut dyn Meter,
    pub(super) clock: &'a SharedClock,
    pub(super) sensors: &'a [EnergySensorEntry],
    pub(super) models: Vec<SensorModel>,
    pub(super) options: EnergyOptions,
    /// When this sitting has to be over, where the run has a budget.
    pub(super) until: Option<Timestamp>,
}

/// A guest at work.
struct Seat {
    guest: Guest,
    replayer: Replayer,
    calls: u32,
    plan: Option<MacroPlan>,
}

impl Sitter<'_> {
    /// A quiet time of devices that nobody uses: without readings, and with the reason, where somebody does.
    pub(super) fn deep_idle(&mut self, sitting: EnergySitting) -> EnergySitting {
        let before = self.meter.used();
        let mut sitting = if before.is_none() { self.rest(sitting) } else { sitting };
        if let Some(reason) = before.or_else(|| self.meter.used()) {
            sitting.recordings.clear();
            sitting.meter_error = Some(reason);
        }
        sitting
    }

    /// A quiet time, for the power at rest.
    pub(super) fn rest(&mut self, mut sitting: EnergySitting) -> EnergySitting {
        let result = self.start().and_then(|()| {
            self.quiet(&mut sitting);
            self.meter.rest(Duration::from_secs_f64(self.slow().tail_s));
            self.meter.stop()
        });
        match result {
            Ok(recordings) => sitting.recordings = recordings,
            Err(e) => sitting.meter_error = Some(e.to_string()),
        }
        sitting
    }

    /// Windows of `call` on every guest, in an order drawn for each round.
    pub(super) fn replays(
        &mut self,
        mut sitting: EnergySitting,
        (plan, call): (&Plan, Call),
        guests: &[Guest],
        stable: &mut Stable,
        cancel: &AtomicBool,
    ) -> Result<EnergySitting, Cancelled> {
        let mut seats = Vec::new();
        for guest in guests {
            match lane(stable, guest.at).map(|lane| Replayer::new(lane, plan, call)) {
                Some(Ok(replayer)) => seats.push(Seat { guest: guest.clone(), replayer, calls: 0, plan: None }),
                Some(Err(e)) => sitting.failures.push(failure(guest, e.to_string())),
                None => sitting.failures.push(failure(guest, "it is not loaded".to_owned())),
            }
        }
        if seats.is_empty() {
            return Ok(sitting);
        }
        if let Err(e) = self.start() {
            sitting.meter_error = Some(e.to_string());
            return Ok(sitting);
        }
        self.quiet(&mut sitting);
        let mut random = Random::new(plan.seed, &format!("sitting {}", sitting.number));
        let ended = self.rounds(&mut sitting, &mut seats, stable, &mut random, cancel);
        if ended.is_ok() {
            self.quiet(&mut sitting);
            self.meter.rest(Duration::from_secs_f64(self.slow().tail_s));
        }
        match self.meter.stop() {
            Ok(recordings) => sitting.recordings = recordings,
            Err(e) => sitting.meter_error = Some(e.to_string()),
        }
        ended.map(|()| sitting)
    }

    fn rounds(
        &mut self,
        sitting: &mut EnergySitting,
        seats: &mut Vec<Seat>,
        stable: &mut Stable,
        random: &mut Random,
        cancel: &AtomicBool,
    ) -> Result<(), Cancelled> {
        let mut longest_round = Duration::ZERO;
        for round in 0..self.options.windows.max(LEAST_WINDOWS) + MORE_ROUNDS {
            let begun = self.clock.now();
            let full = |seat: &Seat| counted(&sitting.windows, &seat.guest.arm) >= self.options.windows.max(LEAST_WINDOWS) as usize;
            let mut order: Vec<usize> = (0..seats.len()).filter(|i| !full(&seats[*i])).collect();
            random.shuffle(&mut order);
            let mut gone = Vec::new();
            // Windows in place of others are made only where everything after them still fits.
            let planned = round < self.options.windows.max(LEAST_WINDOWS);
            let slow = self.slow();
            let after_s = if planned { 0.0 } else { slow.settling_s + slow.rest_s };
            if !order.is_empty() && !self.has_time_for(longest_round.as_secs_f64() + after_s) {
                sitting.out_of_time = seats.iter().any(|seat| !full(seat));
                break;
            }
            for at in order {
                let seat = &mut seats[at];
                let Some(lane) = lane(stable, seat.guest.at) else { continue };
                match self.window(seat, lane, round, random, cancel)? {
                    Ok(window) => sitting.windows.push(window),
                    Err(e) => {
                        sitting.failures.push(failure(&seat.guest, e));
                        gone.push(seat.guest.at);
                    }
                }
            }
            seats.retain(|seat| !gone.contains(&seat.guest.at));
            longest_round = longest_round.max(self.clock.now().since(begun));
        }
        Ok(())
    }

    /// Whether `seconds` are left before the sitting has to be over.
    fn has_time_for(&self, seconds: f64) -> bool {
        self.until.is_none_or(|until| until.since(self.clock.now()).as_secs_f64() >= seconds)
    }

    /// Work that does not count, then one window.
    fn window(
        &mut self,
        seat: &mut Seat,
        lane: &mut Lane,
        round: u32,
        random: &mut Random,
        cancel: &AtomicBool,
    ) -> Result<Result<ReplayedWindow, String>, Cancelled> {
        let plan = match self.warm(seat, lane, cancel)? {
            Ok(plan) => plan,
            Err(e) => return Ok(Err(e)),
        };
        let n = plan.replays as usize;
        let mut made = ReplayedWindow {
            backend: seat.guest.arm.clone(),
            round,
            calls: seat.calls,
            plan,
            starts_ns: Vec::with_capacity(n),
            first_ends_ns: Vec::with_capacity(n),
            ends_ns: Vec::with_capacity(n),
            busy_ns: Vec::with_capacity(n),
            celsius: None,
            clock_mhz: None,
            slowed: false,
        };
        let device = self.sensors[seat.guest.sensor].id.device.clone();
        let look_s = (self.options.window_s / LOOKS).max(0.001);
        let (mut states, mut looked): (Vec<(u64, DeviceState)>, Option<Timestamp>) = (Vec::new(), None);
        for _ in 0..plan.replays {
            if cancel.load(Ordering::Relaxed) {
                return Err(Cancelled);
            }
            if plan.dither_s > 0.0 {
                self.meter.rest(Duration::from_secs_f64(plan.dither_s * uniform(random)));
            }
            match seat.replayer.replay(lane, seat.calls) {
                Ok(replay) => {
                    made.starts_ns.push(replay.start_ns);
                    made.first_ends_ns.push(replay.first_end_ns);
                    made.ends_ns.push(replay.end_ns);
                    made.busy_ns.push(replay.busy_ns);
                }
                Err(e) => return Ok(Err(e.to_string())),
            }
            let now = self.clock.now();
            if looked.is_none_or(|before| now.since(before).as_secs_f64() >= look_s) {
                states.extend(self.meter.state(&device).map(|state| (now.as_nanos(), state)));
                looked = Some(now);
            }
        }
        describe(&mut made, &states);
        Ok(Ok(made))
    }

    /// Does the same work for as long as it takes to be warm; the first time it plans the windows by how long that took.
    fn warm(&self, seat: &mut Seat, lane: &mut Lane, cancel: &AtomicBool) -> Result<Result<MacroPlan, String>, Cancelled> {
        let discard_s = seat.plan.map_or(FIRST_WARM * self.options.settle_s, |plan| plan.discard_s);
        let begun = self.clock.now();
        let (mut busy_s, mut replays) = (0.0, 0.0);
        let calls = if seat.calls == 0 { seat.replayer.pass() } else { seat.calls };
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(Cancelled);
            }
            match seat.replayer.replay(lane, calls) {
                Ok(replay) => busy_s += Duration::from_nanos(replay.busy_ns).as_secs_f64(),
                Err(e) => return Ok(Err(e.to_string())),
            }
            replays += 1.0;
            if self.clock.now().since(begun).as_secs_f64() >= discard_s && replays >= 2.0 {
                break;
            }
        }
        if let Some(plan) = seat.plan {
            return Ok(Ok(plan));
        }
        let pass_s = (busy_s / replays).max(1e-9);
        let most = (REPLAY_CALLS / seat.replayer.pass().max(1) as usize).max(1);
        let passes = whole((MIN_REPLAY_S / pass_s).ceil()).clamp(1, u32::try_from(most).unwrap_or(u32::MAX));
        seat.calls = passes * seat.replayer.pass();
        let replay_s = f64::from(passes) * pass_s;
        seat.plan = self.plan(&seat.guest, replay_s);
        Ok(seat.plan.ok_or_else(|| format!("no windows can be planned for replays of {replay_s} s")))
    }

    fn plan(&self, guest: &Guest, replay_s: f64) -> Option<MacroPlan> {
        let model = &self.models[guest.sensor];
        let EnergyOptions { accuracy, window_s, windows, settle_s, .. } = self.options;
        let mean_w = f64::midpoint(model.power().min_w(), model.power().max_w());
        let rise_s = rise_s(&self.sensors[guest.sensor]);
        let plan = MacroPlan::in_windows_of(model, replay_s, mean_w, accuracy, rise_s, settle_s, window_s)?;
        let mut plan = plan.with_windows(windows);
        plan.replays = guest.replays.unwrap_or(plan.replays).max(1);
        plan.dither_s = guest.dither_s.unwrap_or(plan.dither_s);
        Some(plan)
    }

    fn start(&mut self) -> Result<(), MeterError> {
        // The sensors that count set the pace; one to hold them against may miss a beat.
        let all = self.sensors.iter().any(EnergySensorEntry::sees_all);
        let paced = self.sensors.iter().filter(|s| !all || s.sees_all());
        let least_ns = paced.map(|s| s.calibration.update_ns).fold(f64::INFINITY, f64::min);
        let period = Duration::from_secs_f64((least_ns * 0.25e-9).clamp(0.005, 1.0));
        self.meter.start(&self.clock.0, SamplerPlan::default().with_period(period).with_capacity(400_000).attentive())
    }

    /// Settles, then notes a quiet time.
    fn quiet(&mut self, sitting: &mut EnergySitting) {
        let slow = self.slow();
        self.meter.rest(Duration::from_secs_f64(slow.settling_s));
        let start_ns = self.clock.now().as_nanos();
        self.meter.rest(Duration::from_secs_f64(slow.rest_s));
        sitting.rests.push(Rest { start_ns, end_ns: self.clock.now().as_nanos() });
    }

    fn slow(&self) -> Slow {
        Slow::of(&self.options, &self.models)
    }
}

/// Times that the slowest sensor asks for, seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    /// Until a device is quiet.
    pub(super) settling_s: f64,
    /// As many updates as make a mean, in every sensor.
    pub(super) rest_s: f64,
    /// Until updates have come that are about all that was.
    pub(super) tail_s: f64,
}

impl Slow {
    pub(super) fn of(options: &EnergyOptions, models: &[SensorModel]) -> Self {
        let slowest = |time: &dyn Fn(&SensorModel) -> f64| models.iter().map(time).fold(0.0, f64::max);
        Self {
            settling_s: options.settle_s.max(slowest(&|m| m.window_s() + m.lag_s())),
            rest_s: options.rest_s.max(10.0 * slowest(&|m| m.update_s().max(m.window_s()))),
            tail_s: slowest(&|m| m.lag_s() + 3.0 * m.update_s()),
        }
    }
}

/// How long a step of power takes to show, seconds.
pub(super) fn rise_s(sensor: &EnergySensorEntry) -> f64 {
    sensor.calibration.rise_ns.unwrap_or(0.0) * 1e-9
}

/// Windows of `arm` that count: those in which the device became warmer or slower don't.
fn counted(windows: &[ReplayedWindow], arm: &Arm) -> usize {
    windows.iter().filter(|w| w.backend == *arm && !w.drifted()).count()
}

impl ReplayedWindow {
    /// Whether it is no steady state: over 3 degrees or 2% of the clock from the first third to the last, or held down.
    pub(super) fn drifted(&self) -> bool {
        let warmer = self.celsius.is_some_and(|[a, b]| (b - a).abs() > 3.0);
        warmer || self.slowed || self.clock_mhz.is_some_and(|[a, b]| (b / a - 1.0).abs() > 0.02)
    }
}

/// Notes the means over the first and the last third.
fn describe(window: &mut ReplayedWindow, states: &[(u64, DeviceState)]) {
    let (Some(start), Some(end)) = (window.starts_ns.first(), window.ends_ns.last()) else { return };
    let third = (end - start) / 3;
    let mean = |of: fn(&DeviceState) -> f64, from: u64, to: u64| {
        let values: Vec<f64> = states.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, s)| of(s)).collect();
        #[expect(clippy::cast_precision_loss, reason = "a few looks")]
        let n = values.len() as f64;
        (n > 0.0).then(|| values.iter().sum::<f64>() / n)
    };
    let thirds = |of| Some([mean(of, *start, start + third)?, mean(of, end - third, end + third)?]);
    window.celsius = thirds(|s| s.celsius);
    window.clock_mhz = thirds(|s| s.clock_mhz);
    window.slowed = states.iter().any(|(_, s)| s.slowed);
}

fn lane(stable: &mut Stable, at: usize) -> Option<&mut Lane> {
    if let Slot::Loaded(lane) = stable.slot_mut(at) { Some(lane) } else { None }
}

fn failure(guest: &Guest, message: String) -> SittingFailure {
    SittingFailure { backend: guest.arm.clone(), message }
}

/// Uniform in `0..1`.
fn uniform(random: &mut Random) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a draw of 2^20 steps is exact")]
    let draw = random.below(1 << 20) as f64;
    draw / f64::from(1 << 20)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate; a count is not negative")]
fn whole(x: f64) -> u32 {
    x as u32
}

pub(super) const fn rest_of(kind: BaselineKind) -> SittingKind {
    SittingKind::Rest { rest: kind }
}

pub(super) const fn replays_of(call: Call, attempt: u32) -> SittingKind {
    SittingKind::Replays { call: SittingCall(call), attempt }
}

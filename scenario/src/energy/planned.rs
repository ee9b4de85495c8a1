//! What is to be measured, with which sensors, and how well.

use super::Meter;
use crate::{Plan, ScenarioError, WorkloadKind};
use phase_core::{Fact, Layer, NoData, Phase, StackInfo};
use phase_energy::{Perimeter, ReadingKind, SensorCalibration, SensorKind, SourceId};
use serde::{Deserialize, Serialize};

/// How well, and at what price.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergyOptions {
    /// Half-width of an interval, as a share of its middle, that is replayed for.
    pub accuracy: f64,
    /// A window lasts at least this long, seconds; longer where the sensor needs it.
    pub window_s: f64,
    /// Windows of each call; five at least.
    pub windows: u32,
    /// Sittings of a call at most: further ones with more replays, where the verdict is too wide or was spoilt.
    pub attempts: u32,
    /// Quiet time that a power at rest is taken from, seconds.
    pub rest_s: f64,
    /// Time after work before a device is taken to be quiet, seconds; the same kind of work before a window that does not
    /// count takes as long.
    pub settle_s: f64,
    /// The run ends about so many seconds after it began: windows become shorter for it, phases take turns, and calls
    /// that no time is left for have no energy. `None` takes as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_s: Option<f64>,
}

impl Default for EnergyOptions {
    /// Five percent, in at least five windows of five seconds, twice at most.
    fn default() -> Self {
        Self { accuracy: 0.05, window_s: 5.0, windows: 5, attempts: 2, rest_s: 2.0, settle_s: 1.0, budget_s: None }
    }
}

impl EnergyOptions {
    /// The options with windows of at least `seconds`, and quiet times in proportion.
    ///
    /// # Errors
    /// [`ScenarioError::Plan`] for a length that is not positive, or over ten minutes.
    pub fn with_window_s(mut self, seconds: f64) -> Result<Self, ScenarioError> {
        if !(seconds > 0.0 && seconds <= 600.0) {
            return Err(ScenarioError::plan(format!("windows of {seconds} s: more than 0 and at most 600 are possible")));
        }
        self.rest_s *= seconds / self.window_s;
        self.settle_s *= seconds / self.window_s;
        self.window_s = seconds;
        Ok(self)
    }

    /// The options for a run that ends about `seconds` after it began.
    ///
    /// # Errors
    /// [`ScenarioError::Plan`] for a time that is not positive, or over a day.
    pub fn with_budget_s(mut self, seconds: f64) -> Result<Self, ScenarioError> {
        if !(seconds > 0.0 && seconds <= 86_400.0) {
            return Err(ScenarioError::plan(format!("a budget of {seconds} s: more than 0 and at most a day are possible")));
        }
        self.budget_s = Some(seconds);
        Ok(self)
    }

    /// The options with another accuracy.
    ///
    /// # Errors
    /// [`ScenarioError::Plan`] for a share outside of 0 to 1.
    pub fn with_accuracy(mut self, share: f64) -> Result<Self, ScenarioError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(ScenarioError::plan(format!("an accuracy of {share}: a share between 0 and 1 is possible")));
        }
        self.accuracy = share;
        Ok(self)
    }
}

/// A sensor of a run, with what its readings mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergySensorEntry {
    /// Which sensor.
    pub id: SourceId,
    /// What its readings are.
    pub reading: ReadingKind,
    /// What they mean.
    pub calibration: SensorCalibration,
}

impl EnergySensorEntry {
    /// How much is to be expected of it: the first that covers a path is the one whose energy counts.
    fn rank(&self) -> u8 {
        match self.calibration.kind {
            SensorKind::Integrating => 0,
            SensorKind::Boxcar => 1,
            SensorKind::PartTime => 2,
            _ => 3,
        }
    }

    /// Whether it sees all of the time.
    pub(crate) fn sees_all(&self) -> bool {
        matches!(self.calibration.kind, SensorKind::Integrating | SensorKind::Boxcar)
    }
}

/// What a run says about how its energy was measured; part of its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergyPlan {
    /// How well.
    pub options: EnergyOptions,
    /// The sensors, in the order of the recordings; none where nothing can be measured.
    pub sensors: Vec<EnergySensorEntry>,
    /// Why nothing can be measured; `None` where something can.
    pub reason: Option<NoData>,
    /// What a reader should know: sensors that were refused, and why.
    pub notes: Vec<String>,
}

/// What a runner is given to measure energy with.
#[derive(Debug)]
#[non_exhaustive]
pub enum EnergySetup<'a> {
    /// Energy was asked for and can't be measured: every cell says `reason`.
    Absent {
        /// Why, in one word.
        reason: NoData,
        /// Why, in sentences.
        notes: Vec<String>,
    },
    /// It can.
    Present {
        /// Reads the sensors.
        meter: Box<dyn Meter + 'a>,
        /// They, in the meter's order.
        sensors: Vec<EnergySensorEntry>,
        /// What was left out, and why.
        notes: Vec<String>,
    },
}

/// Gives each of `sensors` the calibration that holds for it at `now_unix_s`. Beside them, why the others have none.
pub fn match_calibrations(
    sensors: &[(SourceId, ReadingKind)],
    calibrations: &[SensorCalibration],
    now_unix_s: u64,
) -> (Vec<EnergySensorEntry>, Vec<String>) {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for (id, reading) in sensors {
        // A description that names no sensor can be meant for one only.
        let meant = |c: &&SensorCalibration| c.source.is_some() || sensors.len() == 1;
        match calibrations.iter().filter(meant).filter(|c| c.holds_for(id, *reading)).max_by_key(|c| c.taken_unix_s) {
            Some(c) if c.expired(now_unix_s) => {
                notes.push(format!("{id}: its calibration is older than {} days", phase_energy::VALID_DAYS));
            }
            Some(c) => found.push(EnergySensorEntry { id: id.clone(), reading: *reading, calibration: c.clone() }),
            None => {
                let other = calibrations.iter().filter_map(|c| c.source.as_ref()).find(|s| s.field == id.field);
                notes.push(match other {
                    Some(other) => format!("{id}: uncalibrated; the calibration given is of {other}"),
                    None => format!("{id}: uncalibrated"),
                });
            }
        }
    }
    (found, notes)
}

/// The two best of each device: the one that counts, and one to hold it against.
pub fn best_sensors(all: Vec<EnergySensorEntry>) -> Vec<EnergySensorEntry> {
    let mut sorted: Vec<_> = all.into_iter().enumerate().collect();
    sorted.sort_by(|(i, a), (j, b)| a.id.device.cmp(&b.id.device).then(a.rank().cmp(&b.rank())).then(i.cmp(j)));
    let mut best: Vec<EnergySensorEntry> = Vec::new();
    for (_, sensor) in sorted {
        if best.iter().filter(|b| b.id.device == sensor.id.device).count() < 2 {
            best.push(sensor);
        }
    }
    best
}

/// The positions of the sensors whose energies are added up for a path on `stack`, one for each device: those of its GPU where
/// it runs on one, else those of the whole module, else those of the processor. A board says nothing about a path that does
/// not run on it.
pub(crate) fn covering(sensors: &[EnergySensorEntry], stack: &StackInfo) -> Vec<usize> {
    let gpu = match stack.fact(Layer::Runtime, "gpu_uuid") {
        Some(Fact::Known(uuid)) => Some(uuid.as_str()),
        _ => None,
    };
    let covers = |id: &SourceId, wanted: Perimeter| {
        id.perimeter == wanted
            && match wanted {
                Perimeter::GpuBoard => gpu == Some(id.device.as_str()),
                Perimeter::CpuPackage => gpu.is_none(),
                _ => true,
            }
    };
    for perimeter in [Perimeter::GpuBoard, Perimeter::Module, Perimeter::CpuPackage] {
        let mut best: Vec<usize> = Vec::new();
        for (at, sensor) in sensors.iter().enumerate().filter(|(_, s)| covers(&s.id, perimeter)) {
            match best.iter_mut().find(|b| sensors[**b].id.device == sensor.id.device) {
                Some(b) if sensor.rank() < sensors[*b].rank() => *b = at,
                Some(_) => {}
                None => best.push(at),
            }
        }
        if !best.is_empty() {
            return best;
        }
    }
    Vec::new()
}

/// One call that is to be replayed: a prefill, or decode steps over a stretch of contexts within one octave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    pub(crate) phase: Phase,
    pub(crate) batch: usize,
    /// Positions cached before.
    pub(crate) context: usize,
    /// The prompt's length; 1 for decode.
    pub(crate) new_tokens: usize,
    /// Calls in a row: decode steps over the contexts `context..context + steps`; 1 for prefill.
    pub(crate) steps: usize,
}

impl Call {
    pub(crate) fn id(&self) -> String {
        let Self { phase, batch, context, new_tokens, steps } = self;
        if *phase == Phase::Decode {
            format!("decode b{batch} c{context}..{}", context + steps - 1)
        } else {
            format!("{phase} b{batch} n{new_tokens}")
        }
    }
}

/// The calls of a plan's steady workloads, one for each cell of the matrix, ordered.
pub(crate) fn calls(plan: &Plan) -> Vec<Call> {
    let mut all: Vec<Call> = Vec::new();
    for cell in plan.cells.iter().filter(|c| c.workload.kind == WorkloadKind::Steady) {
        let (batch, prompt, steps) = (cell.workload.batch, cell.workload.prompt_tokens, cell.workload.decode_steps);
        let prefill = Call { phase: Phase::Prefill, batch, context: 0, new_tokens: prompt, steps: 1 };
        if !all.contains(&prefill) {
            all.push(prefill);
        }
        for (context, steps) in octaves(prompt, steps) {
            let same = |c: &&mut Call| c.phase == Phase::Decode && c.batch == batch && octave(c.context) == octave(context);
            match all.iter_mut().find(same) {
                Some(call) => {
                    let last = (call.context + call.steps).max(context + steps);
                    call.context = call.context.min(context);
                    call.steps = last - call.context;
                }
                None => all.push(Call { phase: Phase::Decode, batch, context, new_tokens: 1, steps }),
            }
        }
    }
    all.sort_unstable();
    all
}

/// The decode steps after a prompt, cut where the octave of the context ends: first context and number of each stretch.
pub(crate) fn octaves(prompt: usize, steps: usize) -> Vec<(usize, usize)> {
    let (mut at, end) = (prompt, prompt + steps);
    let mut found = Vec::new();
    while at < end {
        let next = if at == 0 { 1 } else { 2 * octave(at) }.min(end);
        found.push((at, next - at));
        at = next;
    }
    found
}

/// The largest power of two that is not above `context`; 0 for 0. As cells are cut.
fn octave(context: usize) -> usize {
    context.checked_ilog2().map_or(0, |log| 1 << log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PlanSpec, ScenarioSet};
    use phase_core::BackendId;

    fn sensor(device: &str, field: &str, perimeter: Perimeter, kind: SensorKind) -> EnergySensorEntry {
        let window_ns = if kind == SensorKind::PartTime { 25e6 } else { 1e8 };
        EnergySensorEntry {
            id: SourceId::new(device, "driver 1", field, perimeter),
            reading: ReadingKind::Power,
            calibration: SensorCalibration::described(kind, 1e8, window_ns, 0.0, 50.0, 700.0),
        }
    }

    #[test]
    fn a_path_is_covered_by_its_own_device_and_by_no_other() {
        let sensors = [
            sensor("package-0", "energy_uj", Perimeter::CpuPackage, SensorKind::Integrating),
            sensor("package-1", "energy_uj", Perimeter::CpuPackage, SensorKind::Integrating),
            sensor("GPU-a", "power_instant", Perimeter::GpuBoard, SensorKind::PartTime),
            sensor("GPU-a", "total_energy", Perimeter::GpuBoard, SensorKind::Integrating),
            sensor("GPU-b", "total_energy", Perimeter::GpuBoard, SensorKind::Integrating),
        ];
        let gpu = |uuid: &str| StackInfo::new().with(Layer::Runtime, "gpu_uuid", uuid);
        assert_eq!(covering(&sensors, &gpu("GPU-a")), [3], "the better sensor of the board");
        assert_eq!(covering(&sensors, &gpu("GPU-c")), [] as [usize; 0], "no board stands for another, and no package for a board");
        assert_eq!(covering(&sensors, &StackInfo::new()), [0, 1], "all packages, and no board's idle power");
        assert_eq!(covering(&sensors[2..], &StackInfo::new()), [] as [usize; 0]);
    }

    #[test]
    fn a_calibration_of_another_driver_or_an_old_one_is_refused_in_words() {
        let id = SourceId::new("GPU-a", "nvidia 2", "total_energy", Perimeter::GpuBoard);
        let mut calibration = SensorCalibration::described(SensorKind::Integrating, 1e8, 1e8, 0.0, 50.0, 700.0);
        calibration.source = Some(id.clone());
        calibration.taken_unix_s = Some(1_000_000);
        let matched = |calibration: &SensorCalibration, now| {
            match_calibrations(&[(id.clone(), ReadingKind::Counter)], std::slice::from_ref(calibration), now)
        };
        assert_eq!(matched(&calibration, 2_000_000).0.len(), 1);
        let (found, notes) = matched(&calibration, 1_000_000 + 91 * 86_400);
        assert!(found.is_empty() && notes[0].contains("older than 90 days"), "{notes:?}");
        calibration.source = Some(SourceId::new("GPU-a", "nvidia 1", "total_energy", Perimeter::GpuBoard));
        let (found, notes) = matched(&calibration, 2_000_000);
        assert!(found.is_empty() && notes[0].contains("nvidia 1") && notes[0].contains("nvidia 2"), "{notes:?}");
    }

    #[test]
    fn every_cell_of_the_matrix_is_one_call() {
        assert_eq!(octaves(100, 64), [(100, 28), (128, 36)]);
        assert_eq!(octaves(1, 3), [(1, 1), (2, 2)]);
        assert_eq!(octaves(0, 2), [(0, 1), (1, 1)]);
        assert!(octaves(5, 0).is_empty());
        let mut plan = Plan::new(&PlanSpec::new(vec![ScenarioSet::built_in("s1").unwrap()], [BackendId::new("a")])).unwrap();
        let workload = |prompt_tokens, decode_steps| crate::Workload { prompt_tokens, decode_steps, ..plan.cells[0].workload.clone() };
        let all = [workload(100, 64), workload(120, 4), workload(128, 40), workload(100, 0)];
        let first = plan.cells[0].clone();
        plan.cells = all.into_iter().map(|workload| crate::PlannedCell { workload, ..first.clone() }).collect();
        let ids: Vec<_> = calls(&plan).iter().map(Call::id).collect();
        assert_eq!(ids, ["prefill b1 n100", "prefill b1 n120", "prefill b1 n128", "decode b1 c100..127", "decode b1 c128..167"]);
    }
}

//! The table of `phase bench --watch`: how far every cell is on every backend, and the median so far.

use phase_scenario::{Plan, Progress};
use std::{collections::HashMap, fmt::Write as _};

/// What is known of a run so far.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    places: HashMap<(String, String), usize>,
    /// For every block, its rows and how many samples it adds to each.
    blocks: Vec<Vec<(usize, usize)>>,
    current: Option<usize>,
    /// Blocks that an earlier process measured; `None` until the first block begins.
    resumed_at: Option<usize>,
}

#[derive(Debug)]
struct Row {
    cell: String,
    backend: String,
    planned: usize,
    earlier: usize,
    failures: usize,
    /// In ascending order.
    walls_ns: Vec<u64>,
}

impl Table {
    /// Nothing is done yet. Rows are in the order of the plan's cells, then of its backends.
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut rows = Vec::new();
        let mut places = HashMap::new();
        for cell in &plan.cells {
            for backend in &plan.backends {
                let (cell, backend) = (cell.id(), backend.to_string());
                places.insert((cell.clone(), backend.clone()), rows.len());
                rows.push(Row { cell, backend, planned: 0, earlier: 0, failures: 0, walls_ns: Vec::new() });
            }
        }
        let mut blocks = Vec::new();
        for block in &plan.blocks {
            let tasks = block.tasks.iter().map(|task| {
                let samples = plan.cells[task.cell].workload.samples as usize;
                (task.cell * plan.backends.len() + task.backend, samples)
            });
            let tasks: Vec<_> = tasks.collect();
            tasks.iter().for_each(|(row, samples)| rows[*row].planned += samples);
            blocks.push(tasks);
        }
        Self { rows, places, blocks, current: None, resumed_at: None }
    }

    /// Takes up what a run tells.
    pub(crate) fn take(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::BlockStart { block, .. } if self.resumed_at.is_none() => {
                self.resumed_at = Some(*block);
                for (row, samples) in self.blocks.iter().take(*block).flatten() {
                    self.rows[*row].earlier += samples;
                }
            }
            Progress::Visit { backend, cell, .. } => self.current = self.row(cell, &backend.to_string()),
            Progress::Sampled { backend, cell, wall_ns } => {
                if let Some(row) = self.row(cell, &backend.to_string()) {
                    let walls = &mut self.rows[row].walls_ns;
                    walls.insert(walls.partition_point(|w| w <= wall_ns), *wall_ns);
                }
            }
            // Failures before the first visit are told in a line of their own.
            Progress::Failed { .. } => {
                if let Some(row) = self.current {
                    self.rows[row].failures += 1;
                }
            }
            Progress::BlockEnd { .. } | Progress::Sealing | Progress::Energy { .. } => self.current = None,
            _ => {}
        }
    }

    fn row(&self, cell: &str, backend: &str) -> Option<usize> {
        self.places.get(&(cell.to_owned(), backend.to_owned())).copied()
    }

    /// The table as text. With `screen`, a number of columns and of lines, what fits there, around the row that is being measured.
    pub(crate) fn render(&self, screen: Option<(usize, usize)>) -> String {
        let width = |of: fn(&Row) -> &str, title: &str| self.rows.iter().map(|r| of(r).chars().count()).max().unwrap_or(0).max(title.len());
        let (cell, backend) = (width(|r| &r.cell, "cell"), width(|r| &r.backend, "backend"));
        let shown = screen.map_or(0..self.rows.len(), |(_, lines)| window(self.rows.len(), lines.saturating_sub(2), self.current));
        let (above, below) = (shown.start, self.rows.len() - shown.end);
        let mut lines = vec![format!("  {:cell$}  {:backend$}  {:>9}  {:>10}", "cell", "backend", "samples", "median")];
        for (at, row) in self.rows.iter().enumerate().take(shown.end).skip(shown.start) {
            let mark = if self.current == Some(at) { '>' } else { ' ' };
            let done = format!("{}/{}", row.earlier + row.walls_ns.len(), row.planned);
            let median = median(&row.walls_ns).map_or_else(|| "-".to_owned(), duration);
            let mut line = format!("{mark} {:cell$}  {:backend$}  {done:>9}  {median:>10}", row.cell, row.backend);
            if row.failures > 0 {
                let _ = write!(line, "  {} failed", row.failures);
            }
            lines.push(line);
        }
        let mut end = Vec::new();
        if above + below > 0 {
            end.push(format!("{above} rows above, {below} below"));
        }
        if self.resumed_at.is_some_and(|block| block > 0) {
            end.push("medians since the run was resumed".to_owned());
        }
        if !end.is_empty() {
            lines.push(format!("  {}", end.join("; ")));
        }
        let columns = screen.map_or(usize::MAX, |(columns, _)| columns.saturating_sub(1));
        let mut text = String::new();
        for line in lines {
            text.extend(line.chars().take(columns));
            text.push('\n');
        }
        text
    }
}

/// At most `room` of `rows`, `current` among them, in the middle where that is possible.
fn window(rows: usize, room: usize, current: Option<usize>) -> std::ops::Range<usize> {
    let room = room.clamp(1, rows.max(1)).min(rows);
    let start = current.unwrap_or(0).saturating_sub(room / 2).min(rows - room);
    start..start + room
}

fn median(ascending: &[u64]) -> Option<f64> {
    let (low, high) = (ascending.get(ascending.len().checked_sub(1)? / 2)?, ascending.get(ascending.len() / 2)?);
    Some((*low as f64 + *high as f64) / 2.0)
}

/// Nanoseconds with three digits or more, in the unit that suits them.
fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Bar;
    use phase_core::{Arm, DynBackend, LoadSpec, ManualClock, Registry, sim::Sim};
    use phase_scenario::{BenchCells, Observer, PlanSpec, Runner, ScenarioSet, Stage};
    use std::{
        sync::{Arc, atomic::AtomicBool},
        time::Duration,
    };

    fn plan(arms: impl IntoIterator<Item = Arm>) -> Plan {
        let cells =
            BenchCells { prompt_tokens: vec![128], decode_steps: vec![16, 32], batches: vec![1], depths: vec![128], repetitions: 4 };
        Plan::new(&PlanSpec::new(vec![ScenarioSet::bench(&cells).unwrap()], arms)).unwrap()
    }

    fn two() -> [Arm; 2] {
        ["ort-cpu", "candle-cuda@compiled"].map(|name| name.parse().unwrap())
    }

    /// A run that failed once, in the third block.
    fn measured() -> Table {
        let plan = plan(two());
        let mut table = Table::new(&plan);
        let cells: Vec<_> = plan.cells.iter().map(|cell| cell.id()).collect();
        for block in 0..2 {
            table.take(&Progress::BlockStart { block, blocks: 4, scenario: "bench" });
            for (at, cell) in cells.iter().enumerate() {
                for (n, backend) in plan.backends.iter().enumerate() {
                    table.take(&Progress::Visit { backend, cell, done: 0, total: 24, remaining: Duration::ZERO });
                    let wall_ns = 700 * 1300_u64.pow(u32::try_from(at).unwrap()) * (1 + n as u64) + block as u64 * 40;
                    table.take(&Progress::Sampled { backend, cell, wall_ns });
                }
            }
            table.take(&Progress::BlockEnd { block, blocks: 4, other_load_fraction: None });
        }
        let (backend, cell) = (&plan.backends[1], &cells[1]);
        table.take(&Progress::BlockStart { block: 2, blocks: 4, scenario: "bench" });
        table.take(&Progress::Visit { backend, cell, done: 16, total: 24, remaining: Duration::ZERO });
        table.take(&Progress::Failed { backend, stage: Stage::Call, message: "no" });
        table
    }

    #[test]
    fn it_looks_like_this() {
        let table = measured();
        assert_eq!(table.render(None), GOLDEN);
        let small = table.render(Some((40, 5)));
        assert!(small.lines().count() <= 5 && small.lines().all(|l| l.chars().count() < 40), "{small}");
        assert!(small.contains("\n> bench/b1-p128-d16  candle-cuda") && small.contains("2 rows above, 1 below"), "{small}");
        assert_eq!(table.render(Some((200, 50))), GOLDEN, "all of it fits");
    }

    const GOLDEN: &str = "  cell               backend                 samples      median
  bench/b1-p128      ort-cpu                     2/4      720 ns
  bench/b1-p128      candle-cuda@compiled        2/4     1.42 us
  bench/b1-p128-d16  ort-cpu                     2/4      910 us
> bench/b1-p128-d16  candle-cuda@compiled        2/4     1.82 ms  1 failed
  bench/b1-p128-d32  ort-cpu                     2/4      1.18 s
  bench/b1-p128-d32  candle-cuda@compiled        2/4      2.37 s
";

    #[test]
    fn a_resumed_run_counts_what_was_done_before() {
        let plan = plan(two());
        let mut table = Table::new(&plan);
        table.take(&Progress::BlockStart { block: 3, blocks: 4, scenario: "bench" });
        let text = table.render(None);
        assert_eq!(text.matches(" 3/4 ").count(), plan.cells.len() * 2, "{text}");
        assert!(text.contains("medians since the run was resumed"), "{text}");
    }

    #[test]
    fn a_real_run_fills_every_row() {
        /// What is drawn goes to standard error, wherever that leads.
        struct Watching(Table, Bar);
        impl Observer for Watching {
            fn progress(&mut self, progress: &Progress<'_>) {
                self.0.take(progress);
                self.1.progress(progress);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new().with(Sim::default());
        let plan = plan(registry.iter().map(DynBackend::arm));
        let mut watching = Watching(Table::new(&plan), Bar::watching(&plan));
        let clock = Arc::new(ManualClock::ticking(Duration::from_micros(1)));
        let mut runner = Runner::create(&registry, plan, LoadSpec::new("none"), clock, &dir.path().join("run")).unwrap();
        runner.run(&mut watching, &AtomicBool::new(false)).unwrap();
        let rows = &watching.0.rows;
        assert!(rows.len() == 3 && rows.iter().all(|r| r.planned == 4 && r.walls_ns.len() == 4 && r.walls_ns.is_sorted()), "{rows:?}");
    }

    #[test]
    fn medians_and_units() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1, 2, 9]), Some(2.0));
        assert_eq!(median(&[1, 2, 3, 9]), Some(2.5));
        assert_eq!([999.0, 1234.0, 12_340_000.0, 123_400_000.0, 2.5e9].map(duration), ["999 ns", "1.23 us", "12.3 ms", "123 ms", "2.50 s"]);
        assert_eq!(window(0, 5, None), 0..0);
        assert_eq!((window(9, 4, None), window(9, 4, Some(8)), window(9, 4, Some(4)), window(3, 9, Some(2))), (0..4, 5..9, 2..6, 0..3));
    }
}

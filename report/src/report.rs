//! The one model that every form is written from. Data flows one way: run or policy, this, text.

use crate::{
    ReportError,
    answer::Answer,
    boundary::{BoundaryFact, Identity, Trigger},
    card::Card,
    cold::ColdSection,
    cost::CostSection,
    energy::EnergySection,
    evidence::{AgreementRow, Artefact, EvidenceRow, FailureRow},
    flow::Step,
    fraction::FractionRow,
    gate::{Gate, GateState},
    matrix::CellRow,
    parts::PartsRow,
    rank::{Bucket, Duel, Inversion},
    roofline::RooflineSection,
};
use phase_core::Arm;
use phase_policy::{Policy, cost::PriceBook};
use phase_scenario::{Ceilings, SealedRun};
use serde::Serialize;

/// Schema of a report as JSON.
pub const REPORT_SCHEMA: &str = "phase.report/1";

/// What a report may be told beside the run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ReportOptions {
    /// The path that ties and doubts go to; by default the reference of the agreement check.
    pub default_safe: Option<Arm>,
    /// Prices for the cost table.
    pub prices: Option<PriceBook>,
    /// Measured ceilings for the roofline, in place of the run's own.
    pub ceilings: Vec<Ceilings>,
    /// Where a page finds the run's files, relative to itself.
    pub base: Option<String>,
}

impl ReportOptions {
    /// Sends ties and doubts to `backend`.
    #[must_use]
    pub fn with_default_safe(mut self, backend: Arm) -> Self {
        self.default_safe = Some(backend);
        self
    }

    /// Prices requests by `book`.
    #[must_use]
    pub fn with_prices(mut self, book: PriceBook) -> Self {
        self.prices = Some(book);
        self
    }

    /// Holds every row against `ceilings`, those of its device; may be called for several devices.
    #[must_use]
    pub fn with_ceilings(mut self, ceilings: Ceilings) -> Self {
        self.ceilings.push(ceilings);
        self
    }

    /// Links artefacts below `base`.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<String>) -> Self {
        self.base = Some(base.into());
        self
    }
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// A compiled policy: cells without events.
    Policy,
    /// A sealed run.
    Run,
}

/// Everything a report says. Every form of it is written from this.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: &'static str,
    /// What it is about.
    pub source: Source,
    /// The run's id or the policy's digest.
    pub id: String,
    /// When it was measured or compiled: RFC 3339 for a run, seconds since 1970 for a policy.
    pub created: String,
    /// One line on what was measured, on what.
    pub subject: String,
    /// Names and values about the run: program, sets, seed, effort.
    pub manifest: Vec<[String; 2]>,
    /// Why the report is void; empty when it holds.
    pub void: Vec<String>,
    /// Which backend for which phase.
    pub answers: Vec<Answer>,
    /// The decisions.
    pub card: Card,
    /// What had to hold.
    pub gates: Vec<Gate>,
    /// What makes the decisions void.
    pub triggers: Vec<Trigger>,
    /// The way of a request.
    pub flow: Vec<Step>,
    /// The competitors, in the plan's order.
    pub arms: Vec<String>,
    /// Every cell.
    pub cells: Vec<CellRow>,
    /// Who is first where.
    pub buckets: Vec<Bucket>,
    /// Every pair over all buckets.
    pub duels: Vec<Duel>,
    /// Pairs whose order turns round.
    pub inversions: Vec<Inversion>,
    /// Prefill against decode.
    pub fractions: Vec<FractionRow>,
    /// First calls.
    pub cold: ColdSection,
    /// Against the ceilings.
    pub roofline: RooflineSection,
    /// Where the time went; empty for a policy.
    pub parts: Vec<PartsRow>,
    /// Joules, or why not.
    pub energy: EnergySection,
    /// Money, or seconds.
    pub cost: CostSection,
    /// Agreement checks; empty for a policy.
    pub agreement: Vec<AgreementRow>,
    /// What runtimes were seen doing; empty for a policy.
    pub evidence: Vec<EvidenceRow>,
    /// What did not run.
    pub failures: Vec<FailureRow>,
    /// The sealed files; empty for a policy.
    pub artefacts: Vec<Artefact>,
    /// The boundaries that numbers carry.
    pub boundaries: Vec<Identity>,
    /// Every fact of them.
    pub facts: Vec<BoundaryFact>,
    /// What the numbers don't say.
    pub limits: Vec<String>,
    /// When the decisions may be changed, and by what.
    pub change_control: Vec<String>,
}

impl Report {
    /// The report of a sealed run.
    ///
    /// # Errors
    /// [`ReportError::Run`] for events that are not as sealed.
    pub fn of_run(run: &SealedRun, options: &ReportOptions) -> Result<Self, ReportError> {
        Self::of_run_watched(run, options, &mut |_, _, _| {})
    }

    /// As [`Report::of_run`]; meanwhile `watch` is told how many events were read, of how many, and the cell of the last one.
    ///
    /// # Errors
    /// As [`Report::of_run`].
    pub fn of_run_watched(run: &SealedRun, options: &ReportOptions, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Self, ReportError> {
        crate::build::of_run(run, options, watch)
    }

    /// The report of a policy: everything but what only events and a manifest can tell.
    pub fn of_policy(policy: &Policy, options: &ReportOptions) -> Self {
        crate::build::of_policy(policy, options)
    }

    /// Whether every gate held that voids a report.
    pub fn holds(&self) -> bool {
        self.void.is_empty() && self.gates.iter().all(|g| g.state != GateState::Fail)
    }

    /// As JSON, indented.
    ///
    /// # Errors
    /// [`ReportError::Json`].
    pub fn to_json(&self) -> Result<String, ReportError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// As Markdown.
    pub fn to_markdown(&self) -> String {
        crate::markdown::report(self)
    }

    /// As one page that needs nothing else.
    ///
    /// # Errors
    /// [`ReportError::Plot`], [`ReportError::Template`].
    pub fn to_html(&self) -> Result<String, ReportError> {
        crate::html::report(self)
    }

    /// The decision card for a terminal of 80 columns.
    pub fn to_terminal(&self, paint: crate::Paint) -> String {
        crate::terminal::card(self, paint)
    }
}

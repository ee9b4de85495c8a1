//! Two runs against each other, and one cell over many.

mod support;

use phase_core::MeasurementBoundary;
use phase_policy::{RegimeClass, stats::Verdict};
use phase_report::{Comparison, Foreign, RowOutcome, Summary, compare, history};
use phase_scenario::{Calls, SealedRun};
use support::{CREATED, Paced, SMALL, run};

fn paced(decode_ns: u64, version: u32) -> (SealedRun, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let b = Paced { version, ..Paced::new("b", 1_000, decode_ns) };
    (run(SMALL, vec![Paced::new("a", 1_000, 5_000), b], Calls::Scores, CREATED, dir.path()), dir)
}

fn verdicts(comparison: &Comparison, backend: &str) -> Vec<Option<Verdict>> {
    let own = comparison.rows.iter().filter(|r| r.key.backend.as_str() == backend && r.key.regime == RegimeClass::Steady);
    own.map(|r| if let RowOutcome::Compared { verdict, .. } = &r.outcome { Some(*verdict) } else { None }).collect()
}

#[test]
fn a_faster_build_of_one_backend_shows_in_its_cells_only() {
    let ((slow, _slow), (fast, _fast)) = (paced(9_000, 1), paced(4_000, 2));
    let comparison = compare(&slow, &fast, None, Foreign::Refuse);
    assert!(verdicts(&comparison, "a").iter().all(|v| *v == Some(Verdict::Equivalent)), "{comparison}");
    assert!(verdicts(&comparison, "b").contains(&Some(Verdict::Faster)), "{comparison}");
    assert_eq!(comparison.summary(), Summary::Faster);
    assert!(comparison.to_string().contains("| faster"));
    assert_eq!(compare(&fast, &slow, None, Foreign::Refuse).summary(), Summary::Slower);
    assert_eq!(compare(&slow, &slow, None, Foreign::Refuse).summary(), Summary::Equivalent);
    // Three decode cells at 2.25 times the time: slower to who allows 99 %, and what is equivalent is told from outside.
    assert_eq!(compare(&fast, &slow, Some(0.99), Foreign::Refuse).count(Verdict::Slower), 3);
    assert_eq!(compare(&slow, &fast, Some(0.99), Foreign::Refuse).summary(), Summary::Faster);
    let page = comparison.to_html().unwrap();
    assert!(
        page.contains("Faster") && page.contains("boundary ") && !page.contains("://") && page.contains("default-src 'none'"),
        "one file, no network"
    );
}

#[test]
fn other_calls_get_no_verdict_but_the_fields_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let greedy = run(SMALL, vec![Paced::new("a", 1_000, 5_000), Paced::new("b", 1_000, 5_000)], Calls::Greedy, CREATED, dir.path());
    let (scores, _dir) = paced(5_000, 1);
    let refused = compare(&scores, &greedy, None, Foreign::Refuse);
    assert!(refused.refused() && refused.summary() == Summary::Nothing);
    assert!(refused.foreign.iter().all(|f| f.fields.iter().any(|d| d.field == "includes")));
    assert!(refused.rows.iter().all(|r| matches!(&r.outcome, RowOutcome::NotComparable { why } if why.contains("includes"))));
    assert!(refused.to_html().unwrap().contains("Not compared"));
    let accepted = compare(&scores, &greedy, None, Foreign::Accept);
    assert!(!accepted.refused() && accepted.foreign.len() == 2 && accepted.summary() != Summary::Nothing);
    assert!(accepted.to_string().contains("compared all the same"));
    assert!(serde_json::to_string(&accepted).unwrap().contains("\"outcome\":{\"status\":\"compared\""));
    let arm = |id: &'static str| phase_core::BackendId::new(id).into();
    let boundary = |run: &SealedRun, id| MeasurementBoundary::clone(run.boundary(&arm(id)).unwrap());
    assert!(boundary(&scores, "a").comparable(&boundary(&scores, "b")).is_ok());
}

#[test]
fn cells_of_one_run_only_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let set = SMALL.replace("prompt_tokens = 16", "prompt_tokens = 20");
    let other = run(&set, vec![Paced::new("a", 1_000, 5_000)], Calls::Scores, CREATED, dir.path());
    let (both, _dir) = paced(5_000, 1);
    let comparison = compare(&both, &other, None, Foreign::Refuse);
    let alone = |run: &SealedRun| {
        let why = format!("only in run {}", run.run_id());
        comparison.rows.iter().filter(|r| matches!(&r.outcome, RowOutcome::NotComparable { why: said } if *said == why)).count()
    };
    assert!(alone(&both) > 0 && alone(&other) == 2, "the other prompt, steady and warming:\n{comparison}");
}

#[test]
fn a_history_breaks_where_the_boundary_changed() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (decode_ns, version)) in (0..).zip([(9_000, 1), (9_000, 1), (4_000, 2)]) {
        let b = Paced { version, ..Paced::new("b", 1_000, decode_ns) };
        run(SMALL, vec![Paced::new("a", 1_000, 5_000), b], Calls::Scores, CREATED + at * 60, &folder.path().join(at.to_string()));
    }
    std::fs::create_dir(folder.path().join("notes")).unwrap();
    let found = history(folder.path(), Some("b/default/decode/b2")).unwrap();
    assert_eq!(found.points.len(), 3);
    let gaps: Vec<_> = found.points.iter().map(|p| p.gap.is_some()).collect();
    assert_eq!(gaps, [false, false, true]);
    let gap = found.points[2].gap.as_ref().unwrap();
    assert!(gap.comparable && gap.fields.len() == 1 && gap.fields[0].field == "runtime.library");
    assert!(found.points[1].median.value > 2.0 * found.points[2].median.value);
    assert!(found.to_string().contains("boundary changed, comparable: runtime.library"), "{found}");
    let page = found.to_html().unwrap();
    assert!(page.contains("<svg") && page.contains("boundary changed"));
    assert!(history(folder.path(), Some("nobody")).unwrap_err().to_string().contains("nobody"));
}

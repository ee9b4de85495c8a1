//! `phase report`, `phase compare` and `phase history`: what people look at.

use crate::{
    argument,
    exit::{Failure, note, say},
    progress::{during, watched},
    setting::Setting,
};
use clap::ColorChoice;
use phase_core::Arm;
use phase_policy::cost::PriceBook;
use phase_report::{Comparison, Foreign, Paint, Report, ReportOptions, Summary};
use phase_scenario::SealedRun;
use std::{io::IsTerminal as _, path::Path};

pub(crate) fn report(setting: &Setting, arguments: &argument::Report) -> Result<(), Failure> {
    let options = options(arguments)?;
    let report = if arguments.source.is_dir() {
        let run = watched(|watch| SealedRun::open_with(&arguments.source, watch)).map_err(|e| Failure::work(&e))?;
        watched(|watch| Report::of_run_watched(&run, &options, &mut |done, all, cell| watch(done, all, &format!("reading {cell}"))))
            .map_err(|e| Failure::work(&e))?
    } else {
        Report::of_policy(&super::policy::read(&arguments.source)?, &options)
    };
    if let Some(file) = &arguments.html {
        write(file, &during("drawing the page", || report.to_html()).map_err(|e| Failure::work(&e))?)?;
    }
    if arguments.card {
        say(&report.to_terminal(paint(setting.color)))?;
    } else if arguments.json {
        say(&report.to_json().map_err(|e| Failure::work(&e))?)?;
    } else if arguments.html.is_none() {
        let text = report.to_markdown();
        #[cfg(feature = "export")]
        let text = text + &super::export::sections(&arguments.foreign)?;
        say(&text)?;
    }
    if report.holds() { Ok(()) } else { Err(Failure::Check(format!("the report is void: {}", report.void.join("; ")))) }
}

/// The Markdown report of a run, as `phase bench` prints it.
pub(crate) fn print(dir: &Path) -> Result<(), Failure> {
    let run = SealedRun::open(dir).map_err(|e| Failure::work(&e))?;
    say(&Report::of_run(&run, &ReportOptions::default()).map_err(|e| Failure::work(&e))?.to_markdown())
}

pub(crate) fn compare(arguments: &argument::Compare) -> Result<(), Failure> {
    if arguments.threshold.is_some_and(|t| !(0.0..1.0).contains(&t)) {
        return Err(Failure::Usage("--threshold is a share, from 0 to below 1".to_owned()));
    }
    #[cfg(feature = "export")]
    for path in [&arguments.base, &arguments.run] {
        super::export::refuse_foreign(path)?;
    }
    let dirs = [&*arguments.base, &*arguments.run];
    let runs: Result<Vec<_>, _> = watched(|watch| SealedRun::open_all(dirs, watch)).into_iter().collect();
    let runs = runs.map_err(|e| Failure::work(&e))?;
    let foreign = if arguments.foreign { Foreign::Accept } else { Foreign::Refuse };
    let comparison = phase_report::compare(&runs[0], &runs[1], arguments.threshold, foreign);
    if let Some(file) = &arguments.html {
        write(file, &comparison.to_html().map_err(|e| Failure::work(&e))?)?;
    }
    say(&if arguments.json { serde_json::to_string(&comparison).map_err(|e| Failure::work(&e))? } else { comparison.to_string() })?;
    judged(&comparison)
}

fn judged(comparison: &Comparison) -> Result<(), Failure> {
    if comparison.refused() {
        let fields: Vec<_> = comparison.foreign.iter().flat_map(|f| &f.fields).map(|d| d.field.as_str()).collect();
        return Err(Failure::Check(format!("the runs can't be compared: their boundaries differ in {}", fields.join(", "))));
    }
    match comparison.summary() {
        Summary::Slower | Summary::Mixed => Err(Failure::Check("some cells are slower".to_owned())),
        Summary::Nothing => Err(Failure::Check("no steady cell could be compared".to_owned())),
        _ => Ok(()),
    }
}

pub(crate) fn history(arguments: &argument::History) -> Result<(), Failure> {
    let history =
        watched(|watch| phase_report::history_with(&arguments.dir, arguments.cell.as_deref(), watch)).map_err(|e| Failure::work(&e))?;
    if let Some(file) = &arguments.html {
        write(file, &history.to_html().map_err(|e| Failure::work(&e))?)?;
    }
    say(&if arguments.json { serde_json::to_string(&history).map_err(|e| Failure::work(&e))? } else { history.to_string() })
}

fn options(arguments: &argument::Report) -> Result<ReportOptions, Failure> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())));
    let mut options = ReportOptions::default();
    if let Some(backend) = &arguments.default_safe {
        options = options.with_default_safe(backend.parse::<Arm>().map_err(|e| Failure::Usage(format!("--default-safe {backend}: {e}")))?);
    }
    if let Some(book) = &arguments.prices {
        options = options.with_prices(PriceBook::from_json(&read(book)?).map_err(|e| Failure::work(&e))?);
    }
    for ceilings in &arguments.ceilings {
        options = options.with_ceilings(super::ceilings::read(ceilings)?);
    }
    if let Some(base) = arguments.html.as_deref().and_then(|page| below(page, &arguments.source)) {
        options = options.with_base(base);
    }
    Ok(options)
}

/// Where the page finds the run, when that lies in or below the page's folder: a link to anywhere else breaks when the page
/// is handed on.
fn below(page: &Path, run: &Path) -> Option<String> {
    let folder = page.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let (folder, run) = (folder.canonicalize().ok()?, run.canonicalize().ok()?);
    let inside = run.strip_prefix(folder).ok()?;
    let parts: Vec<_> = inside.iter().map(|p| p.to_string_lossy()).collect();
    Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

fn write(file: &Path, page: &str) -> Result<(), Failure> {
    phase_scenario::write_atomically(file, page.as_bytes()).map_err(|e| Failure::work(&e))?;
    note(&format!("wrote {} ({} kB)", file.display(), page.len().div_ceil(1000)));
    Ok(())
}

/// Colours as asked for; else where a person looks and did not decline them (`NO_COLOR`, `CLICOLOR_FORCE`).
fn paint(color: ColorChoice) -> Paint {
    let looked_at = || std::io::stdout().is_terminal() && anstyle_query::term_supports_color();
    let wanted = match color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => !anstyle_query::no_color() && (anstyle_query::clicolor_force() || looked_at()),
    };
    if wanted { Paint::Colour } else { Paint::Plain }
}

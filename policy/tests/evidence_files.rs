//! Evidence out of files that a run of burn on CubeCL left: `data/README.md` says how they were made.

#![expect(clippy::unwrap_used, reason = "it is all test code")]

use phase_core::{Arm, ArtefactForm, BackendId, Mode, Phase, Shape};
use phase_policy::{CompileEvidence, EvidenceError, Level, Sealed, Violation};

const FUSION: &str = include_str!("data/burn-0.22-fusion.log");
const COMPILATIONS: &str = include_str!("data/cubecl-0.11-compilations.jsonl");
const DECISIONS: &str = include_str!("data/cubecl-0.11-decisions.jsonl");
const TUNINGS: &str = include_str!("data/cubecl-0.11-tunings.jsonl");

const PROMPT: (Phase, Shape) = (Phase::Prefill, Shape { batch: 1, new_tokens: 64, context: 0 });

fn read(records: &[(ArtefactForm, &str)]) -> Result<CompileEvidence, EvidenceError> {
    let sealed = records.iter().map(|(form, text)| {
        let digest = blake3::hash(text.as_bytes()).to_hex();
        Sealed::new(*form, &[PROMPT], text.as_bytes(), digest.as_str())
    });
    let sealed: Vec<_> = sealed.collect::<Result<_, _>>()?;
    CompileEvidence::read(Arm::new(BackendId::new("burn-wgpu"), Mode::Compiled), "compiled", "run-1", &sealed)
}

fn refusal(form: ArtefactForm, text: &str) -> String {
    read(&[(form, text)]).unwrap_err().to_string()
}

#[test]
fn the_fusion_log_shows_that_fused_kernels_ran() {
    let seen = read(&[(ArtefactForm::BurnFusionLog, FUSION)]).unwrap();
    assert_eq!((seen.level(), seen.violations()), (Level::Executed, &[][..]));
    assert!(seen.covers(PROMPT.0, PROMPT.1));
    // Up to the first fused block only two operations ran, each by itself.
    let (before, _) = FUSION.split_once("[plan] exploration completed: lazy, 14/15 ops optimized").unwrap();
    let seen = read(&[(ArtefactForm::BurnFusionLog, before)]).unwrap();
    assert_eq!((seen.level(), seen.violations()), (Level::Placed, &[Violation::Unfused { operations: 2, of: 2 }][..]));
    assert!(!seen.covers(PROMPT.0, PROMPT.1));
}

#[test]
fn freeing_a_tensor_is_no_operation_that_ran_unfused() {
    let tables: Vec<_> = FUSION.split_inclusive('\n').filter(|line| line.contains('\u{25b8}')).collect();
    assert!(tables.iter().any(|line| line.contains("  Drop  ")), "{tables:?}");
    let at = FUSION.find("fusion trace (1 op, 1 block)").unwrap();
    let table: String = FUSION[at..].split_inclusive('\n').take(4).collect();
    let alone = |operation: &str| read(&[(ArtefactForm::BurnFusionLog, &table.replace("Float::Random", operation))]);
    assert_eq!(alone("Float::Random").unwrap().violations(), [Violation::Unfused { operations: 1, of: 1 }]);
    assert!(alone("Drop").is_err(), "nothing ran");
}

#[test]
fn the_records_of_kernels_and_tunings_show_what_was_built() {
    let built = read(&[(ArtefactForm::CubeclCompilations, COMPILATIONS)]).unwrap();
    assert_eq!((built.level(), built.violations()), (Level::Placed, &[][..]), "built is not run");
    // Two of four tried one candidate only: those left out are listed too, with no time.
    let tuned = read(&[(ArtefactForm::CubeclTunings, TUNINGS)]).unwrap();
    assert_eq!((tuned.level(), tuned.violations()), (Level::Placed, &[][..]));
    let (_, without_products) = TUNINGS.split_once('\n').unwrap();
    let tuned = read(&[(ArtefactForm::CubeclTunings, without_products)]).unwrap();
    assert_eq!(tuned.violations(), [Violation::ShortCircuits { tunings: 2, of: 3 }]);
    // A third tried several, but of one alone it had a time: that only the decisions say.
    let decided = read(&[(ArtefactForm::CubeclDecisions, DECISIONS)]).unwrap();
    assert_eq!((decided.level(), decided.violations()), (Level::Placed, &[Violation::ShortCircuits { tunings: 3, of: 4 }][..]));
    let products: String = DECISIONS.split_inclusive('\n').take(1).collect();
    assert_eq!(read(&[(ArtefactForm::CubeclDecisions, &products)]).unwrap().violations(), []);
}

#[test]
fn together_they_prove_what_the_best_does_and_keep_each_violation() {
    let all = [
        (ArtefactForm::BurnFusionLog, FUSION),
        (ArtefactForm::CubeclCompilations, COMPILATIONS),
        (ArtefactForm::CubeclDecisions, DECISIONS),
        (ArtefactForm::CubeclTunings, TUNINGS),
    ];
    let seen = read(&all).unwrap();
    assert_eq!((seen.level(), seen.artefacts().len()), (Level::Executed, 4));
    assert_eq!(seen.violations(), [Violation::ShortCircuits { tunings: 3, of: 4 }]);
}

#[test]
fn a_cut_or_edited_fusion_log_is_refused() {
    let log = |text: &str| refusal(ArtefactForm::BurnFusionLog, text);
    let at = FUSION.find("14 ops, 1 block").unwrap();
    let head: usize = FUSION[..at].rfind('\n').unwrap() + 1;
    // Wherever its first fused table is cut at a line, from the title on.
    for lines in 1..17 {
        let cut: String = FUSION[..head].to_owned() + &FUSION[head..].split_inclusive('\n').take(lines).collect::<String>();
        assert!(log(&cut).contains("cut off"), "{lines}: {}", log(&cut));
    }
    let edits = [
        ("(score=2720, 14 ops)", "(score=2720, 15 ops)", "lacks 1 of them and 0 blocks"),
        ("(score=2720, 14 ops)", "(score=2720, 13 ops)", "an operation in no block"),
        ("fusion trace (14 ops, 1 block)", "fusion trace (14 ops, 2 blocks)", "lacks 0 of them and 1 blocks"),
        ("fusion trace (14 ops, 1 block)", "fusion trace (14, 1)", "a table without a size"),
        ("fusion trace (14 ops, 1 block)\n", "", "a block outside of a table"),
        ("\n5   ", "\n6   ", "not operation 5 of a table of 14"),
        ("un-fused (1 op)", "un-fused", "a block that does not fit its table"),
    ];
    for (from, to, why) in edits {
        let edited = FUSION.replacen(from, to, 1);
        assert!(edited != FUSION && log(&edited).contains(why), "{from}: {}", log(&edited));
    }
}

#[test]
fn cut_or_edited_records_of_kernels_and_tunings_are_refused() {
    let all = [
        (ArtefactForm::CubeclCompilations, COMPILATIONS),
        (ArtefactForm::CubeclDecisions, DECISIONS),
        (ArtefactForm::CubeclTunings, TUNINGS),
    ];
    for (form, text) in all {
        let lines: Vec<_> = text.lines().collect();
        let cut = &text[..text.len() - 100];
        assert!(refusal(form, cut).contains(&format!("line {}: EOF", lines.len())), "{}", refusal(form, cut));
        // With `append = false` each tuner's logger begins at the head of the file, over what is there.
        let (long, short) = if lines[0].len() > lines[1].len() { (lines[0], lines[1]) } else { (lines[1], lines[0]) };
        let over = format!("{short}\n{}", &long[short.len() + 1..]);
        assert!(refusal(form, &over).contains("line 2: "), "{}", refusal(form, &over));
    }
    for (form, text) in [all[0], all[2]] {
        let lines: Vec<_> = text.lines().collect();
        for order in [[1, 0], [0, 0]] {
            let edited = order.map(|i| lines[i]).join("\n");
            assert!(refusal(form, &edited).contains("line 2: its stamp does not follow"), "{}", refusal(form, &edited));
        }
    }
    let edits = [
        (all[1], r#""fastest_index":5"#, r#""fastest_index":6"#, "candidate 6 won without a measurement"),
        (all[1], r#""fastest_time":{"secs":0"#, r#""fastest_time":{"secs":1"#, "candidate 5 won without a measurement"),
        (all[2], r#""winner":5"#, r#""winner":0"#, "not of its plan"),
        (all[2], r#""trials":[{"name":"fused_simple_unit""#, r#""trials":[{"name":"another""#, "not of its plan"),
        (all[0], r#""outcome":"Compiled""#, r#""outcome":"Imagined""#, "unknown variant `Imagined`"),
    ];
    for ((form, text), from, to, why) in edits {
        let edited = text.replacen(from, to, 1);
        assert!(edited != text && refusal(form, &edited).contains(why), "{from}: {}", refusal(form, &edited));
    }
}

//! Dashboard and rules name only what the table has: metrics, labels, recorded series.

use phase_metrics::table::{Kind, METRICS, Metric};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").join(name)).expect("it is there in a test")
}

fn dashboard() -> Value {
    serde_json::from_str(&file("grafana.json")).expect("it is there in a test")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().expect("it is there in a test").iter().collect()
}

/// Every query with where it stands.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut all = Vec::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("it is there in a test");
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((title.to_owned(), target["expr"].as_str().expect("it is there in a test").to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("it is there in a test") {
        if let Some(query) = variable["query"]["query"].as_str() {
            all.push((format!("variable {}", variable["name"]), query.to_owned()));
        }
    }
    all.extend(rules().into_iter().map(|(name, expr)| (format!("rule {name}"), expr)));
    all
}

/// Recorded series and alerts with their expressions: enough of YAML for the file we have.
fn rules() -> Vec<(String, String)> {
    let text = file("rules.yml");
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut in_expression = false;
    for line in text.lines() {
        let (indent, words) = (line.len() - line.trim_start().len(), line.trim());
        if let Some(name) = words.strip_prefix("- record: ").or_else(|| words.strip_prefix("- alert: ")) {
            rules.push((name.to_owned(), String::new()));
            in_expression = false;
        } else if let Some(expr) = words.strip_prefix("expr: ") {
            in_expression = expr == "|";
            if !in_expression {
                rules.last_mut().expect("it is there in a test").1 = expr.to_owned();
            }
        } else if in_expression && indent >= 10 {
            rules.last_mut().expect("it is there in a test").1 += &format!(" {words}");
        } else {
            in_expression = false;
        }
    }
    assert!(rules.len() > 8 && rules.iter().all(|(_, expr)| !expr.is_empty()), "{rules:?}");
    rules
}

fn words(expr: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    expr.split(|c| !word(c)).filter(|w| ["phase_", "phase:", "gen_ai_server_", "gen_ai_client_"].iter().any(|p| w.starts_with(p))).collect()
}

fn metric(word: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| match word.strip_prefix(m.name) {
        Some("") => m.kind != Kind::Histogram,
        Some("_bucket" | "_sum" | "_count") => m.kind == Kind::Histogram,
        _ => false,
    })
}

/// The expression without what is in quotes.
fn unquoted(expr: &str) -> String {
    expr.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

#[test]
fn every_query_names_metrics_that_exist() {
    let recorded: Vec<String> = rules().into_iter().map(|(name, _)| name).filter(|name| name.contains(':')).collect();
    for (place, expr) in queries() {
        let expr = unquoted(&expr);
        let named = words(&expr);
        assert!(!named.is_empty(), "{place}: `{expr}` names nothing of ours");
        for word in named {
            assert!(metric(word).is_some() || recorded.iter().any(|r| r == word), "{place}: there is no `{word}` in `{expr}`");
        }
    }
}

#[test]
fn every_query_uses_labels_that_its_metrics_have() {
    for (place, expr) in queries().into_iter().filter(|(place, _)| !place.starts_with("variable")) {
        let bare = unquoted(&expr);
        let mut labels: BTreeSet<&str> = ["le", "instance", "job"].into();
        for word in words(&bare) {
            labels.extend(metric(word).map_or(&["backend"][..], |m| m.labels));
        }
        let within = |open: &str, close: char| -> Vec<String> {
            bare.split(open).skip(1).filter_map(|rest| rest.split(close).next()).map(str::to_owned).collect()
        };
        let matched = within("{", '}')
            .into_iter()
            .flat_map(|m| m.split(',').map(|l| l.split(['=', '!']).next().unwrap().trim().to_owned()).collect::<Vec<_>>());
        let grouped = within("by (", ')').into_iter().flat_map(|g| g.split(',').map(|l| l.trim().to_owned()).collect::<Vec<_>>());
        for label in matched.chain(grouped) {
            assert!(labels.contains(label.as_str()), "{place}: no metric in `{expr}` has a label `{label}`");
        }
    }
}

#[test]
fn every_metric_is_shown_somewhere() {
    let all: String = queries().into_iter().map(|(_, expr)| expr + "\n").collect();
    let shown = words(&all);
    // In the text for who looks there; the dashboard shows rates of them or their causes.
    let unshown = [
        "gen_ai_client_token_usage",
        "phase_model_load_seconds_total",
        "phase_policy_created_timestamp_seconds",
        "phase_cell_energy_joules",
        "phase_cell_energy_info",
    ];
    for m in METRICS {
        let here = shown.iter().any(|w| metric(w) == Some(m));
        assert!(here != unshown.contains(&m.name), "{}", m.name);
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_11_reads() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert!(dashboard.get("id").is_none() && dashboard.get("__inputs").is_none(), "an import must not carry another server's ids");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}: beyond the edge");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title}: lies on another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}: says what it shows");
        let references: BTreeSet<&str> = panel["targets"].as_array().unwrap().iter().map(|t| t["refId"].as_str().unwrap()).collect();
        assert_eq!(references.len(), panel["targets"].as_array().unwrap().len(), "{title}: refIds differ");
        assert!(["timeseries", "heatmap", "stat", "table"].contains(&panel["type"].as_str().unwrap()), "{title}");
    }
}

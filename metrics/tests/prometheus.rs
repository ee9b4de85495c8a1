//! A real Prometheus: it checks the rules and the text, scrapes a live application, and answers every query of the dashboard.

#[path = "../examples/live.rs"]
#[expect(dead_code, reason = "it is a whole program")]
mod live;

use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering, mpsc},
    time::Duration,
};

/// The folder with `prometheus` and `promtool`.
fn tools() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what they may use")]
    let folder = std::env::var_os("PHASE_TEST_PROMETHEUS");
    if folder.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: PHASE_TEST_PROMETHEUS names no folder with prometheus and promtool; `cargo xtask test` does"
        );
    }
    folder.map(PathBuf::from)
}

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").canonicalize().expect("it is there in a test")
}

/// A live application on a free port; it ends when this is dropped.
struct Application {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Application {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, address) = mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            live::run("127.0.0.1:0", &stopped, |server| told.send(server.address()).expect("it is there in a test"))
                .expect("it is there in a test");
        });
        Self { address: address.recv().expect("it is there in a test"), stop, thread: Some(thread) }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A child that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of an answer. HTTP/1.0, so that it comes in one piece.
fn get(address: SocketAddr, target: &str, accept: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split("\r\n").next()?.contains(" 200 ").then(|| body.to_owned())
}

fn encoded(query: &str) -> String {
    query.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What the API answers, where it answers with success.
fn api(prometheus: SocketAddr, target: &str) -> Option<Value> {
    let answer: Value = serde_json::from_str(&get(prometheus, target, "application/json")?).ok()?;
    (answer["status"] == "success").then(|| answer["data"].clone())
}

/// Asks again and again until the answer is there, for a minute at most.
fn wait_for<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let (expired, deadline) = mpsc::channel::<()>();
    let give_up = Arc::new(Mutex::new(false));
    let seen = give_up.clone();
    let watch = std::thread::spawn(move || {
        if deadline.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            *seen.lock().expect("it is there in a test") = true;
        }
    });
    loop {
        if let Some(answer) = ask() {
            drop(expired);
            watch.join().expect("it is there in a test");
            return answer;
        }
        assert!(!*give_up.lock().expect("it is there in a test"), "{what}: not within a minute");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn promtool(folder: &Path, arguments: &[&str], input: &str) {
    let mut child = Command::new(folder.join("promtool"))
        .args(arguments)
        .current_dir(dashboards())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("it is there in a test").write_all(input.as_bytes()).expect("it is there in a test");
    let out = child.wait_with_output().expect("it is there in a test");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn promtool_finds_nothing_wrong_with_rules_and_text() {
    let Some(folder) = tools() else { return };
    promtool(&folder, &["check", "rules", "rules.yml"], "");
    promtool(&folder, &["test", "rules", "rules_test.yml"], "");
    promtool(&folder, &["check", "config", "prometheus.yml"], "");
    let application = Application::start();
    let text = wait_for("a request in the text", || {
        get(application.address, "/metrics", "text/plain").filter(|t| t.contains("gen_ai_server_time_per_output_token_seconds_count"))
    });
    promtool(&folder, &["check", "metrics"], &text);
}

/// Queries that have no answer here, and why.
const EMPTY: [&str; 7] = [
    // On a busy machine slow calls come in runs, and a handful of runs bounds no tail.
    "phase_ledger_p95_requests_total",
    // No sensor.
    "phase_energy_joules_total",
    "phase_energy_low_joules_total",
    "phase_energy_high_joules_total",
    // A simulated model compiles nothing.
    "phase_evidence_record_bytes",
    // Nothing changed, and nothing was lost.
    "phase_policy_changed_fields",
    "phase_requests_unmatched_total",
];

#[test]
fn prometheus_scrapes_a_live_application_and_answers_the_dashboard() {
    let Some(folder) = tools() else { return };
    let application = Application::start();
    let place = tempfile::tempdir().unwrap();
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files:\n  - {}\nscrape_configs:\n  - job_name: phase\n    static_configs:\n      - \
         targets: [\"{}\"]\n",
        dashboards().join("rules.yml").display(),
        application.address
    );
    std::fs::write(place.path().join("prometheus.yml"), config).unwrap();
    // Prometheus does not tell which port it got, so that a free one is found for it.
    let prometheus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = std::fs::File::create(place.path().join("log")).unwrap();
    let _child = Killed(
        Command::new(folder.join("prometheus"))
            .arg(format!("--config.file={}", place.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", place.path().join("data").display()))
            .arg(format!("--web.listen-address={prometheus}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts"),
    );
    wait_for("Prometheus is ready", || get(prometheus, "/-/ready", "*/*"));
    wait_for("the application is up", || {
        let targets = api(prometheus, "/api/v1/targets")?;
        (targets["activeTargets"][0]["health"] == "up").then_some(())
    });
    let query = |expr: &str| -> Option<Vec<Value>> {
        let data = api(prometheus, &format!("/api/v1/query?query={}", encoded(expr)))?;
        data["result"].as_array().cloned()
    };
    // Rates need two scrapes; recorded series two more evaluations.
    wait_for("rates", || query("phase:decode_fraction:5m").filter(|r| r.len() == 2));

    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(dashboards().join("grafana.json")).unwrap()).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap().replace("$backend", ".*").replace("$__rate_interval", "1m");
            let what = format!("{}: `{expr}`", panel["title"]);
            let answer = wait_for(&what, || {
                let answer = query(&expr)?;
                let may_be_empty = EMPTY.iter().any(|m| expr.contains(m)) || expr.ends_with("> 0");
                (may_be_empty || !answer.is_empty()).then_some(answer)
            });
            asked += 1;
            assert!(answer.iter().all(|series| series["value"][1] != "NaN" || expr.contains("quantile")), "{what}: {answer:?}");
        }
    }
    assert!(asked > 30, "{asked} queries");

    let rules = wait_for("the rules were evaluated", || {
        let rules: Vec<Value> = api(prometheus, "/api/v1/rules")?["groups"]
            .as_array()?
            .iter()
            .flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        rules.iter().all(|r| r["health"] != "unknown").then_some(rules)
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let state = |name: &str| rules.iter().find(|r| r["name"] == name).unwrap()["state"].clone();
    assert_eq!(state("PhasePolicyInvalid"), "inactive");
    // Prometheus asked for OpenMetrics, and read the units.
    let metadata = api(prometheus, "/api/v1/metadata?metric=phase_model_load_seconds").unwrap();
    assert_eq!(metadata["phase_model_load_seconds"][0]["unit"], "seconds", "{metadata}");
}

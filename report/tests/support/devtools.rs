//! A real browser, spoken to by its own protocol (Chrome `DevTools` Protocol) over a socket: what is pointed at, tapped, logged,
//! asked of the network and painted is the browser's own account.

use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A headless Chromium with a profile of its own, and one page in it.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    stream: TcpStream,
    next: u64,
    session: Option<String>,
    /// What it told without being asked.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start(program: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--hide-scrollbars", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a browser");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("DevTools listening on ws://")?.1.to_owned())).expect("an address");
        // A browser whose words nobody takes would stand still when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let (host, path) = address.split_once('/').expect("a path");
        let mut stream = TcpStream::connect(host).expect("its port");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
        let hello = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        );
        stream.write_all(hello.as_bytes()).expect("it listens");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it answers");
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut browser = Self { child, stream, next: 0, session: None, events: Vec::new(), _profile: profile };
        browser.page();
        browser
    }

    /// A fresh page, to which everything goes from here on.
    pub(crate) fn page(&mut self) {
        self.session = None;
        let target = self.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = self.ask("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.ask(&format!("{domain}.enable"), json!({}));
        }
    }

    /// Opens a file and waits until it is loaded.
    pub(crate) fn open(&mut self, file: &Path) {
        self.events.clear();
        self.ask("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        while !self.events.iter().any(|e| e["method"] == "Page.loadEventFired") {
            let event = self.receive();
            self.events.push(event);
        }
    }

    /// A window of this width, as of a phone where it is narrow.
    pub(crate) fn size(&mut self, width: u32) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `print` or `screen`.
    pub(crate) fn medium(&mut self, medium: &str) {
        self.ask("Emulation.setEmulatedMedia", json!({ "media": medium }));
    }

    /// What an expression gives in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Where the middle of the first match is, once it is in sight.
    fn place(&mut self, query: &str) -> [f64; 2] {
        let at = format!(
            "(() => {{ const e = document.querySelector({q}); e.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            q = json!(query)
        );
        let place = self.eval(&at);
        [0, 1].map(|i| place[i].as_f64().expect("a place"))
    }

    /// Moves the pointer there.
    pub(crate) fn point_at(&mut self, query: &str) {
        let [x, y] = self.place(query);
        self.ask("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }));
    }

    /// Moves the pointer to the margin, where nothing moves under it when the page scrolls: browsers point again then.
    pub(crate) fn point_aside(&mut self) {
        self.ask("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": 2, "y": 450 }));
    }

    /// Presses and lets go.
    pub(crate) fn click(&mut self, query: &str) {
        let [x, y] = self.place(query);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            self.ask("Input.dispatchMouseEvent", json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": 1 }));
        }
    }

    /// As a finger does.
    pub(crate) fn tap(&mut self, query: &str) {
        let [x, y] = self.place(query);
        self.ask("Input.synthesizeTapGesture", json!({ "x": x, "y": y, "gestureSourceType": "touch" }));
    }

    /// The length of the page as a PDF, in base64.
    pub(crate) fn print(&mut self) -> usize {
        let pdf = self.ask("Page.printToPDF", json!({ "printBackground": false, "preferCSSPageSize": true }));
        let data = pdf["data"].as_str().expect("a PDF");
        // `%PDF-` in base64.
        assert!(data.starts_with("JVBERi"), "{}", data.get(..40).unwrap_or_default());
        data.len()
    }

    /// Errors, warnings and uncaught exceptions since the page was opened, and every request but the one for it.
    pub(crate) fn complaints(&self) -> String {
        let mut out = String::new();
        for event in &self.events {
            let (method, what) = (event["method"].as_str().unwrap_or_default(), &event["params"]);
            let wrong = match method {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => matches!(what["type"].as_str(), Some("error" | "warning" | "assert")),
                "Log.entryAdded" => matches!(what["entry"]["level"].as_str(), Some("error" | "warning")),
                "Network.requestWillBeSent" => what["type"] != "Document",
                _ => false,
            };
            if wrong {
                let _ = writeln!(out, "{method}: {what}");
            }
        }
        out
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.send(message.to_string().as_bytes());
        loop {
            let answer = self.receive();
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// One text frame; a client masks what it sends, here with zeros.
    fn send(&mut self, text: &[u8]) {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()) {
            Ok(n) if n < 126 => frame.push(0x80 | n.to_be_bytes()[1]),
            Ok(n) => {
                frame.push(0x80 | 126);
                frame.extend(n.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text);
        self.stream.write_all(&frame).expect("it listens");
    }

    /// One whole message.
    fn receive(&mut self) -> Value {
        let mut text = Vec::new();
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).expect("it answers in two minutes");
            let length = match head[1] & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.bytes())),
                127 => u64::from_be_bytes(self.bytes()),
                n => u64::from(n),
            };
            let mut part = vec![0; usize::try_from(length).expect("a length")];
            self.stream.read_exact(&mut part).expect("it goes on");
            // Pings and closings are no part of a message.
            if head[0] & 0x08 != 0 {
                continue;
            }
            text.extend(part);
            if head[0] & 0x80 != 0 {
                return serde_json::from_slice(&text).expect("JSON");
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("it goes on");
        bytes
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may be gone already; a browser that stays would keep its profile's folder.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser to use: named by `PHASE_TEST_CHROMIUM`, or found on the path.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test is told its tools, and says what it lacks")]
pub(crate) fn chromium() -> Option<String> {
    let works = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if let Ok(named) = std::env::var("PHASE_TEST_CHROMIUM") {
        assert!(works(&named), "PHASE_TEST_CHROMIUM names {named}, which does not run");
        return Some(named);
    }
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| works(name));
    if found.is_none() {
        println!("skipped: no Chromium is here (install Debian's package `chromium`, or name one in PHASE_TEST_CHROMIUM)");
    }
    found.map(str::to_owned)
}

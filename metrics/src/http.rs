//! As much of HTTP/1.1 as a scrape needs: one request, one answer, the connection closed.

use crate::TextFormat;
use std::io::{self, Read, Write};

/// The longest request head that is read.
pub(crate) const MOST_HEAD: usize = 8 * 1024;

/// A request head, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Good {
        method: String,
        path: String,
        accept: String,
    },
    Malformed(&'static str),
    TooLong,
    /// The client left, or was too slow.
    Gone,
}

/// Reads up to the empty line. `go_on` is asked before every further read.
pub(crate) fn read_head(stream: &mut impl Read, mut go_on: impl FnMut() -> bool) -> Head {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = find(&head, b"\r\n\r\n") {
            return parse(&head[..end]);
        }
        if head.len() > MOST_HEAD {
            return Head::TooLong;
        }
        if !go_on() {
            return Head::Gone;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return Head::Gone,
            Ok(n) => head.extend_from_slice(&chunk[..n]),
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn parse(head: &[u8]) -> Head {
    let Ok(text) = std::str::from_utf8(head) else { return Head::Malformed("the head is not UTF-8") };
    let mut lines = text.split("\r\n");
    let parts: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = parts[..] else { return Head::Malformed("the first line is not `METHOD TARGET VERSION`") };
    if !version.starts_with("HTTP/1.") {
        return Head::Malformed("only HTTP/1 is spoken here");
    }
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) || !target.starts_with('/') {
        return Head::Malformed("the method or the target is none");
    }
    let mut accept = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Head::Malformed("a header without a colon") };
        if name.eq_ignore_ascii_case("accept") {
            accept.push(value.trim());
        }
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    Head::Good { method: method.to_owned(), path, accept: accept.join(",") }
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: &'static str,
    content_type: &'static str,
    more: &'static str,
    body: String,
    /// `HEAD` gets everything but the body.
    bodiless: bool,
}

impl Answer {
    pub(crate) fn plain(status: &'static str, body: impl Into<String>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, more: "", body: body.into(), bodiless: false }
    }

    /// The answer to `head`; `metrics` is asked for the text when it is what is wanted.
    pub(crate) fn to(head: Head, metrics: impl FnOnce(TextFormat) -> String) -> Option<Self> {
        let (method, path, accept) = match head {
            Head::Good { method, path, accept } => (method, path, accept),
            Head::Malformed(why) => return Some(Self::plain("400 Bad Request", format!("{why}\n"))),
            Head::TooLong => return Some(Self::plain("431 Request Header Fields Too Large", "the head is too long\n")),
            Head::Gone => return None,
        };
        if !matches!(path.as_str(), "/metrics" | "/healthz") {
            return Some(Self::plain("404 Not Found", "there are /metrics and /healthz\n"));
        }
        if !matches!(method.as_str(), "GET" | "HEAD") {
            let more = "Allow: GET, HEAD\r\n";
            return Some(Self { more, ..Self::plain("405 Method Not Allowed", "only GET and HEAD\n") });
        }
        let bodiless = method == "HEAD";
        if path == "/healthz" {
            return Some(Self { bodiless, ..Self::plain("200 OK", "ok\n") });
        }
        let format = TextFormat::accepted(&accept);
        Some(Self { status: "200 OK", content_type: format.content_type(), more: "Vary: Accept\r\n", body: metrics(format), bodiless })
    }

    pub(crate) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let Self { status, content_type, more, body, bodiless } = self;
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        if !bodiless {
            stream.write_all(body.as_bytes())?;
        }
        stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str) -> Option<String> {
        let head = read_head(&mut request.as_bytes(), || true);
        let mut out = Vec::new();
        Answer::to(head, |format| format!("{format:?}\n"))?.write(&mut out).unwrap();
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_request_has_its_answer() {
        for (request, begins, ends) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4",
                "\r\n\r\nPrometheus\n",
            ),
            ("GET /metrics?x=1 HTTP/1.0\r\nACCEPT: application/openmetrics-text;q=1\r\n\r\n", "HTTP/1.1 200", "\r\n\r\nOpenMetrics\n"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200", "Connection: close\r\n\r\n"),
            ("GET /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 200", "\r\n\r\nok\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405", "only GET and HEAD\n"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404", "/healthz\n"),
            ("GET /metrics\r\n\r\n", "HTTP/1.1 400", "VERSION`\n"),
            ("GET /metrics HTTP/2\r\n\r\n", "HTTP/1.1 400", "spoken here\n"),
            ("get /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 400", "is none\n"),
            ("GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400", "colon\n"),
            ("\r\n\r\n", "HTTP/1.1 400", "VERSION`\n"),
        ] {
            let text = answer(request).unwrap();
            assert!(text.starts_with(begins) && text.ends_with(ends), "{request:?} got {text:?}");
        }
        assert!(answer("POST /metrics HTTP/1.1\r\n\r\n").unwrap().contains("\r\nAllow: GET, HEAD\r\n"));
        assert_eq!(answer("GET /metrics HTTP/1.1\r\n"), None, "cut short");
        assert!(answer(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MOST_HEAD * 2))).unwrap().starts_with("HTTP/1.1 431"));
        let garbage = read_head(&mut &b"\xff\xfe / HTTP/1.1\r\n\r\n"[..], || true);
        assert_eq!(garbage, Head::Malformed("the head is not UTF-8"));
    }

    #[test]
    fn a_reader_that_is_told_to_stop_stops() {
        assert_eq!(read_head(&mut "GET /metrics".as_bytes(), || false), Head::Gone);
    }
}

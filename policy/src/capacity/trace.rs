//! Request traces: who asked for how much, and when.

use crate::{
    Workload,
    cost::day,
    stats::{Ordered, needed_for_quantile, real, real_size},
};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Arrival {
    /// Seconds since the first request of the trace.
    pub at_s: f64,
    /// What it asked for.
    pub workload: Workload,
}

/// Requests in the order of their arrival.
///
/// ```
/// use phase_policy::capacity::Trace;
/// let burst_gpt = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
/// 5,ChatGPT,472,18,490,Conversation log
/// 45,ChatGPT,1087,230,1317,Conversation log
/// 118,GPT-4,417,0,417,Conversation log
/// ";
/// let trace = Trace::parse(burst_gpt)?;
/// assert_eq!((trace.arrivals().len(), trace.unanswered()), (2, 1));
/// assert_eq!(trace.arrivals()[1].at_s, 40.0);
/// # Ok::<(), phase_policy::capacity::TraceError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    arrivals: Vec<Arrival>,
    unanswered: usize,
}

/// Most tokens of one request that are believed.
const MOST_TOKENS: usize = 10_000_000;

/// Column names, lower case and without separators, of the three forms that are known.
const TIME: [&str; 3] = ["arrivals", "timestamp", "time"];
const PROMPT: [&str; 4] = ["prompttokens", "requesttokens", "contexttokens", "inputtokens"];
const NEW: [&str; 4] = ["newtokens", "responsetokens", "generatedtokens", "outputtokens"];
const BATCH: [&str; 1] = ["batch"];

impl Trace {
    /// Reads comma-separated values with a header: `arrival_s,prompt_tokens,new_tokens[,batch]`; the columns of `BurstGPT`
    /// (`Timestamp`, `Request tokens`, `Response tokens`); or those of Azure's traces (`TIMESTAMP`, `ContextTokens`,
    /// `GeneratedTokens`). Times are seconds, or dates of the form `2023-11-16 18:15:46.68` in one time zone. Other columns
    /// are ignored. A response of no tokens is a request that failed, as `BurstGPT` defines it: it is counted and left out.
    ///
    /// # Errors
    /// By line: a missing column, a field that is no number, a time before the one above it, or more tokens than anybody
    /// asks for; and a trace without a request.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| TraceError::Line { line: 1, problem: e.to_string() })?.clone();
        let [time, prompt, new] = [("time", &TIME[..]), ("prompt tokens", &PROMPT), ("new tokens", &NEW)]
            .map(|(what, names)| column(&header, names).ok_or(TraceError::Column { what, known: names }));
        let (time, prompt, new, batch) = (time?, prompt?, new?, column(&header, &BATCH));
        let (mut arrivals, mut unanswered, mut first, mut before) = (Vec::new(), 0, None, f64::NEG_INFINITY);
        for record in reader.records() {
            let record = record.map_err(|e| {
                let line = e.position().map_or(0, csv::Position::line);
                TraceError::Line { line, problem: e.to_string() }
            })?;
            let line = record.position().map_or(0, csv::Position::line);
            let wrong = |problem: String| TraceError::Line { line, problem };
            let field = |index: usize| record.get(index).unwrap_or_default();
            let seconds = seconds(field(time)).ok_or_else(|| wrong(format!("`{}` is no time", field(time))))?;
            let tokens = |index: usize| match field(index).parse::<usize>() {
                Ok(n) if n <= MOST_TOKENS => Ok(n),
                Ok(n) => Err(wrong(format!("{n} tokens are more than the {MOST_TOKENS} that are believed"))),
                Err(_) => Err(wrong(format!("`{}` is no number of tokens", field(index)))),
            };
            let workload = Workload::new(batch.map_or(Ok(1), tokens)?, tokens(prompt)?, tokens(new)?);
            if workload.prompt_tokens == 0 || workload.batch == 0 {
                return Err(wrong("a request without a prompt or without sequences".to_owned()));
            }
            if seconds < before {
                return Err(TraceError::OutOfOrder { line, at_s: seconds, before_s: before });
            }
            before = seconds;
            let first = *first.get_or_insert(seconds);
            if workload.new_tokens == 0 {
                unanswered += 1;
            } else {
                arrivals.push(Arrival { at_s: seconds - first, workload });
            }
        }
        if arrivals.is_empty() { Err(TraceError::NoRequests { unanswered }) } else { Ok(Self { arrivals, unanswered }) }
    }

    /// The requests, in order.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// Requests that got no answer: not in [`arrivals`](Self::arrivals).
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Seconds from the first to the last arrival.
    pub fn span_s(&self) -> f64 {
        match (self.arrivals.first(), self.arrivals.last()) {
            (Some(first), Some(last)) => last.at_s - first.at_s,
            _ => 0.0,
        }
    }

    /// Mean rate: gaps over span. `None` when all came at once.
    pub fn requests_per_s(&self) -> Option<f64> {
        let rate = real_size(self.arrivals.len() - 1) / self.span_s();
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }

    /// Requests in each whole window of `width_s` seconds; those after the last whole window are left out. Empty when the
    /// trace is shorter than one window, or for a width that is not positive.
    pub fn counts(&self, width_s: f64) -> Vec<u64> {
        let start = self.arrivals.first().map_or(0.0, |a| a.at_s);
        let windows = (self.span_s() / width_s).floor();
        if !(width_s > 0.0 && (1.0..=MOST_WINDOWS).contains(&windows)) {
            return Vec::new();
        }
        let index = |a: &Arrival| (a.at_s - start) / width_s;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and bounded above")]
        let mut counts = vec![0; windows as usize];
        for arrival in &self.arrivals {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and bounded above")]
            let index = index(arrival) as usize;
            if let Some(count) = counts.get_mut(index) {
                *count += 1;
            }
        }
        counts
    }

    /// Rate of the busiest window of `width_s`: the 99% upper bound of a Poisson mean of which that many were seen. The
    /// whole trace where it is shorter than a window.
    pub fn peak_per_s(&self, width_s: f64) -> Option<f64> {
        match self.counts(width_s).into_iter().max() {
            Some(most) => Some(poisson_upper(most) / width_s),
            None => self.requests_per_s().map(|_| poisson_upper(self.arrivals.len() as u64) / self.span_s()),
        }
    }

    /// Burst factor: the `p`-quantile of the load of windows of `width_s` over the mean load. `None` below as many windows
    /// as a bound of that quantile takes (90 for p95, 459 for p99).
    pub fn burst(&self, width_s: f64, p: f64) -> Option<f64> {
        let counts = self.counts(width_s);
        if counts.len() < needed_for_quantile(p)? {
            return None;
        }
        let mean = real(counts.iter().sum()) / real_size(counts.len());
        let high = Ordered::new(counts.iter().map(|n| real(*n)))?.quantile(p)?;
        (mean > 0.0).then(|| (high / mean).max(1.0))
    }

    /// Variability of arrivals: the largest index of dispersion of counts (variance over mean) in windows of 1, 4 and 16
    /// service times, at least 1. `None` where no such window occurs ten times.
    pub fn dispersion(&self, service_s: f64) -> Option<f64> {
        let index = |width: f64| {
            let counts = self.counts(width);
            let n = real_size(counts.len());
            let mean = real(counts.iter().sum()) / n;
            let variance = counts.iter().map(|c| (real(*c) - mean).powi(2)).sum::<f64>() / (n - 1.0);
            (counts.len() >= 10 && mean > 0.0).then_some(variance / mean)
        };
        [1.0, 4.0, 16.0].into_iter().filter_map(|times| index(times * service_s)).reduce(f64::max).map(|d| d.max(1.0))
    }
}

/// More windows than this are no statistics but a denial of service.
const MOST_WINDOWS: f64 = 5e7;

/// 99% upper bound of the mean of a Poisson count. Source: Wilson and Hilferty's cube-root approximation of chi-square.
fn poisson_upper(count: u64) -> f64 {
    const Z: f64 = 2.326_347_9;
    let n = real(count) + 1.0;
    n * (1.0 - 1.0 / (9.0 * n) + Z / (3.0 * n.sqrt())).powi(3)
}

fn column(header: &csv::StringRecord, names: &[&str]) -> Option<usize> {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect::<String>();
    header.iter().position(|field| names.contains(&plain(field).as_str()))
}

/// Seconds as a number, or of a date.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut parts = time.splitn(3, ':');
    let mut number = |below: f64| parts.next()?.parse::<f64>().ok().filter(|v| (0.0..below).contains(v));
    let (hours, minutes, rest) = (number(24.0)?, number(60.0)?, number(61.0)?);
    let days = real(u64::try_from(day(date)?).ok()?);
    Some(days * 86_400.0 + hours * 3600.0 + minutes * 60.0 + rest)
}

/// A trace that can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The header names no such column.
    #[error("the header has no column for the {what}: one of {}, whatever their case and separators", .known.join(", "))]
    Column {
        /// What is missing.
        what: &'static str,
        /// The names known for it.
        known: &'static [&'static str],
    },
    /// A line that can't be read.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing in it.
    #[error("{}", if *.unanswered == 0 { "it has no request".to_owned() } else { format!("none of its {unanswered} requests was answered") })]
    NoRequests {
        /// Requests without an answer.
        unanswered: usize,
    },
    /// A request before the one above it: sort the trace by time first.
    #[error("line {line}: {at_s} s comes before the {before_s} s above it; sort the trace by time")]
    OutOfOrder {
        /// Its number, from 1.
        line: u64,
        /// Its time.
        at_s: f64,
        /// The time above it.
        before_s: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn evenly(n: usize, gap: f64) -> Trace {
        let arrival = |i| Arrival { at_s: real_size(i) * gap, workload: Workload::new(1, 8, 8) };
        Trace { arrivals: (0..n).map(arrival).collect(), unanswered: 0 }
    }

    #[test]
    fn three_forms_are_read() {
        let own = Trace::parse("arrival_s, prompt_tokens, new_tokens, batch\n0.5, 8, 4, 2\n0.75, 9, 5, 1\n").unwrap();
        assert_eq!(own.arrivals()[1], Arrival { at_s: 0.25, workload: Workload::new(1, 9, 5) });
        assert_eq!(own.arrivals()[0].workload.batch, 2);
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.5,374,44\n2023-11-17T00:00:01Z,396,109\n";
        let azure = Trace::parse(azure).unwrap();
        assert_eq!((azure.arrivals()[1].at_s, azure.arrivals()[1].workload), (1.5, Workload::new(1, 396, 109)));
    }

    #[test]
    fn a_bad_line_is_named() {
        let of = |lines: &str| Trace::parse(&format!("timestamp,request tokens,response tokens\n{lines}")).unwrap_err();
        assert_eq!(of("3,1,1\n2,1,1\n"), TraceError::OutOfOrder { line: 3, at_s: 2.0, before_s: 3.0 });
        assert_eq!(of("3,1,0\n"), TraceError::NoRequests { unanswered: 1 });
        assert_eq!(of(""), TraceError::NoRequests { unanswered: 0 });
        for (lines, wanted) in [
            ("soon,1,1", "line 2: `soon` is no time"),
            ("NaN,1,1", "`NaN` is no time"),
            ("2025-13-01 00:00:00,1,1", "is no time"),
            ("2025-12-01 24:00:00,1,1", "is no time"),
            ("1,-1,1", "`-1` is no number of tokens"),
            ("1,1.5,1", "`1.5` is no number"),
            ("1,0,1", "without a prompt"),
            ("1,99999999999,1", "more than the"),
            ("1,1", "line 2"),
        ] {
            let error = of(lines).to_string();
            assert!(error.contains(wanted), "{lines}: {error}");
        }
        assert!(matches!(Trace::parse("a,b\n1,2\n"), Err(TraceError::Column { what: "time", .. })));
        assert!(matches!(Trace::parse("time,new tokens\n1,2\n"), Err(TraceError::Column { what: "prompt tokens", .. })));
    }

    #[test]
    fn load_is_counted_in_windows() {
        let steady = evenly(10_001, 0.1);
        assert!((steady.requests_per_s().unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(steady.counts(100.0).len(), 10);
        assert!((steady.peak_per_s(300.0).unwrap() - 10.0).abs() < 0.6, "the upper bound of 3,000 in 300 s");
        assert_eq!(steady.dispersion(1.0), Some(1.0), "more regular than Poisson counts as Poisson");
        assert_eq!((steady.burst(10.0, 0.95), steady.burst(100.0, 0.95)), (Some(1.0), None));
        assert_eq!((steady.counts(0.0), steady.counts(f64::NAN), steady.counts(1e9)), (vec![], vec![], vec![]));
        let at_once = Trace { arrivals: vec![evenly(1, 1.0).arrivals[0]; 5], unanswered: 0 };
        assert_eq!((at_once.requests_per_s(), at_once.peak_per_s(300.0), at_once.dispersion(1.0)), (None, None, None));
    }

    #[test]
    fn bursts_are_seen() {
        // Ten requests within 10 ms at the start of every tenth second.
        let arrivals =
            (0..1000).map(|i| Arrival { at_s: f64::from(i / 10 * 10) + f64::from(i % 10) * 1e-3, workload: Workload::new(1, 8, 8) });
        let trace = Trace { arrivals: arrivals.collect(), unanswered: 0 };
        assert!(trace.dispersion(0.1).unwrap() > 5.0);
        assert_eq!(trace.burst(1.0, 0.95), Some(10.0));
    }

    #[test]
    fn the_poisson_bound_matches_the_exact_one() {
        // Half the 0.99 quantile of chi-square with 2 (n + 1) degrees of freedom.
        for (n, exact) in [(0, 4.605), (1, 6.638), (10, 20.145), (100, 126.0)] {
            assert!((poisson_upper(n) / exact - 1.0).abs() < 0.03, "{n}: {}", poisson_upper(n));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(timestamp,request tokens,response tokens\n)?([0-9a-zNn.,:\" -]{0,24}\n){0,6}") {
            if let Ok(trace) = Trace::parse(&text) {
                prop_assert!(trace.arrivals().windows(2).all(|w| w[0].at_s <= w[1].at_s));
                prop_assert!(trace.requests_per_s().is_none_or(f64::is_finite));
            }
        }
    }
}

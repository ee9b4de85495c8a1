//! The template environment that transformers gives to chat templates.

use std::io;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value,
    value::{Kwargs, ViaDeserialize},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

pub(super) fn environment(name: &'static str, source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(name, without_generation_tags(source))?;
    Ok(environment)
}

pub(super) fn add_date(environment: &mut Environment<'static>, unix_seconds: i64) {
    environment.add_function("strftime_now", move |format: String| strftime(&format, unix_seconds));
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `{% generation %}` marks training targets and renders as nothing, as an always true condition does.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let inner = &rest[start + 2..start + len];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&replacement.map_or_else(|| inner.to_owned(), |new| inner.replace(word, new)));
        out.push_str("%}");
        rest = &rest[start + len + 2..];
    }
    out + rest
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(ViaDeserialize(value): ViaDeserialize<serde_json::Value>, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(indent.as_bytes())))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// One line with a space after commas and colons.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, seconds) = (unix_seconds.div_euclid(86_400), unix_seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let month_name = usize::try_from(month - 1).map_or("", |m| MONTHS[m]);
    let day_name = usize::try_from(days.rem_euclid(7)).map_or("", |d| DAYS[d]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year.rem_euclid(100))),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('H') => out.push_str(&format!("{:02}", seconds / 3600)),
            Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
            Some('%') => out.push('%'),
            other => {
                let shown = other.map_or_else(String::new, String::from);
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{shown}")));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
const fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gregorian() {
        assert_eq!(strftime("%d %b %Y", 0).unwrap(), "01 Jan 1970");
        assert_eq!(strftime("%A %Y-%m-%d %H:%M:%S", 1_709_210_096).unwrap(), "Thursday 2024-02-29 12:34:56");
        assert!(strftime("%Q", 0).is_err());
    }

    #[test]
    fn json_is_spaced_as_python_does() {
        let environment = environment("t", "{{ x | tojson }}|{{ x | tojson(indent=2) }}").unwrap();
        let x = serde_json::json!({"b": [1, "é<"], "a": {}});
        let text = environment.get_template("t").unwrap().render(minijinja::context! { x }).unwrap();
        assert_eq!(text, "{\"b\": [1, \"é<\"], \"a\": {}}|{\n  \"b\": [\n    1,\n    \"é<\"\n  ],\n  \"a\": {}\n}");
    }

    #[test]
    fn generation_tags_render_as_nothing() {
        let environment = environment("t", "a {%- generation -%} b {%- endgeneration %} c").unwrap();
        assert_eq!(environment.get_template("t").unwrap().render(()).unwrap(), "ab c");
    }

    #[test]
    fn templates_can_refuse() {
        let environment = environment("t", "{{ raise_exception('roles must alternate') }}").unwrap();
        let error = environment.get_template("t").unwrap().render(()).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"));
    }
}

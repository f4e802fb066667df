//! A query for a log to what it asks for, as the kubelet reads it. The parameters are those of
//! `PodLogOptions`.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::runtime::{LogRequest, Refusal, Source};

/// What a query asks for of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The part of it that the runtime answers.
    pub request: LogRequest,
    /// The most bytes of the whole answer.
    pub limit_bytes: Option<u64>,
}

/// A query that cannot be followed, with the parameter that is the reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadOption {
    /// A value is nothing of its kind.
    #[error("{name}={value:?} is not {kind}")]
    Undecodable { name: &'static str, value: String, kind: &'static str },
    /// A value is out of its range.
    #[error("{name} {why}")]
    Invalid { name: &'static str, why: &'static str },
}

impl From<BadOption> for Refusal {
    /// The kubelet says no more to the client; which parameter it was is for the log.
    fn from(bad: BadOption) -> Refusal {
        let (code, text) = match bad {
            BadOption::Undecodable { .. } => (400, r#"{"message": "Unable to decode query."}"#),
            BadOption::Invalid { .. } => (422, r#"{"message": "Invalid request."}"#),
        };
        Refusal { cause: bad.to_string(), ..Refusal::new(code, text) }
    }
}

impl Options {
    /// Reads a query as the kubelet does: the first of several values counts, whatever is not `0`
    /// or `false` is true, and `tail` is an old name of `tailLines`.
    ///
    /// A tail of one output alone, which the kubelet refuses, is none too many here.
    ///
    /// # Errors
    /// [`BadOption`] for a parameter whose value does not fit it.
    pub(crate) fn parse(query: &str) -> Result<Options, BadOption> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let value = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| &*pair.1);
        let set = |name| value(name).is_some_and(|value| !is_false(value));
        let tail = match value("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => number("tail", Some(tail), 0)?,
            None => number("tailLines", value("tailLines"), 0)?,
        };
        let seconds = number("sinceSeconds", value("sinceSeconds"), 1)?;
        let time = value("sinceTime").map(time).transpose()?;
        if seconds.is_some() && time.is_some() {
            let why = "and sinceTime are not asked for together";
            return Err(BadOption::Invalid { name: "sinceSeconds", why });
        }
        #[expect(clippy::disallowed_methods, reason = "a log is asked for by date")]
        let since = seconds.and_then(|ago| SystemTime::now().checked_sub(Duration::from_secs(ago)));
        let request = LogRequest {
            follow: set("follow"),
            tail,
            source: value("stream").map_or(Ok(None), source)?,
            previous: set("previous"),
            timestamps: set("timestamps"),
            since: since.or(time.flatten()),
        };
        Ok(Options { request, limit_bytes: number("limitBytes", value("limitBytes"), 1)? })
    }

    /// Returns whether what was written to this output is wanted.
    pub(crate) fn wants(&self, source: Source) -> bool {
        self.request.source.is_none_or(|wanted| wanted == source)
    }
}

fn is_false(value: &str) -> bool {
    value == "0" || value.eq_ignore_ascii_case("false")
}

/// Reads a whole number that is not less than `least`.
fn number(name: &'static str, value: Option<&str>, least: u8) -> Result<Option<u64>, BadOption> {
    let Some(value) = value else { return Ok(None) };
    let undecodable =
        |_| BadOption::Undecodable { name, value: value.into(), kind: "a whole number" };
    let number: i64 = value.parse().map_err(undecodable)?;
    let number = u64::try_from(number).ok().filter(|number| *number >= u64::from(least));
    let why = if least == 0 { "must not be negative" } else { "must be greater than 0" };
    number.map(Some).ok_or(BadOption::Invalid { name, why })
}

/// Reads a time; `None` is one that is before all others.
fn time(value: &str) -> Result<Option<SystemTime>, BadOption> {
    if matches!(value, "" | "null") {
        return Ok(None);
    }
    let kind = "a time such as 2026-01-31T12:00:00Z";
    let undecodable = |_| BadOption::Undecodable { name: "sinceTime", value: value.into(), kind };
    let time: jiff::Timestamp = value.parse().map_err(undecodable)?;
    Ok(Some(time.into()))
}

fn source(value: &str) -> Result<Option<Source>, BadOption> {
    match value {
        "All" => Ok(None),
        "Stdout" => Ok(Some(Source::Stdout)),
        "Stderr" => Ok(Some(Source::Stderr)),
        _ => Err(BadOption::Invalid { name: "stream", why: "must be All, Stdout or Stderr" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_as_the_kubelet_does() {
        let read = |query| {
            Options::parse(query).map_err(|bad| (Refusal::from(bad.clone()).code, bad.to_string()))
        };
        for (query, code, cause) in [
            ("tailLines=x", 400, "tailLines=\"x\" is not a whole number"),
            ("tailLines=", 400, "tailLines=\"\" is not a whole number"),
            ("tailLines=-1", 422, "tailLines must not be negative"),
            ("tail=-1", 422, "tail must not be negative"),
            ("limitBytes=0", 422, "limitBytes must be greater than 0"),
            (
                "limitBytes=9223372036854775808",
                400,
                "limitBytes=\"9223372036854775808\" is not a whole number",
            ),
            ("sinceSeconds=0", 422, "sinceSeconds must be greater than 0"),
            ("sinceTime=now", 400, "sinceTime=\"now\" is not a time such as 2026-01-31T12:00:00Z"),
            (
                "sinceSeconds=1&sinceTime=2026-01-31T12:00:00Z",
                422,
                "sinceSeconds and sinceTime are not asked for together",
            ),
            ("stream=stdout", 422, "stream must be All, Stdout or Stderr"),
        ] {
            assert_eq!(read(query), Err((code, cause.to_owned())), "{query}");
        }
        let refusal = Refusal::from(Options::parse("tailLines=-1").unwrap_err());
        assert_eq!(refusal.text, r#"{"message": "Invalid request."}"#);
    }

    #[test]
    fn good_values_are_read_as_the_kubelet_does() {
        let request = |query| Options::parse(query).unwrap().request;
        assert_eq!(request(""), LogRequest::default());
        assert_eq!(request("follow=False&timestamps=0&x=y"), LogRequest::default());
        let both = LogRequest { follow: true, previous: true, ..LogRequest::default() };
        assert_eq!(request("follow&follow=0&previous=yes"), both);
        assert_eq!(request("tailLines=3&tailLines=4").tail, Some(3));
        assert_eq!(request("tailLines=3&tail=5").tail, Some(5));
        assert_eq!(request("tailLines=3&tail=all").tail, None);
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(request("sinceTime=1970-01-01T01:00:01.5%2B01:00").since, Some(since));
        assert_eq!(request("sinceTime=null").since, None);
    }
}

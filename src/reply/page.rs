//! How an answer of the gateway's own looks to a client that prefers something else to a problem document: a text with placeholders, in which
//! every value is written so that it stays what it is in that media type.

use crate::plain::all_plain;
use crate::problem::did_you_mean;

use super::{Reply, push_escaped};

/// What stands for a value: `{{ reason }}`.
const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Status,
    Title,
    Detail,
    Policy,
    Reason,
    RequestId,
    /// Seconds. Nothing where there is no `Retry-After`.
    RetryAfter,
    /// The whole problem document.
    Problem,
}

const FIELDS: [(&str, Field); 8] = [
    ("status", Field::Status),
    ("title", Field::Title),
    ("detail", Field::Detail),
    ("policy", Field::Policy),
    ("reason", Field::Reason),
    ("request_id", Field::RequestId),
    ("retry_after", Field::RetryAfter),
    ("problem", Field::Problem),
];

#[derive(Debug)]
enum Piece {
    Text(Box<str>),
    Value(Field),
}

/// How a value is written so that it cannot end what it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Of HTML and XML, for text and for attributes in quotes.
    Markup,
    /// Of JSON, within the quotes of a string. The problem document is no text there, but a value.
    Json,
    Nothing,
}

/// A compiled text.
#[derive(Debug)]
pub struct Page {
    /// As it is sent.
    media_type: Box<str>,
    escape: Escape,
    pieces: Vec<Piece>,
}

impl Page {
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(media_type: &str, text: &str) -> Result<Page, String> {
        let bare = bare(media_type);
        let escape = match bare.as_str() {
            "text/plain" => Escape::Nothing,
            "text/html" | "text/xml" | "application/xml" => Escape::Markup,
            "application/json" => Escape::Json,
            other if other.starts_with("application/") && other.ends_with("+xml") => Escape::Markup,
            other if other.starts_with("application/") && other.ends_with("+json") => Escape::Json,
            _ => {
                return Err(format!(
                    "values cannot be written safely into `{media_type}`: it is a kind of HTML, XML or JSON, or `text/plain`"
                ));
            }
        };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once(OPEN) {
            let (name, behind) = behind.split_once(CLOSE).ok_or("a `{{` has no `}}` behind it")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Value(field(name.trim())?));
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        let kind = match media_type {
            // Without a word on it browsers take a text for what their user's country writes.
            "text/html" | "text/plain" => format!("{media_type}; charset=utf-8"),
            _ => media_type.to_owned(),
        };
        let page = Page { media_type: kind.into(), escape, pieces };
        page.is_json_where_it_says_so()?;
        Ok(page)
    }

    /// What is no JSON once it is filled in is found when it is loaded, not by a client.
    fn is_json_where_it_says_so(&self) -> Result<(), String> {
        if self.escape != Escape::Json {
            return Ok(());
        }
        let sample = Reply::new(http::StatusCode::TOO_MANY_REQUESTS, "rate_limit", "limited", "\"\\")
            .retry_after(std::time::Duration::from_secs(1));
        let without = Reply::new(http::StatusCode::NOT_FOUND, "route", "no_route", "");
        for reply in [sample, without] {
            serde_json::from_slice::<serde::de::IgnoredAny>(&self.filled(&reply, "0"))
                .map_err(|error| format!("it is no JSON once it is filled in: {error}"))?;
        }
        Ok(())
    }

    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Without parameters, in lower case.
    pub fn bare_type(&self) -> String {
        bare(&self.media_type)
    }

    /// The text about this answer.
    pub fn filled(&self, reply: &Reply, request_id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Value(Field::Problem) if self.escape == Escape::Json => {
                    out.extend_from_slice(reply.body(request_id).trim_ascii());
                }
                Piece::Value(Field::Problem) => {
                    let document = String::from_utf8(reply.body(request_id)).unwrap_or_default();
                    self.write(document.trim(), &mut out);
                }
                Piece::Value(Field::Status) => self.write(reply.status.as_str(), &mut out),
                Piece::Value(Field::Title) => self.write(reply.title(), &mut out),
                Piece::Value(Field::Detail) => self.write(&reply.detail, &mut out),
                Piece::Value(Field::Policy) => self.write(reply.policy, &mut out),
                Piece::Value(Field::Reason) => self.write(reply.reason, &mut out),
                Piece::Value(Field::RequestId) => self.write(request_id, &mut out),
                Piece::Value(Field::RetryAfter) => self.write(reply.retry_after_field().unwrap_or_default(), &mut out),
            }
        }
        out
    }

    fn write(&self, text: &str, out: &mut Vec<u8>) {
        match self.escape {
            Escape::Nothing => out.extend_from_slice(text.as_bytes()),
            Escape::Json if all_plain(text.as_bytes()) => out.extend_from_slice(text.as_bytes()),
            Escape::Json => push_escaped(out, text),
            Escape::Markup => {
                for byte in text.bytes() {
                    match byte {
                        b'&' => out.extend_from_slice(b"&amp;"),
                        b'<' => out.extend_from_slice(b"&lt;"),
                        b'>' => out.extend_from_slice(b"&gt;"),
                        b'"' => out.extend_from_slice(b"&quot;"),
                        b'\'' => out.extend_from_slice(b"&#39;"),
                        // XML has no word for them.
                        0..=8 | 11 | 12 | 14..=31 => out.push(b' '),
                        _ => out.push(byte),
                    }
                }
            }
        }
    }
}

fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn field(name: &str) -> Result<Field, String> {
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(*field);
    }
    let names = || FIELDS.iter().map(|(name, _)| *name);
    Err(match did_you_mean(name, names()) {
        Some(near) => format!("there is no `{{{{ {name} }}}}`; did you mean `{near}`?"),
        None => format!("there is no `{{{{ {name} }}}}`; there are {}", names().collect::<Vec<_>>().join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    fn filled(media_type: &str, text: &str, detail: &'static str) -> String {
        let reply = Reply::new(StatusCode::FORBIDDEN, "authz", "no_scope", detail).retry_after(Duration::from_secs(7));
        String::from_utf8(Page::parse(media_type, text).unwrap().filled(&reply, "r-1")).unwrap()
    }

    #[test]
    fn what_is_said_cannot_leave_its_place() {
        let nasty = "</p><script>'\"&\u{1}\u{e9}";
        let html = filled("text/html", "<p title='{{detail}}'>{{ status }} {{title}}</p>", nasty);
        assert_eq!(html, "<p title='&lt;/p&gt;&lt;script&gt;&#39;&quot;&amp; \u{e9}'>403 Forbidden</p>");
        let json = filled(
            "application/vnd.shop+json",
            r#"{"error":{"code":"{{reason}}","text":"{{detail}}","raw":{{problem}}}}"#,
            nasty,
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["error"]["text"], &json["error"]["raw"]["request_id"]), (&nasty.into(), &"r-1".into()));
        assert_eq!(filled("text/plain", "{{retry_after}} {{policy}} {{request_id}} {x} }}", ""), "7 authz r-1 {x} }}");
        assert!(filled("application/xhtml+xml", "{{ problem }}", "a").starts_with("{&quot;title&quot;:&quot;Forbidden&quot;"));
    }

    #[test]
    fn what_cannot_be_right_is_told() {
        for (media_type, text, wanted) in [
            ("text/html", "{{ statsu }}", "did you mean `status`"),
            ("text/html", "{{ x", "has no `}}`"),
            ("text/html", "{{ headers }}", "there are status, title"),
            ("text/javascript", "", "cannot be written safely"),
            ("nonsense", "", "cannot be written safely"),
            ("image/svg+xml", "", "cannot be written safely"),
            ("application/json", r#"{"a": {{detail}}}"#, "no JSON once it is filled in"),
            ("application/json", r#"{"a": {{retry_after}}}"#, "no JSON once it is filled in"),
        ] {
            let said = Page::parse(media_type, text).unwrap_err();
            assert!(said.contains(wanted), "{media_type} {text}: {said}");
        }
        assert!(Page::parse("application/json", r#"{"status": {{status}}, "after": "{{retry_after}}"}"#).is_ok());
    }
}

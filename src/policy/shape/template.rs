//! Header values with placeholders, compiled when the configuration is loaded.
//!
//! `{request_id}`, `{client_address}`, `{consumer}`, `{subject}`, `{host}`, and `{param.NAME}` for what the route's `{NAME}` matched. `{{`
//! and `}}` are literal braces. That is all on purpose: a template cannot read header fields, so that it cannot leak credentials.

use std::fmt::{self, Write};
use std::sync::Arc;

use http::HeaderValue;
use smallvec::SmallVec;

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::problem::did_you_mean;
use crate::value::braces::{self, Part};

const WORDS: [&str; 5] = ["request_id", "client_address", "consumer", "subject", "host"];

#[derive(Clone, Debug)]
pub enum Template {
    /// No placeholder: made once, and cheap to clone.
    Fixed(HeaderValue),
    Pieces(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(Box<str>),
    RequestId,
    ClientAddress,
    Consumer,
    Subject,
    Host,
    Param(Arc<str>),
}

impl Template {
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pieces = pieces(text)?;
        match pieces.as_slice() {
            [] => Ok(Template::Fixed(HeaderValue::from_static(""))),
            [Piece::Text(text)] => fixed(text).map(Template::Fixed),
            _ => {
                for piece in &pieces {
                    if let Piece::Text(text) = piece {
                        fixed(text)?;
                    }
                }
                Ok(Template::Pieces(pieces))
            }
        }
    }

    pub fn uses_params(&self) -> bool {
        matches!(self, Template::Pieces(pieces) if pieces.iter().any(|piece| matches!(piece, Piece::Param(_))))
    }

    /// The parameters of the path that it takes.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        let pieces = if let Template::Pieces(pieces) = self { pieces.as_slice() } else { &[] };
        pieces.iter().filter_map(|piece| if let Piece::Param(name) = piece { Some(&**name) } else { None })
    }

    pub fn uses_host(&self) -> bool {
        matches!(self, Template::Pieces(pieces) if pieces.contains(&Piece::Host))
    }

    /// Whether two clients that ask for the same may have different values. The request's id says nothing of its client.
    pub fn is_per_client(&self) -> bool {
        let is = |piece: &Piece| matches!(piece, Piece::ClientAddress | Piece::Consumer | Piece::Subject);
        matches!(self, Template::Pieces(pieces) if pieces.iter().any(is))
    }

    /// The value for this exchange. `None` where a placeholder stands for nothing (no consumer, no such parameter), or for something
    /// that is not legal in a header value. `head` is `None` for an answer.
    pub fn render(&self, head: Option<&RequestHead>, exchange: &Exchange) -> Option<HeaderValue> {
        let pieces = match self {
            Template::Fixed(value) => return Some(value.clone()),
            Template::Pieces(pieces) => pieces,
        };
        let identity = exchange.identity.as_deref();
        let mut value = Buffer::default();
        for piece in pieces {
            let text: &str = match piece {
                Piece::Text(text) => text,
                Piece::RequestId => &exchange.request_id,
                Piece::ClientAddress => {
                    write!(value, "{}", exchange.client).ok()?;
                    continue;
                }
                Piece::Consumer => identity?.consumer.as_deref()?,
                Piece::Subject => &identity?.subject,
                Piece::Host => &head?.host,
                Piece::Param(name) => exchange.param(name)?,
            };
            value.0.extend_from_slice(text.as_bytes());
        }
        HeaderValue::from_bytes(&value.0).ok()
    }
}

/// Most values fit without an allocation of their own.
#[derive(Default)]
struct Buffer(SmallVec<[u8; 128]>);

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn fixed(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "a header value is printable ASCII".to_owned())
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let piece = |part| match part {
        Part::Text(text) => Ok(Piece::Text(text.into())),
        Part::Name(name) => placeholder(name),
    };
    braces::parts(text)?.into_iter().map(piece).collect()
}

fn placeholder(name: &str) -> Result<Piece, String> {
    Ok(match name {
        "request_id" => Piece::RequestId,
        "client_address" => Piece::ClientAddress,
        "consumer" => Piece::Consumer,
        "subject" => Piece::Subject,
        "host" => Piece::Host,
        _ => match name.strip_prefix("param.").filter(|param| !param.is_empty()) {
            Some(param) => Piece::Param(param.into()),
            None => {
                let hint = did_you_mean(name, WORDS).map_or_else(String::new, |word| format!("; did you mean `{{{word}}}`?"));
                return Err(format!("`{{{name}}}` stands for nothing{hint}"));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, exchange: &Exchange) -> Option<String> {
        let head = RequestHead::build("GET", "/", &[("host", "shop.example:8080")]);
        let value = Template::parse(text).unwrap().render(Some(&head), exchange)?;
        Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn fills_in_what_is_known() {
        let mut exchange = Exchange::for_tests();
        exchange.params.push(("sku".into(), "a%20b".into()));
        let text = "{{{request_id}}} {client_address};{host}/{param.sku}";
        assert_eq!(render(text, &exchange).unwrap(), "{test-request} 192.0.2.1;shop.example/a%20b");
        assert_eq!(render("a {{b}}", &exchange).unwrap(), "a {b}");
        assert_eq!(render("", &exchange).unwrap(), "");
        assert!(matches!(Template::parse("a {{b}}").unwrap(), Template::Fixed(_)));
    }

    #[test]
    fn nothing_comes_of_what_is_missing_or_illegal() {
        let mut exchange = Exchange::for_tests();
        for text in ["x-{consumer}", "{subject}", "{param.sku}"] {
            assert_eq!(render(text, &exchange), None, "{text}");
        }
        exchange.params.push(("sku".into(), "a\r\nEvil: yes".into()));
        assert_eq!(render("{param.sku}", &exchange), None);
        assert!(Template::parse("{host}").unwrap().render(None, &exchange).is_none());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("{consumr}", "did you mean `{consumer}`"),
            ("{", "without"),
            ("a}", "without"),
            ("{}", "nothing"),
            ("{param.}", "nothing"),
        ] {
            assert!(Template::parse(text).unwrap_err().contains(word), "{text}");
        }
        assert!(Template::parse("a\nb").unwrap_err().contains("printable"));
        assert!(Template::parse("a\nb{host}").unwrap_err().contains("printable"));
    }
}

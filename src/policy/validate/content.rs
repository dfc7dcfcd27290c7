//! Whether a form, a multipart body or XML is what it claims to be, without any contract.

use bytes::Bytes;
use http::StatusCode;

use super::media::MediaType;
use super::request::Validate;
use super::{form, multipart, xml};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::{OnBody, Policy};
use crate::reply::{Flow, Reply};

/// As deep as XML may be nested.
const DEEPEST: usize = 128;

/// The step that looks at bodies.
pub struct ContentCheck {
    form: bool,
    multipart: bool,
    xml: bool,
    max_body: usize,
}

impl ContentCheck {
    /// `None` if nothing is looked at.
    pub fn new(form: bool, multipart: bool, xml: bool, max_body: u64) -> Option<ContentCheck> {
        let max_body = usize::try_from(max_body).unwrap_or(usize::MAX);
        (form || multipart || xml).then_some(ContentCheck { form, multipart, xml, max_body })
    }

    pub fn looks_at(&self, media: &MediaType<'_>) -> bool {
        self.form && media.is("application", "x-www-form-urlencoded")
            || self.multipart && media.is("multipart", "form-data")
            || self.xml && media.is_xml()
    }

    fn media<'a>(&self, head: &'a RequestHead) -> Option<MediaType<'a>> {
        head.header("content-type").and_then(MediaType::parse).filter(|media| self.looks_at(media))
    }
}

fn refuse(status: StatusCode, reason: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Flow {
    Reply::new(status, Validate::NAME, reason, detail).refuse()
}

impl OnBody for ContentCheck {
    fn bound(&self) -> usize {
        self.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        head.body.is_some() && self.media(head).is_some()
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn on_body(&self, head: &RequestHead, body: &Bytes, _: &mut Exchange) -> Flow {
        let Some(media) = self.media(head) else { return Flow::Continue(()) };
        if media.is_xml() {
            return match xml::check(body, DEEPEST) {
                Ok(()) => Flow::Continue(()),
                Err(why) => refuse(StatusCode::BAD_REQUEST, "xml_malformed", format!("The body {why}.")),
            };
        }
        if media.is("multipart", "form-data") {
            let parts =
                multipart::boundary(&media).ok_or("names no boundary").and_then(|boundary| multipart::parts(body, boundary));
            return match parts {
                Ok(_) => Flow::Continue(()),
                Err(why) => refuse(StatusCode::BAD_REQUEST, "multipart_malformed", format!("The body {why}.")),
            };
        }
        match form::check(body) {
            Ok(()) => Flow::Continue(()),
            Err(why) => refuse(StatusCode::BAD_REQUEST, "form_malformed", format!("The body {why}.")),
        }
    }
}

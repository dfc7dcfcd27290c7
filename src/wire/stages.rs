//! What changes an answer's body on its way to the client: stages, one behind the other, and the head that waits for those that take the
//! body whole. No sockets here: pieces in, pieces out.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;

use crate::reply::Reply;

/// A stage has an answer of its own to give instead.
const REFUSED: ErrorType = ErrorType::Custom("AnswerRefused");

/// What a stage makes of a body: what is to go on, or the answer to give instead, as far as none has begun.
pub type Changed<T = Bytes> = Result<T, Box<Reply>>;

/// Works on a body as it comes.
pub trait Pieces: Send + Sync {
    /// A piece of it, never empty. What is not passed on yet is kept for later.
    ///
    /// # Errors
    /// The answer is not to go on.
    fn piece(&mut self, data: Bytes) -> Changed;

    /// Nothing else is there for now: what is kept, and need not be, goes on, so that a stream stays live.
    ///
    /// # Errors
    /// As [`Pieces::piece`].
    fn flush(&mut self) -> Changed {
        Ok(Bytes::new())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// As [`Pieces::piece`].
    fn end(&mut self) -> Changed {
        Ok(Bytes::new())
    }

    /// How many bytes are kept, where that may be many.
    fn held(&self) -> usize {
        0
    }

    /// Whether the head waits: nothing of the body has come out yet, and it may be that nothing ever will but another answer.
    fn holds_head(&self) -> bool {
        false
    }
}

/// Works on a body that is there whole. The head has not been sent.
pub trait Whole: Send + Sync {
    /// The body to give instead, or `None` if it stays. The head's fields may be changed, and its status.
    ///
    /// # Errors
    /// The answer is not to be given.
    fn whole(self: Box<Self>, head: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>>;
}

/// What becomes of a body that is longer than a stage takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// It goes on as it is, head and all.
    Pass,
    /// 502 `answer_too_large`, in the name of this policy.
    Refuse(&'static str),
}

/// What becomes of an `ETag` once a body is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validator {
    /// It says the same in other bytes: the tag becomes a weak one (RFC 9110, section 8.8.1).
    Weaken,
    /// It says something else.
    Drop,
}

/// One stage.
pub enum BodyStage {
    Pieces(Box<dyn Pieces>),
    /// The body is gathered up to `bound` bytes; the head waits for it.
    Whole {
        bound: usize,
        beyond: Beyond,
        validator: Validator,
        run: Box<dyn Whole>,
    },
}

enum Link {
    Pieces(Box<dyn Pieces>),
    Whole(Gathering),
}

struct Gathering {
    bound: usize,
    beyond: Beyond,
    validator: Validator,
    /// `None` once it has run, or let go of a body that is too long.
    run: Option<Box<dyn Whole>>,
    body: BytesMut,
}

/// The stages of one answer.
#[derive(Default)]
pub struct Stages {
    links: Vec<Link>,
    head: Option<Box<ResponseHeader>>,
}

impl Stages {
    pub fn push(&mut self, stage: BodyStage) {
        self.links.push(match stage {
            BodyStage::Pieces(run) => Link::Pieces(run),
            BodyStage::Whole { bound, beyond, validator, run } => {
                Link::Whole(Gathering { bound, beyond, validator, run: Some(run), body: BytesMut::new() })
            }
        });
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The answer's head, as far as it is known. It is given back by [`Stages::take_head`].
    pub fn begin(&mut self, head: Box<ResponseHeader>) {
        self.head = Some(head);
    }

    /// The head, once no stage waits for the body any more. Once.
    pub fn take_head(&mut self) -> Option<Box<ResponseHeader>> {
        let waits = |link: &Link| match link {
            Link::Whole(gathering) => gathering.run.is_some(),
            Link::Pieces(run) => run.holds_head(),
        };
        if self.links.iter().any(waits) { None } else { self.head.take() }
    }

    /// How many bytes are gathered.
    pub fn held(&self) -> usize {
        let held = |link: &Link| match link {
            Link::Pieces(run) => run.held(),
            Link::Whole(gathering) => gathering.body.len(),
        };
        self.links.iter().map(held).sum()
    }

    /// A piece of the body.
    ///
    /// # Errors
    /// The answer to give instead.
    pub fn piece(&mut self, data: Bytes) -> Changed {
        self.pass(data, false)
    }

    /// Nothing else is there for now.
    ///
    /// # Errors
    /// As [`Stages::piece`].
    pub fn flush(&mut self) -> Changed {
        self.pass(Bytes::new(), true)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// As [`Stages::piece`].
    pub fn end(&mut self) -> Changed {
        let Stages { links, head } = self;
        let mut data = Bytes::new();
        for link in links {
            data = match link {
                Link::Pieces(run) => after(run, data, |run| run.end())?,
                Link::Whole(gathering) => {
                    let rest = gathering.take(data)?;
                    match head {
                        Some(head) => join(rest, gathering.end(head)?),
                        None => rest,
                    }
                }
            };
        }
        Ok(data)
    }

    fn pass(&mut self, mut data: Bytes, flush: bool) -> Changed {
        for link in &mut self.links {
            data = match link {
                Link::Pieces(run) if flush => after(run, data, |run| run.flush())?,
                Link::Pieces(_) if data.is_empty() => data,
                Link::Pieces(run) => run.piece(data)?,
                Link::Whole(gathering) => gathering.take(data)?,
            };
        }
        Ok(data)
    }
}

/// What a stage makes of a last piece, and what it gives then.
fn after(run: &mut Box<dyn Pieces>, data: Bytes, then: impl FnOnce(&mut dyn Pieces) -> Changed) -> Changed {
    let first = if data.is_empty() { data } else { run.piece(data)? };
    Ok(join(first, then(run.as_mut())?))
}

impl Gathering {
    fn take(&mut self, data: Bytes) -> Changed {
        if self.run.is_none() {
            return Ok(data);
        }
        if self.body.len() + data.len() <= self.bound {
            self.body.extend_from_slice(&data);
            return Ok(Bytes::new());
        }
        if let Beyond::Refuse(policy) = self.beyond {
            let detail = "The backend's answer is larger than this route can work on.";
            return Err(Reply::new(StatusCode::BAD_GATEWAY, policy, "answer_too_large", detail));
        }
        self.run = None;
        Ok(join(std::mem::take(&mut self.body).freeze(), data))
    }

    fn end(&mut self, head: &mut ResponseHeader) -> Changed {
        let Some(run) = self.run.take() else { return Ok(Bytes::new()) };
        let body = std::mem::take(&mut self.body).freeze();
        let tag = head.headers.get(header::ETAG).cloned();
        let Some(other) = run.whole(head, &body)? else { return Ok(body) };
        // What the stage has given a tag of its own keeps it.
        let is_tagged = head.headers.get(header::ETAG) != tag.as_ref();
        for name in untrue(self.validator).filter(|name| !is_tagged || *name != header::ETAG) {
            head.remove_header(&name);
        }
        if !is_tagged
            && self.validator == Validator::Weaken
            && let Some(tag) = tag
        {
            // One field in place of another: it cannot fail in practice.
            let _ = head.insert_header(header::ETAG, weak(&tag));
        }
        Ok(other)
    }
}

/// The fields that are not true any more of another body. The one list, whether the body follows, or is only spoken of (HEAD, 304).
pub fn untrue(validator: Validator) -> impl Iterator<Item = HeaderName> {
    let of_the_content = [header::ETAG, header::LAST_MODIFIED].into_iter().filter(move |_| validator == Validator::Drop);
    describing().into_iter().chain(of_the_content)
}

/// What is said of the bytes of a body, and not true of others: how many there are, what they sum up to, that parts of them can be had.
pub fn describing() -> [HeaderName; 6] {
    let name = HeaderName::from_static;
    [
        header::CONTENT_LENGTH,
        header::ACCEPT_RANGES,
        name("content-md5"),
        name("digest"),
        name("content-digest"),
        name("repr-digest"),
    ]
}

/// The weak tag of that name.
pub fn weak(tag: &HeaderValue) -> HeaderValue {
    let bytes = tag.as_bytes();
    if bytes.starts_with(b"W/") {
        return tag.clone();
    }
    HeaderValue::from_bytes(&[b"W/", bytes].concat()).unwrap_or_else(|_| tag.clone())
}

/// The one behind the other, copied only where both are something.
pub fn join(first: Bytes, then: Bytes) -> Bytes {
    match (first.is_empty(), then.is_empty()) {
        (_, true) => first,
        (true, _) => then,
        _ => [first, then].concat().into(),
    }
}

/// A reply on its way through code that knows errors only.
#[derive(Debug)]
struct Refused(Box<Reply>);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.reason)
    }
}

impl std::error::Error for Refused {}

/// This answer is to be given instead of the one that was under way.
pub fn refused(reply: Box<Reply>) -> Box<Error> {
    Error::because(REFUSED, "a policy refused the answer", Refused(reply))
}

/// The answer that an error of [`refused`]'s brings.
pub fn refusal(error: &Error) -> Option<Box<Reply>> {
    if error.etype != REFUSED {
        return None;
    }
    error.root_cause().downcast_ref::<Refused>().map(|Refused(reply)| reply.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Upper;

    impl Pieces for Upper {
        fn piece(&mut self, data: Bytes) -> Changed {
            Ok(data.to_ascii_uppercase().into())
        }

        fn end(&mut self) -> Changed {
            Ok(Bytes::from_static(b"."))
        }
    }

    struct Twice;

    impl Whole for Twice {
        fn whole(self: Box<Self>, _: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>> {
            Ok(Some([&body[..], &body[..]].concat().into()))
        }
    }

    fn stages(beyond: Beyond) -> Stages {
        let mut stages = Stages::default();
        stages.push(BodyStage::Whole { bound: 4, beyond, validator: Validator::Weaken, run: Box::new(Twice) });
        stages.push(BodyStage::Pieces(Box::new(Upper)));
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [("etag", "\"a\""), ("content-md5", "x"), ("content-length", "4"), ("x-kept", "1")] {
            head.insert_header(name, value).unwrap();
        }
        stages.begin(Box::new(head));
        stages
    }

    #[test]
    fn the_head_waits_for_the_whole_body_and_stays_true() {
        let mut stages = stages(Beyond::Pass);
        assert!(stages.piece("ab".into()).unwrap().is_empty() && stages.flush().unwrap().is_empty());
        assert!(stages.take_head().is_none());
        assert_eq!((stages.piece("cd".into()).unwrap().len(), stages.held()), (0, 4));
        assert_eq!(stages.end().unwrap(), "ABCDABCD.");
        let head = stages.take_head().unwrap();
        assert_eq!(head.headers.get("etag").unwrap(), "W/\"a\"");
        assert!(head.headers.contains_key("x-kept") && !head.headers.contains_key("content-md5"));
        assert!(!head.headers.contains_key("content-length"));
    }

    #[test]
    fn a_body_beyond_the_bound_is_passed_on_or_refused() {
        let mut passing = stages(Beyond::Pass);
        assert!(passing.piece("abc".into()).unwrap().is_empty());
        assert_eq!(passing.piece("de".into()).unwrap(), "ABCDE");
        assert_eq!(passing.take_head().unwrap().headers.get("etag").unwrap(), "\"a\"");
        assert_eq!((passing.piece("f".into()).unwrap(), passing.end().unwrap()), ("F".into(), ".".into()));

        let mut refusing = stages(Beyond::Refuse("shape"));
        let reply = refusing.piece("abcde".into()).unwrap_err();
        assert_eq!((reply.status.as_u16(), reply.policy, reply.reason), (502, "shape", "answer_too_large"));
        assert_eq!(refusal(&refused(reply)).unwrap().reason, "answer_too_large");
    }
}

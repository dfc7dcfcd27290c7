//! A call's request, compiled, and what it comes to in one client's request.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use serde_json::Value;

use super::Names;
use super::config::CallConfig;
use super::text::{Found, Known, LONGEST, Source, Text, Unsayable};
use crate::carrier::lossy;
use crate::head::TRAVEL_FIELDS;
use crate::json::{Exact, Members};
use crate::path;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// A compiled request.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: Text,
    /// Names as they are written in a query.
    query: Vec<(Box<str>, Text)>,
    fields: Vec<(HeaderName, Text)>,
    body: Option<Json>,
}

/// A request as it is sent.
#[derive(Debug)]
pub struct Rendered {
    pub method: Method,
    /// The path, and the query if there is one.
    pub target: String,
    /// The path ends in a value.
    pub ends_in_value: bool,
    /// `None`: the service sees no field of that name, whoever has sent one.
    pub fields: Vec<(HeaderName, Option<HeaderValue>)>,
    pub body: Option<Bytes>,
}

#[derive(Debug, Clone)]
enum Json {
    Plain(Exact),
    Text(Text),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Request {
    /// Compiles a call's. `None` if something is wrong, which then is in `problems`.
    pub fn compile(config: &CallConfig, names: &Names<'_>, problems: &mut Problems) -> Option<Request> {
        let before = problems.len();
        let method = match config.method.as_ref().map(|method| (method.value.as_str(), method.place)) {
            None | Some(("GET", _)) => Method::GET,
            Some(("POST", _)) => Method::POST,
            Some(("PUT", _)) => Method::PUT,
            Some(("PATCH", _)) => Method::PATCH,
            Some(("DELETE", _)) => Method::DELETE,
            Some((other, place)) => {
                let problem = Problem::error(place, format!("a call cannot be made with `{other}`"));
                problems.push(problem.hint("GET, POST, PUT, PATCH or DELETE"));
                Method::GET
            }
        };
        let path = path(&config.path, names, problems);
        let mut query = Vec::new();
        for (name, value) in &config.query {
            query.extend(text(value, names, problems).map(|text| (path::value(name.as_bytes()).into(), text)));
        }
        let mut fields = Vec::new();
        for (name, value) in &config.headers {
            fields.extend(field(name, value, names, problems));
        }
        let body = config.body.as_ref().and_then(|body| {
            if method == Method::GET {
                problems.push(Problem::error(body.place, "a GET has no body").hint("write `method: POST`"));
            }
            json(&body.value.0, names).map_err(|why| problems.push(Problem::error(body.place, why))).ok()
        });
        let path = path?;
        (problems.len() == before).then_some(Request { method, path, query, fields, body })
    }

    /// The same request for another path.
    pub fn with_path(&self, written: &Spanned<String>, names: &Names<'_>, problems: &mut Problems) -> Option<Request> {
        Some(Request { path: path(written, names, problems)?, ..self.clone() })
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// All that it is made of.
    pub fn sources(&self) -> Vec<&Source> {
        let mut all: Vec<&Source> = self.path.sources().collect();
        all.extend(self.query.iter().flat_map(|(_, text)| text.sources()));
        all.extend(self.fields.iter().flat_map(|(_, text)| text.sources()));
        if let Some(body) = &self.body {
            body.sources(&mut all);
        }
        all
    }

    /// The names of the fields that it sets, and whether they are made of anything of the request's or of other answers.
    pub fn field_names(&self) -> Vec<(HeaderName, bool)> {
        self.fields.iter().map(|(name, text)| (name.clone(), text.sources().next().is_some())).collect()
    }

    /// Whether the request's body has not what this cannot be without, or none that may stand there.
    pub fn lacks_of_body(&self, known: &Known<'_>) -> bool {
        let of_body = |source: &Source| matches!(source, Source::Body(_));
        let stands = |source: &Source| source.get(known).and_then(Found::bytes).is_some();
        let fits = |(_, text): &(HeaderName, Text)| !text.sources().any(of_body) || field_value(text, known).is_ok();
        let mut texts = Vec::new();
        self.body.iter().for_each(|body| body.texts(&mut texts));
        self.target(known, of_body).is_none()
            || !texts.into_iter().flat_map(Text::sources).filter(|source| of_body(source)).all(stands)
            || !self.fields.iter().all(fits)
    }

    /// What is asked for, as far as it is made of these sources, or of none. `None` where a value is missing that it cannot be without, or cannot
    /// stand there.
    fn target(&self, known: &Known<'_>, these: impl Fn(&Source) -> bool) -> Option<String> {
        let is_meant = |text: &Text| text.sources().next().is_none() || text.sources().any(&these);
        let mut target = self.path.path(known, &these)?;
        let mut mark = '?';
        for (name, value) in self.query.iter().filter(|(_, value)| is_meant(value)) {
            // It may be left out where there is nothing. Where there is something that cannot be said, all would be asked for.
            let Some(value) = value.said(known).ok()? else { continue };
            target.push(mark);
            target.push_str(name);
            target.push('=');
            path::push_value(&value, &mut target);
            mark = '&';
        }
        (target.len() <= LONGEST).then_some(target)
    }

    /// What is sent. `None` where a value is missing that it cannot be without, or cannot stand where it is to.
    pub fn render(&self, known: &Known<'_>) -> Option<Rendered> {
        let target = self.target(known, |_| true)?;
        // What stands in the file is the gateway's to say: where it has nothing to say, the client does not say it instead.
        let value = |(name, text): &(HeaderName, Text)| Some((name.clone(), field_value(text, known).ok()?));
        let mut fields = self.fields.iter().map(value).collect::<Option<Vec<_>>>()?;
        let body = match &self.body {
            None => None,
            Some(body) => Some(Bytes::from(body.value(known)?.to_vec())),
        };
        if body.is_some() && !fields.iter().any(|(name, value)| *name == header::CONTENT_TYPE && value.is_some()) {
            fields.push((header::CONTENT_TYPE, Some(HeaderValue::from_static("application/json"))));
        }
        let ends_in_value = self.path.ends_in_value();
        Some(Rendered { method: self.method.clone(), target, ends_in_value, fields, body })
    }
}

impl Json {
    fn sources<'a>(&'a self, all: &mut Vec<&'a Source>) {
        match self {
            Json::Plain(_) => {}
            Json::Text(text) => all.extend(text.sources()),
            Json::List(items) => items.iter().for_each(|item| item.sources(all)),
            Json::Object(members) => members.iter().for_each(|(_, member)| member.sources(all)),
        }
    }

    /// The texts with more than a placeholder in them: those that there have to be values for.
    fn texts<'a>(&'a self, all: &mut Vec<&'a Text>) {
        match self {
            Json::Plain(_) => {}
            Json::Text(text) => all.extend(text.alone().is_none().then_some(text)),
            Json::List(items) => items.iter().for_each(|item| item.texts(all)),
            Json::Object(members) => members.iter().for_each(|(_, member)| member.texts(all)),
        }
    }

    /// `None` where a text is made of a value that is missing.
    fn value(&self, known: &Known<'_>) -> Option<Exact> {
        Some(match self {
            Json::Plain(value) => value.clone(),
            Json::Text(text) => match text.alone() {
                None => Exact::Text(text.json(known)?),
                Some(source) => match source.get(known) {
                    None => Exact::Null,
                    Some(Found::Json(value)) => value.clone().into(),
                    Some(Found::Exact(value)) => value.clone(),
                    Some(Found::Keys(keys)) => Exact::List(keys.to_vec()),
                    Some(Found::Bytes(bytes)) => Exact::Text(lossy(bytes).into_owned()),
                },
            },
            Json::List(items) => Exact::List(items.iter().map(|item| item.value(known)).collect::<Option<_>>()?),
            Json::Object(members) => {
                let member = |(name, member): &(String, Json)| Some((name.clone(), member.value(known)?));
                Exact::Object(Box::new(members.iter().map(member).collect::<Option<Members>>()?))
            }
        })
    }
}

/// A field's value. `None` where there is none.
///
/// # Errors
/// It is one that no field can have.
fn field_value(text: &Text, known: &Known<'_>) -> Result<Option<HeaderValue>, Unsayable> {
    text.said(known)?.map(|bytes| HeaderValue::from_bytes(&bytes).map_err(|_| Unsayable)).transpose()
}

fn json(value: &Value, names: &Names<'_>) -> Result<Json, String> {
    Ok(match value {
        Value::String(text) if text.contains(['{', '}']) => Json::Text(Text::parse(text, names)?),
        Value::Array(items) => Json::List(items.iter().map(|item| json(item, names)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let member = |(name, member): (&String, &Value)| Ok((name.clone(), json(member, names)?));
            Json::Object(members.iter().map(member).collect::<Result<_, String>>()?)
        }
        plain => Json::Plain(plain.clone().into()),
    })
}

fn text(written: &Spanned<String>, names: &Names<'_>, problems: &mut Problems) -> Option<Text> {
    Text::parse(&written.value, names).map_err(|why| problems.push(Problem::error(written.place, why))).ok()
}

fn path(written: &Spanned<String>, names: &Names<'_>, problems: &mut Problems) -> Option<Text> {
    let text = text(written, names, problems)?;
    let outline = text.outline();
    let plain = outline.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'));
    let (wrong, hint) = match outline.as_str() {
        path if !path.starts_with('/') => ("it begins with `/`", "write `path: /...`"),
        path if path.contains('?') => ("it has a query", "write its parameters under `query`"),
        _ if !plain => ("it holds what no path may", "write what is not printable ASCII with percent signs"),
        path if path::normalise(path.as_bytes()).is_ok_and(|canonical| canonical == path) => return Some(text),
        _ => (
            "it is not written as paths are compared",
            "leave out dot segments, needless escapes and slashes that follow each other",
        ),
    };
    problems.push(Problem::error(written.place, format!("`{}` is no path of a call: {wrong}", written.value)).hint(hint));
    None
}

fn field(name: &str, value: &Spanned<String>, names: &Names<'_>, problems: &mut Problems) -> Option<(HeaderName, Text)> {
    let mut refuse = |place: Place, why: String| {
        problems.push(Problem::error(place, why));
        None
    };
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return refuse(value.place, format!("`{name}` is not a header name"));
    };
    if TRAVEL_FIELDS.contains(&parsed.as_str()) {
        return refuse(value.place, format!("`{name}` says how a message travels: the gateway writes it"));
    }
    if parsed == header::ACCEPT_ENCODING {
        return refuse(value.place, "the gateway reads what the service answers, and asks for it uncoded".to_owned());
    }
    if HeaderValue::from_str(&value.value).is_err() {
        return refuse(value.place, "this cannot be a header's value".to_owned());
    }
    Text::parse(&value.value, names)
        .map_err(|why| problems.push(Problem::error(value.place, why)))
        .ok()
        .map(|text| (parsed, text))
}

//! The signature base (RFC 9421, section 2.5): the exact text that was signed, made anew from the request that came.

use sfv::{BareItem, Dictionary, InnerList, Item, List, ListEntry, Parser, SerializeValue};

use crate::authority::without_default_port;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::authn::failure::Failure;

/// The most components that one signature may cover.
const MOST_COMPONENTS: usize = 64;

/// A name as components are called: lower case, with its parameters.
pub struct Component<'a> {
    pub name: &'a str,
    item: &'a Item,
}

impl Component<'_> {
    fn flag(&self, name: &str) -> bool {
        matches!(self.item.params.get(name), Some(BareItem::Boolean(true)))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.item.params.get(name).and_then(BareItem::as_str)
    }

    /// Whether it is the plain value, without any parameter that makes it something less.
    pub fn is_plain(&self) -> bool {
        self.item.params.is_empty()
    }
}

/// The components of a signature, in order.
///
/// # Errors
/// More than are allowed, the same one twice, or something that is no component (section 2.5 makes all of these errors).
pub fn components(covered: &InnerList) -> Result<Vec<Component<'_>>, Failure> {
    if covered.items.len() > MOST_COMPONENTS {
        return Err(Failure::MalformedSignature);
    }
    let mut list: Vec<Component<'_>> = Vec::with_capacity(covered.items.len());
    for item in &covered.items {
        let name = item.bare_item.as_str().ok_or(Failure::MalformedSignature)?;
        let known = ["sf", "key", "bs", "name"];
        let odd = item.params.keys().any(|key| !known.contains(&key.as_str()));
        let twice = list.iter().any(|other| other.item == item);
        if odd || twice || name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Failure::MalformedSignature);
        }
        list.push(Component { name, item });
    }
    Ok(list)
}

/// The text that was signed, if the client signed its path as `path`. `components` are those of `covered`.
///
/// # Errors
/// A component that the request does not have, or that cannot be made of it.
pub fn base(
    covered: &InnerList,
    components: &[Component<'_>],
    head: &RequestHead,
    path: &str,
    exchange: &Exchange,
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(512);
    for component in components {
        let identifier = component.item.serialize_value().map_err(|_| Failure::MalformedSignature)?;
        out.extend_from_slice(identifier.as_bytes());
        out.extend_from_slice(b": ");
        value(component, head, path, exchange, &mut out)?;
        out.push(b'\n');
    }
    out.extend_from_slice(b"\"@signature-params\": ");
    let list: List = vec![ListEntry::InnerList(covered.clone())];
    out.extend_from_slice(list.serialize_value().map_err(|_| Failure::MalformedSignature)?.as_bytes());
    Ok(out)
}

fn value(
    component: &Component<'_>,
    head: &RequestHead,
    path: &str,
    exchange: &Exchange,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let Some(derived) = component.name.strip_prefix('@') else { return field(component, head, out) };
    if !component.is_plain() && derived != "query-param" {
        return Err(Failure::MalformedSignature);
    }
    let scheme = exchange.scheme();
    match derived {
        "method" => out.extend_from_slice(head.method.as_str().as_bytes()),
        "scheme" => out.extend_from_slice(scheme.as_bytes()),
        "authority" => out.extend_from_slice(without_default_port(head.authority(), scheme)),
        "path" => out.extend_from_slice(path.as_bytes()),
        "query" => {
            out.push(b'?');
            out.extend_from_slice(head.query().unwrap_or_default().as_bytes());
        }
        "request-target" => target(head, path, out),
        "target-uri" => {
            out.extend_from_slice(scheme.as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(without_default_port(head.authority(), scheme));
            target(head, path, out);
        }
        "query-param" => {
            let name = component.text("name").ok_or(Failure::MalformedSignature)?;
            let mut values = head.query_pairs().filter(|(key, _)| reencoded(key) == name).map(|(_, value)| reencoded(value));
            // Section 2.2.8: of a repeated parameter nobody could say which value was meant.
            let (Some(value), None) = (values.next(), values.next()) else { return Err(Failure::MissingComponent) };
            out.extend_from_slice(value.as_bytes());
        }
        // `@status` belongs to answers, and nothing else is defined.
        _ => return Err(Failure::MalformedSignature),
    }
    Ok(())
}

fn target(head: &RequestHead, path: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(path.as_bytes());
    if let Some(query) = head.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}

/// A query parameter's name or value decoded as a form's and encoded again, as section 2.2.8 wants it: everything but letters,
/// digits and `*-._` as `%XX`.
fn reencoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in crate::carrier::decode(text).iter() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An HTTP field (section 2.1).
fn field(component: &Component<'_>, head: &RequestHead, out: &mut Vec<u8>) -> Result<(), Failure> {
    let lines: Vec<&[u8]> = match component.name {
        // What was signed is what the client wrote; HTTP/2 clients may write it as the authority alone.
        "host" => Some(head.written_host()).filter(|host| !host.is_empty()).into_iter().collect(),
        name => head.header_all(name).map(<[u8]>::trim_ascii).collect(),
    };
    if lines.is_empty() {
        return Err(Failure::MissingComponent);
    }
    if component.text("name").is_some() {
        return Err(Failure::MalformedSignature);
    }
    let joined = lines.join(&b", "[..]);
    let (sf, key, bs) = (component.flag("sf"), component.text("key"), component.flag("bs"));
    match (sf, key, bs) {
        (false, None, false) => out.extend_from_slice(&joined),
        (false, None, true) => {
            let item = |line: &&[u8]| ListEntry::Item(Item::new(BareItem::ByteSeq(line.to_vec())));
            let list: List = lines.iter().map(item).collect();
            out.extend_from_slice(list.serialize_value().map_err(|_| Failure::MissingComponent)?.as_bytes());
        }
        (_, Some(key), false) => {
            let dictionary = Parser::parse_dictionary(&joined).map_err(|_| Failure::MissingComponent)?;
            let member = dictionary.get(key).ok_or(Failure::MissingComponent)?;
            let list: List = vec![member.clone()];
            out.extend_from_slice(list.serialize_value().map_err(|_| Failure::MissingComponent)?.as_bytes());
        }
        (true, None, false) => out.extend_from_slice(strict(component.name, &joined)?.as_bytes()),
        _ => return Err(Failure::MalformedSignature),
    }
    Ok(())
}

/// A structured field serialised strictly. Which type a field has must be known (section 2.1.1): of these it is.
fn strict(name: &str, value: &[u8]) -> Result<String, Failure> {
    let dictionary = ["content-digest", "repr-digest", "want-content-digest", "priority", "signature", "signature-input"];
    let parsed = if dictionary.contains(&name) {
        Parser::parse_dictionary(value).and_then(|dictionary: Dictionary| dictionary.serialize_value())
    } else if ["accept", "accept-encoding", "accept-language", "cache-control"].contains(&name) {
        Parser::parse_list(value).and_then(|list| list.serialize_value())
    } else if name == "content-type" || name == "client-cert" {
        Parser::parse_item(value).and_then(|item| item.serialize_value())
    } else {
        return Err(Failure::MalformedSignature);
    };
    parsed.map_err(|_| Failure::MissingComponent)
}

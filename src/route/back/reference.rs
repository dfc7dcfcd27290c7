//! One reference to a resource (RFC 3986, section 4.1), from the service's side of the gateway to the client's.

use crate::authority::{self, canonical};

/// Whose name a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// The one under which the client came.
    Clients,
    /// The service's, which the client need not know.
    Services,
}

/// What is on either side of the gateway while a request is under way.
pub struct Sides<'a> {
    /// What the service's paths begin with, and the clients' in its place: nothing, or whole segments. `None` where the one says nothing of
    /// the other.
    pub beginnings: Option<(&'a str, &'a str)>,
    /// The path that the service was asked for.
    pub asked: &'a str,
    /// The path that the client asked for.
    pub came: &'a str,
    /// How the client came.
    pub scheme: &'static str,
    /// The host under which it came, in its one spelling and without the scheme's own port. Empty if it named none.
    pub public: &'a str,
    /// Whether the service is spoken to over TLS.
    pub tls: bool,
    /// Whose an authority is that is not `public`, in its one spelling, without the port of the scheme. `None`: somebody else's.
    pub owner: &'a dyn Fn(&str, &str) -> Option<Own>,
    /// Whether a host without a port is a name of the service's.
    pub is_services_host: &'a dyn Fn(&str) -> bool,
}

impl Sides<'_> {
    /// The same resource for the client. `None` where the reference says it already, names somebody else's resource, or is malformed.
    pub fn map(&self, reference: &[u8]) -> Option<Vec<u8>> {
        // Browsers drop some of these and take others for slashes: what that comes to is not for us to guess.
        if reference.iter().any(|&byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
            return None;
        }
        let mapped = match reference {
            [b'/', b'/', rest @ ..] => return self.url(None, rest).filter(|mapped| mapped != reference),
            [b'/', ..] => self.path(reference),
            [] | [b'?' | b'#', ..] => None,
            _ => match reference.iter().position(|byte| matches!(byte, b':' | b'/' | b'?' | b'#')) {
                Some(colon) if reference.get(colon) == Some(&b':') => {
                    let (scheme, rest) = reference.split_at(colon);
                    let scheme = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))?;
                    return self.url(Some(scheme), rest.strip_prefix(b"://")?).filter(|mapped| mapped != reference);
                }
                _ => self.relative(reference),
            },
        };
        // A path that would be taken for a host.
        mapped.filter(|mapped| mapped != reference && !mapped.starts_with(b"//"))
    }

    /// A URL, without its scheme and the slashes behind it.
    fn url(&self, scheme: Option<&'static str>, rest: &[u8]) -> Option<Vec<u8>> {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let spoken = scheme.unwrap_or(self.scheme);
        let authority = canonical(authority)?;
        let authority = authority::without_default_port(authority.text.as_bytes(), spoken);
        let authority = std::str::from_utf8(authority).ok()?;
        let own =
            if !self.public.is_empty() && authority == self.public { Own::Clients } else { (self.owner)(spoken, authority)? };
        let path = if path.starts_with(b"/") { self.path(path)? } else { [&self.path(b"/")?, path].concat() };
        if self.public.is_empty() {
            // Nobody knows under which name the client came.
            return (!path.starts_with(b"//")).then_some(path);
        }
        let mut mapped = Vec::with_capacity(rest.len() + self.public.len() + 16);
        if scheme.is_some() {
            mapped.extend_from_slice(self.scheme_for(spoken, own).as_bytes());
            mapped.push(b':');
        }
        mapped.extend_from_slice(b"//");
        mapped.extend_from_slice(self.public.as_bytes());
        mapped.extend_from_slice(&path);
        Some(mapped)
    }

    /// A service that sends a client from `http` to `https` means it: mapped back, it would send it there again and again. Where it is
    /// spoken to over TLS under a name of its own, it knows nothing else. A port that is named speaks one of the two.
    fn scheme_for(&self, spoken: &str, own: Own) -> &'static str {
        let named_port = authority::port(self.public.as_bytes()).is_some();
        let means_it = spoken == "https" && !named_port && !(own == Own::Services && self.tls);
        if means_it { "https" } else { self.scheme }
    }

    /// A path, with whatever stands behind it.
    fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let Some((inside, outside)) = self.beginnings else { return Some(path.to_vec()) };
        let rest = path.strip_prefix(inside.as_bytes())?;
        // Whole segments, of which none leads out again.
        if !matches!(rest.first(), None | Some(b'/' | b'?' | b'#')) || climbs(rest) {
            return None;
        }
        let slash: &[u8] = if outside.is_empty() && !rest.starts_with(b"/") { b"/" } else { b"" };
        Some([outside.as_bytes(), slash, rest].concat())
    }

    /// A relative path. Mostly the client makes the same of it as the service meant; not where they differ in how deep they are.
    fn relative(&self, reference: &[u8]) -> Option<Vec<u8>> {
        self.beginnings?;
        let mapped = self.path(&resolve(self.asked, reference))?;
        (mapped != resolve(self.came, reference)).then_some(mapped)
    }

    /// The `Path` of a cookie.
    pub fn cookie_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let (inside, outside) = self.beginnings?;
        if path.iter().any(|&byte| byte <= b' ' || byte == 0x7f || byte == b'\\') || !path.starts_with(b"/") {
            return None;
        }
        let mapped = match path {
            // All that the service has. A cookie for `/shop/` would not be sent to `/shop`.
            b"/" if inside.is_empty() && !outside.is_empty() => outside.as_bytes().to_vec(),
            _ => self.path(path)?,
        };
        (mapped != path).then_some(mapped)
    }

    /// The `Domain` of a cookie: the one that it has for the client. An inner `None`: the host alone, for there is no domain of that name.
    pub fn cookie_domain(&self, domain: &[u8]) -> Option<Option<&str>> {
        let domain = canonical(domain.strip_prefix(b".").unwrap_or(domain))?;
        let public = authority::host(self.public);
        if domain.host() == public || !(self.is_services_host)(domain.host()) {
            return None;
        }
        let is_name = public.contains('.') && public.parse::<std::net::IpAddr>().is_err() && !public.starts_with('[');
        Some(is_name.then_some(public))
    }
}

/// How many levels a segment goes up (`..`) or stays at (`.`), as browsers read it. `None` for one that goes down.
fn dots(segment: &[u8]) -> Option<usize> {
    let (mut count, mut rest) = (0, segment);
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (1..=2).contains(&count).then(|| count - 1)
}

/// Whether dot segments lead above where the path begins.
fn climbs(path: &[u8]) -> bool {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    let mut depth = 0usize;
    for segment in path.get(..end).unwrap_or_default().split(|&byte| byte == b'/').skip(1) {
        match dots(segment) {
            Some(0) => {}
            Some(_) => match depth.checked_sub(1) {
                Some(left) => depth = left,
                None => return true,
            },
            None => depth += 1,
        }
    }
    false
}

/// A relative path, seen from another path (RFC 3986, section 5.2).
fn resolve(base: &str, reference: &[u8]) -> Vec<u8> {
    let end = reference.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(reference.len());
    let (path, behind) = reference.split_at(end);
    let folder = base.rfind('/').map_or("/", |slash| base.get(..=slash).unwrap_or("/"));
    let whole = [folder.as_bytes(), path].concat();
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = whole.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            None => {
                kept.push(segment);
                continue;
            }
            Some(0) => {}
            Some(_) => drop(kept.pop()),
        }
        if last {
            kept.push(b"");
        }
    }
    let mut resolved = Vec::with_capacity(whole.len() + behind.len());
    for segment in kept {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if resolved.is_empty() {
        resolved.push(b'/');
    }
    resolved.extend_from_slice(behind);
    resolved
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Behind `/shop`, asked under `app.internal`, at 10.0.0.1:9001.
    pub fn with<T>(work: impl FnOnce(&Sides<'_>) -> T) -> T {
        seen(Some(("", "/shop")), "/cart/7", "/shop/cart/7", "https", "shop.example", work)
    }

    fn seen<T>(
        beginnings: Option<(&str, &str)>,
        asked: &str,
        came: &str,
        scheme: &'static str,
        public: &str,
        work: impl FnOnce(&Sides<'_>) -> T,
    ) -> T {
        let owner = |_: &str, authority: &str| {
            ["app.internal", "10.0.0.1:9001", "shop.example:9001"].contains(&authority).then_some(Own::Services)
        };
        let is_services_host = |host: &str| ["app.internal", "10.0.0.1"].contains(&host);
        let (owner, is_services_host) = (&owner, &is_services_host);
        work(&Sides { beginnings, asked, came, scheme, public, tls: false, owner, is_services_host })
    }

    fn text(mapped: Option<Vec<u8>>) -> Option<String> {
        mapped.map(|mapped| String::from_utf8(mapped).unwrap())
    }

    #[test]
    fn what_the_service_calls_its_own_is_mapped() {
        for (from, to) in [
            ("/", "/shop/"),
            ("/login?next=/a#b", "/shop/login?next=/a#b"),
            ("/a%2Fb/", "/shop/a%2Fb/"),
            ("/a/../b", "/shop/a/../b"),
            ("http://shop.example/cart", "https://shop.example/shop/cart"),
            ("HTTP://SHOP.example.:80/cart", "https://shop.example/shop/cart"),
            ("https://shop.example", "https://shop.example/shop/"),
            ("https://shop.example?a", "https://shop.example/shop/?a"),
            ("http://shop.example:9001/cart/", "https://shop.example/shop/cart/"),
            ("http://app.internal/cart", "https://shop.example/shop/cart"),
            ("http://10.0.0.1:9001/cart", "https://shop.example/shop/cart"),
            ("//shop.example/cart", "//shop.example/shop/cart"),
            ("//app.internal/cart", "//shop.example/shop/cart"),
            // Deeper than the client may go from where it is.
            ("../../x", "/shop/x"),
            ("../../../x", "/shop/x"),
        ] {
            assert_eq!(with(|sides| text(sides.map(from.as_bytes()))).as_deref(), Some(to), "{from}");
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for reference in [
            "",
            "#top",
            "?page=2",
            // The client makes the same of these.
            "8",
            "../cart/9",
            "./8?x",
            "https://other.example/cart",
            "//other.example/cart",
            "http://other.example:9001/",
            "http://user@shop.example/cart",
            "http://shop.example:8080/cart",
            "http:/cart",
            "http:cart",
            "http://",
            "http:///cart",
            "mailto:a@shop.example",
            "javascript:alert(1)",
            "/\\other.example",
            "\\/other.example",
            "/a b",
            " /a",
            "/a\tb",
            "/../etc",
            "/a/%2e%2E/../b",
        ] {
            assert_eq!(with(|sides| text(sides.map(reference.as_bytes()))), None, "{reference}");
        }
    }

    #[test]
    fn one_beginning_takes_the_place_of_the_other() {
        let map = |inside, outside, from: &str| {
            seen(Some((inside, outside)), "/v2/items/7", "/items/7", "http", "shop.example:8080", |sides| {
                text(sides.map(from.as_bytes()))
            })
        };
        assert_eq!(map("/v2", "", "/v2/items/8").as_deref(), Some("/items/8"));
        assert_eq!(map("/v2", "", "/v2?x").as_deref(), Some("/?x"));
        assert_eq!(map("/v2", "", "/v2").as_deref(), Some("/"));
        assert_eq!(map("/v2", "/api", "/v2").as_deref(), Some("/api"));
        assert_eq!(map("/v2", "/api", "http://shop.example:8080/v2/a").as_deref(), Some("http://shop.example:8080/api/a"));
        // What is not below it is not what this route serves, and a host is not made of a path.
        for foreign in ["/v3/items", "/v20/items", "/", "/v2//other.example/", "/v2/../x", "/v2/a/../../x"] {
            assert_eq!(map("/v2", "", foreign), None, "{foreign}");
        }
        assert_eq!(map("", "", "/v2/items"), None);
        // In a whole URL the host is said, and stays what it is.
        assert_eq!(map("/v2", "", "http://app.internal/v2//a").as_deref(), Some("http://shop.example:8080//a"));
    }

    #[test]
    fn a_service_may_send_clients_to_tls() {
        let map = |scheme, public, from: &str| {
            seen(None, "/", "/", scheme, public, |sides| text(sides.map(from.as_bytes())).unwrap_or_else(|| from.to_owned()))
        };
        assert_eq!(map("http", "shop.example", "https://shop.example/a"), "https://shop.example/a");
        assert_eq!(map("http", "shop.example", "https://app.internal/a"), "https://shop.example/a");
        assert_eq!(map("http", "shop.example", "http://app.internal/a"), "http://shop.example/a");
        // This port speaks one of the two.
        assert_eq!(map("http", "shop.example:8080", "https://shop.example:8080/a"), "http://shop.example:8080/a");
        // Without a name there is only the path.
        assert_eq!(map("http", "", "http://app.internal/a"), "/a");
        assert_eq!(map("http", "", "http://app.internal//a"), "http://app.internal//a");
    }

    #[test]
    fn relative_paths_count_from_where_the_service_was_asked() {
        let map = |from: &str| seen(Some(("", "/shop")), "/", "/shop", "http", "h", |sides| text(sides.map(from.as_bytes())));
        assert_eq!(map("login").as_deref(), Some("/shop/login"));
        assert_eq!(map("./").as_deref(), Some("/shop/"));
        assert_eq!(map(".//other.example").as_deref(), Some("/shop//other.example"));
    }

    #[test]
    fn cookies_have_their_paths_and_domains() {
        with(|sides| {
            for (from, to) in [("/", "/shop"), ("/cart", "/shop/cart"), ("/cart/", "/shop/cart/")] {
                assert_eq!(text(sides.cookie_path(from.as_bytes())).as_deref(), Some(to), "{from}");
            }
            for odd in ["", "cart", "/../a", "/a b", "\"/\""] {
                assert_eq!(sides.cookie_path(odd.as_bytes()), None, "{odd}");
            }
            for own in ["app.internal", ".App.Internal", "10.0.0.1"] {
                assert_eq!(sides.cookie_domain(own.as_bytes()), Some(Some("shop.example")), "{own}");
            }
            for other in ["shop.example", "example", "other.example", "internal", ""] {
                assert_eq!(sides.cookie_domain(other.as_bytes()), None, "{other}");
            }
        });
        for public in ["localhost:8080", "127.0.0.1", "[::1]", ""] {
            seen(None, "/", "/", "http", public, |sides| {
                assert_eq!(sides.cookie_domain(b"app.internal"), Some(None), "{public}")
            });
        }
    }
}

//! Where in a document: JSON Pointers (RFC 6901), in which `*` stands for every element or member, and `**` for any number of levels.

use std::fmt;

/// The longest pointer, in levels.
const MOST: usize = 64;

/// One level of a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A member of that name, or the element of that number.
    Name(Box<str>),
    /// `*`
    Each,
    /// `**`: none, one or many levels.
    Deep,
}

/// A place in a document, or many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pointer(pub Box<[Token]>);

impl Pointer {
    /// `""` is the whole document. `~0` is `~`, `~1` is `/`, as the standard has it; `~2` is a `*` that is a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Pointer, &'static str> {
        if text.is_empty() {
            return Ok(Pointer::default());
        }
        let rest = text.strip_prefix('/').ok_or("a JSON Pointer begins with `/`, or is empty for the whole document")?;
        let tokens = rest.split('/').map(token).collect::<Result<Vec<_>, _>>()?;
        if tokens.len() > MOST {
            return Err("a pointer has at most 64 levels");
        }
        if tokens.iter().filter(|token| **token == Token::Deep).count() > 1 {
            return Err("`**` may stand once in a pointer");
        }
        if tokens.last() == Some(&Token::Deep) {
            return Err("`**` is followed by what is meant at any depth: `/**/name`");
        }
        Ok(Pointer(tokens.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is one place at most.
    pub fn is_one(&self) -> bool {
        self.0.iter().all(|token| matches!(token, Token::Name(_)))
    }
}

fn token(text: &str) -> Result<Token, &'static str> {
    match text {
        "*" => return Ok(Token::Each),
        "**" => return Ok(Token::Deep),
        _ if !text.contains('~') => return Ok(Token::Name(text.into())),
        _ => {}
    }
    let mut name = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(letter) = chars.next() {
        name.push(match letter {
            '~' => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                Some('2') => '*',
                _ => return Err("`~` is written `~0` in a JSON Pointer, `/` in a name `~1`"),
            },
            other => other,
        });
    }
    Ok(Token::Name(name.into()))
}

/// The number of an element.
pub fn index(name: &str) -> Option<u64> {
    let is_one = name == "0" || !name.starts_with('0') && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    is_one.then(|| name.parse().ok()).flatten()
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| match token {
            Token::Each => f.write_str("/*"),
            Token::Deep => f.write_str("/**"),
            Token::Name(name) => {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                write!(f, "/{}", if matches!(&*escaped, "*" | "**") { escaped.replace('*', "~2") } else { escaped })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let name = |text: &str| Token::Name(text.into());
        for (text, tokens) in [
            ("", vec![]),
            ("/foo/0", vec![name("foo"), name("0")]),
            ("/", vec![name("")]),
            ("/a~1b", vec![name("a/b")]),
            ("/m~0n", vec![name("m~n")]),
            ("/~01", vec![name("~1")]),
            ("/c%d", vec![name("c%d")]),
            ("/ ", vec![name(" ")]),
            ("/items/*/id", vec![name("items"), Token::Each, name("id")]),
            ("/**/id", vec![Token::Deep, name("id")]),
            ("/~2/a*", vec![name("*"), name("a*")]),
        ] {
            let parsed = Pointer::parse(text).unwrap();
            assert_eq!(&*parsed.0, tokens.as_slice(), "{text}");
            assert_eq!(Pointer::parse(&parsed.to_string()).unwrap(), parsed, "{text}");
        }
        for wrong in ["a", "/a~", "/a~3", "/**", "/**/a/**/b", &"/a".repeat(65)] {
            assert!(Pointer::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!([index("0"), index("10"), index("01"), index("-"), index("")], [Some(0), Some(10), None, None, None]);
    }
}

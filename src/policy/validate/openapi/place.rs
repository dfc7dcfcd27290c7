//! Where in a file something stands that a JSON Pointer names. Asked only where something is wrong, so that nobody else pays for it.

use saphyr_parser::{Event, Parser};

use crate::schema::escaped;

/// A list or table that is open: how long the path was, and what comes next in it.
enum Open {
    List { length: usize, at: usize },
    Table { length: usize, key: bool },
}

/// Line and column of each; of what is not there, those of the innermost that is. YAML and JSON are read alike.
pub fn places(text: &str, pointers: &[&str]) -> Vec<Option<(u32, u32)>> {
    let mut found: Vec<(usize, Option<(u32, u32)>)> = pointers.iter().map(|_| (0, None)).collect();
    let wanted: Vec<String> = pointers.iter().map(|pointer| decoded(pointer)).collect();
    let (mut path, mut open): (String, Vec<Open>) = (String::new(), Vec::new());
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let here = (u32::try_from(span.start.line()).unwrap_or(0), u32::try_from(span.start.col() + 1).unwrap_or(0));
        if let (Some(Open::Table { length, key }), Event::Scalar(text, ..)) = (open.last_mut(), &event)
            && *key
        {
            path.truncate(*length);
            path.push('/');
            path.push_str(&escaped(text));
            *key = false;
            note(&path, here, &wanted, &mut found);
            continue;
        }
        let begins = matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(..));
        if begins {
            match open.last_mut() {
                Some(Open::List { length, at }) => {
                    path.truncate(*length);
                    path.push_str(&format!("/{at}"));
                    *at += 1;
                    note(&path, here, &wanted, &mut found);
                }
                Some(Open::Table { key, .. }) => *key = true,
                None => note(&path, here, &wanted, &mut found),
            }
        }
        match event {
            Event::SequenceStart(..) => open.push(Open::List { length: path.len(), at: 0 }),
            Event::MappingStart(..) => open.push(Open::Table { length: path.len(), key: true }),
            Event::SequenceEnd | Event::MappingEnd => drop(open.pop()),
            _ => {}
        }
    }
    found.into_iter().map(|(_, place)| place).collect()
}

/// A pointer, also one that is the fragment of a reference.
fn decoded(pointer: &str) -> String {
    match pointer.strip_prefix('#') {
        Some(fragment) => crate::carrier::lossy(crate::carrier::decode_escapes(fragment)).into_owned(),
        None => pointer.to_owned(),
    }
}

fn note(path: &str, here: (u32, u32), wanted: &[String], found: &mut [(usize, Option<(u32, u32)>)]) {
    for (pointer, (length, place)) in wanted.iter().zip(found) {
        let is_above = pointer.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_above && (place.is_none() || path.len() > *length) {
            (*length, *place) = (path.len(), Some(here));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_have_places() {
        let yaml = "openapi: 3.1.0\npaths:\n  /a/b:\n    get:\n      tags:\n        - x\n        - y\n";
        let pointers = ["/paths/~1a~1b/get", "/paths/~1a~1b/get/tags/1", "/paths/none", "", "#/paths/~1a~1b"];
        let at = [Some((4, 5)), Some((7, 11)), Some((2, 1)), Some((1, 1)), Some((3, 3))];
        assert_eq!(places(yaml, &pointers), at);
        let json = "{\n \"a\": [ { \"b\": 1 },\n  { \"c\": 2 } ] }";
        assert_eq!(places(json, &["/a/1/c", "/a/0"]), [Some((3, 5)), Some((2, 9))]);
    }
}

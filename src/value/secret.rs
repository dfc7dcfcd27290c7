//! Secrets: named in the configuration, kept elsewhere.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::node::{NO_LITERAL, magic};

/// A password, a key or a token. It stands in an environment variable (`${NAME}`, the whole value) or in a file (`{ file: path }`);
/// written out in the configuration it is refused. Neither `Debug` nor `Serialize` reveals it, nor the error of [`Secret::read`].
#[derive(Clone)]
pub struct Secret(SecretSource);

#[derive(Clone)]
enum SecretSource {
    /// The variable's value as it was when the configuration was loaded.
    Variable {
        name: String,
        value: String,
    },
    File(PathBuf),
}

/// The longest file that is taken for a secret, in bytes.
const LONGEST_SECRET: u64 = 1 << 20;
impl Secret {
    /// The content, without one trailing newline. A relative file name counts from `base`.
    ///
    /// # Errors
    /// The file cannot be read or is longer than 1 MiB, or there is nothing in it or in the variable. The text names the file or the
    /// variable, never the content.
    pub fn read(&self, base: &Path) -> Result<Vec<u8>, String> {
        let (mut content, origin) = match &self.0 {
            SecretSource::Variable { name, value } => (value.clone().into_bytes(), format!("the variable {name}")),
            SecretSource::File(path) => {
                let path = base.join(path);
                let content = read_bounded(&path).map_err(|error| format!("the secret file {} {error}", path.display()))?;
                (content, format!("the secret file {}", path.display()))
            }
        };
        if content.last() == Some(&b'\n') {
            content.pop();
            if content.last() == Some(&b'\r') {
                content.pop();
            }
        }
        // An empty password or key would let everybody in.
        if content.is_empty() { Err(format!("{origin} is empty")) } else { Ok(content) }
    }

    /// The file that [`Secret::read`] reads, if it is one: to watch it for changes.
    pub fn file(&self, base: &Path) -> Option<PathBuf> {
        match &self.0 {
            SecretSource::File(path) => Some(base.join(path)),
            SecretSource::Variable { .. } => None,
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(LONGEST_SECRET + 1).read_to_end(&mut content).map_err(cannot)?;
    if content.len() as u64 > LONGEST_SECRET { Err("is longer than 1 MiB".to_owned()) } else { Ok(content) }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// `ours`: the deserializer is this crate's, the only one that can tell a reference from a literal.
        struct SecretVisitor {
            ours: bool,
        }

        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret as \"${NAME}\" or { file: path }")
            }

            // The variable's name and its value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Secret, A::Error> {
                if !self.ours {
                    return Err(A::Error::invalid_type(Unexpected::Seq, &self));
                }
                let name = seq.next_element()?.ok_or_else(|| A::Error::custom(NO_LITERAL))?;
                let value = seq.next_element()?.ok_or_else(|| A::Error::custom(NO_LITERAL))?;
                Ok(Secret(SecretSource::Variable { name, value }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct InFile {
                    file: PathBuf,
                }
                let InFile { file } = InFile::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Secret(SecretSource::File(file)))
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                deserializer.deserialize_any(SecretVisitor { ours: false })
            }
        }

        deserializer.deserialize_newtype_struct(magic::SECRET, SecretVisitor { ours: true })
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: the name of an environment variable as \"${NAME}\", or a file as { file: path }.",
            "anyOf": [
                { "type": "string", "pattern": "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$" },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string", "description": "Its path; a relative one counts from the configuration file." } },
                    "required": ["file"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node;
    use crate::problem::Problems;

    fn read(yaml: &str) -> Result<Vec<u8>, String> {
        let mut problems = Problems::default();
        let env = |name: &str| match name {
            "TOKEN" => Some("hunter2\n".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let root = node::parse(yaml, &env, &mut problems).expect("is YAML");
        let secret = node::decode::<Secret>(root.get("s").expect("is there"), &mut problems);
        match (secret, problems.iter().next()) {
            (Some(secret), None) => {
                assert!(!format!("{secret:?}{}", serde_json::to_string(&secret).unwrap()).contains("hunter2"));
                secret.read(Path::new("/nonexistent"))
            }
            (_, problem) => Err(format!("{problem:?}")),
        }
    }

    #[test]
    fn takes_references_and_files_only() {
        assert_eq!(read("s: ${TOKEN}"), Ok(b"hunter2".to_vec()));
        assert_eq!(read("s: \"${TOKEN}\""), Ok(b"hunter2".to_vec()));
        for literal in ["s: hunter2", "s: 1234", "s: x${TOKEN}", "s: ${NONE:-hunter2}", "s: [a, b]", "s: { value: hunter2 }"] {
            let error = read(literal).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("1234"), "{error}");
        }
        let missing = read("s: { file: key }").unwrap_err();
        assert!(missing.contains("/nonexistent/key"), "{missing}");
        assert_eq!(read("s: ${EMPTY}").unwrap_err(), "the variable EMPTY is empty");
    }

    #[test]
    fn other_deserializers_get_no_literal_in() {
        assert!(serde_json::from_str::<Secret>("\"hunter2\"").is_err());
        assert!(serde_json::from_str::<Secret>("[\"NAME\", \"hunter2\"]").is_err());
        assert!(serde_json::from_str::<Secret>("{\"file\": \"x\"}").is_ok());
    }

    #[test]
    fn trims_one_newline_and_bounds_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret(SecretSource::File("key".into()));
        let write = |content: &[u8]| std::fs::write(folder.path().join("key"), content).unwrap();
        write(b"abc\n\r\n");
        assert_eq!(secret.read(folder.path()), Ok(b"abc\n".to_vec()));
        write(b"\n");
        assert!(secret.read(folder.path()).unwrap_err().ends_with("is empty"));
        write(&vec![b'x'; (1 << 20) + 1]);
        assert!(secret.read(folder.path()).unwrap_err().ends_with("is longer than 1 MiB"));
    }
}

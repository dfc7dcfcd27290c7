//! A Lua script, and the commands that run it.

use ::redis::Cmd;

/// A Lua script. Redis runs it as one: nothing comes in between.
#[derive(Debug)]
pub struct Script {
    text: Box<str>,
    digest: Box<str>,
}

impl Script {
    pub fn new(text: &str) -> Self {
        Script { text: text.into(), digest: ::redis::Script::new(text).get_hash().into() }
    }

    pub(super) fn by_digest(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.digest, keys, args)
    }

    /// Redis keeps the text, and knows the digest from then on.
    pub(super) fn by_text(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        command("EVAL", &self.text, keys, args)
    }
}

fn command(name: &str, script: &str, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
    let length = keys.iter().chain(args).map(|word| word.len() + 16).sum::<usize>();
    let mut command = Cmd::with_capacity(3 + keys.len() + args.len(), length + script.len() + 64);
    command.arg(name).arg(script).arg(keys.len());
    for word in keys.iter().chain(args) {
        command.arg(*word);
    }
    command
}

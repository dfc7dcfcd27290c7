//! A case: what a client does on one connection, and what the backend answers to the requests that reach it.

use std::time::Duration;

/// One thing that the client does.
#[derive(Clone)]
pub enum Act {
    Send(Vec<u8>),
    /// Waits until the backend has seen this many heads of this case, or the gateway has answered or closed.
    AwaitHeads(usize),
    /// Waits until this many answers have come, interim ones included, or the gateway has closed.
    AwaitAnswers(usize),
    /// Does nothing for so long, and does not read either.
    Stop(Duration),
    /// Goes away without listening any further.
    Leave,
}

/// What the backend does about one request.
#[derive(Clone)]
pub struct Script {
    pub when: When,
    pub pieces: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum When {
    /// Once the request is whole.
    Whole,
    /// At its head; the body is read afterwards.
    Early,
    /// At its head, and what follows is taken for the next request, as servers do that ignore a body (CL.0).
    Deaf,
}

#[derive(Clone)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// So many bytes that mean nothing.
    Filler(usize),
    Pause(Duration),
    /// The backend closes its connection.
    End,
}

impl Script {
    pub fn whole(bytes: impl Into<Vec<u8>>) -> Script {
        Script { when: When::Whole, pieces: vec![Piece::Bytes(bytes.into())] }
    }

    pub fn then_end(mut self) -> Script {
        self.pieces.push(Piece::End);
        self
    }

    pub fn when(mut self, when: When) -> Script {
        self.when = when;
        self
    }
}

pub struct Case {
    /// The same in every run with the same seed. Every target of the case's requests holds it.
    pub number: usize,
    pub kind: &'static str,
    pub acts: Vec<Act>,
    /// For the case's first request at the backend, its second, and so on. Whatever comes after them is answered with 200.
    pub scripts: Vec<Script>,
    /// What the first final answer has to begin with, beside being the same.
    pub must: Option<&'static str>,
}

impl Case {
    /// Whether the client asks with HEAD, in which case bodies cannot be told from the next answer by framing alone.
    pub fn asks_head(&self) -> bool {
        let sent = self.acts.iter().filter_map(|act| if let Act::Send(bytes) = act { Some(&bytes[..]) } else { None });
        sent.collect::<Vec<_>>().concat().windows(5).any(|window| window == b"HEAD ")
    }

    /// For a failure's report.
    pub fn describe(&self) -> String {
        let mut text = format!("case {} ({})\n", self.number, self.kind);
        for act in &self.acts {
            text += &match act {
                Act::Send(bytes) => format!("  client sends {}\n", shortened(bytes)),
                Act::AwaitHeads(count) => format!("  client waits until the backend has {count} heads\n"),
                Act::AwaitAnswers(count) => format!("  client waits for {count} answers\n"),
                Act::Stop(time) => format!("  client does nothing for {time:?}\n"),
                Act::Leave => "  client goes away\n".to_owned(),
            };
        }
        for script in &self.scripts {
            text += match script.when {
                When::Whole => "  backend answers",
                When::Early => "  backend answers at the head",
                When::Deaf => "  backend answers at the head and ignores the body:",
            };
            for piece in &script.pieces {
                text += &match piece {
                    Piece::Bytes(bytes) => format!(" {}", shortened(bytes)),
                    Piece::Filler(count) => format!(" [{count} bytes]"),
                    Piece::Pause(time) => format!(" [{time:?}]"),
                    Piece::End => " [closes]".to_owned(),
                };
            }
            text.push('\n');
        }
        if let Some(must) = self.must {
            text += &format!("  the answer must begin with {must:?}\n");
        }
        text
    }
}

/// Bytes as text, long ones without their middle.
pub fn shortened(bytes: &[u8]) -> String {
    if bytes.len() <= 1500 {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let (begin, end) = (&bytes[..1000], &bytes[bytes.len() - 200..]);
    format!("\"{}\" ({} bytes) \"{}\"", begin.escape_ascii(), bytes.len() - 1200, end.escape_ascii())
}

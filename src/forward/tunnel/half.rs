//! One direction of a tunnel: bytes from the one end to the other, and what the gateway itself says to whoever listens.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::wire::duplex::{Absorb, reset_reason};
use crate::wire::scratch;
use crate::wire::websocket::{Fault, Frames, Law, Met};

/// So often one direction is served before it is the other's turn, and that of other connections.
const TURN: usize = 16;

/// Who fails.
pub enum Failing {
    /// With the reason for which a stream was broken off.
    Speaker(Option<Reason>),
    Listener(Option<Reason>),
}

/// One direction.
pub struct Half {
    /// What was read and is not written yet.
    bytes: BytesMut,
    /// How much of it may be written: all of it, but for a head that is not whole, where frames are judged by their heads.
    ready: usize,
    frames: Frames,
    /// What frames may be. Without it, all that comes is passed on, whatever it is.
    law: Option<Box<Law>>,
    /// Where in `bytes` a frame begins that may be the answer to the gateway's ping.
    held: Option<usize>,
    /// So many answers to pings are to come.
    pub pongs: u32,
    /// A frame broke the law: it stands at the end of what is passed on, and nothing else will.
    pub fault: Option<Fault>,
    cut: bool,
    /// Where frames begin and end is not known any more.
    lost: bool,
    /// The close frame that is to be said as soon as a frame may begin.
    farewell: Option<Vec<u8>>,
    /// It was said: nothing else that comes is passed on.
    parted: bool,
    /// Nothing else will be said.
    pub finish: bool,
    /// Whoever speaks here has ended.
    pub ended: bool,
    /// And whoever listens was told.
    pub shut: bool,
    flushed: bool,
    pub moved: u64,
    pub messages: u64,
    /// Something came since this was looked at last, or could not have been heard; and it was of a message.
    pub heard: bool,
    pub spoke: bool,
    /// Since when nothing of `bytes` was taken.
    waits: Option<Instant>,
    /// Its turn was over before there was nothing left to move.
    pub busy: bool,
}

impl Half {
    pub fn new(bytes: BytesMut, law: Option<Law>) -> Self {
        let mut half = Half {
            bytes,
            ready: 0,
            frames: Frames::default(),
            law: law.map(Box::new),
            held: None,
            pongs: 0,
            fault: None,
            cut: false,
            lost: false,
            farewell: None,
            parted: false,
            finish: false,
            ended: false,
            shut: false,
            flushed: true,
            moved: 0,
            messages: 0,
            heard: false,
            spoke: false,
            waits: None,
            busy: false,
        };
        half.take_in(0);
        half
    }

    /// Whether whoever listens has taken nothing for too long.
    pub fn stalls(&self, patience: Duration) -> bool {
        self.waits.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Whether whoever listens has yet to take something. Nothing more is read before that.
    pub fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// What whoever speaks here has closed with.
    pub fn closed(&self) -> Option<u16> {
        self.frames.closed()
    }

    /// Nothing is to be expected of whoever speaks here.
    pub fn is_over(&self) -> bool {
        self.ended || self.closed().is_some()
    }

    /// The farewell was said, and has gone out.
    pub fn has_parted(&self) -> bool {
        self.parted && self.bytes.is_empty() && self.flushed
    }

    /// Whether what is written, or may be, ends where a frame may begin.
    fn may_speak(&self) -> bool {
        match &self.law {
            _ if self.cut => true,
            Some(_) => !self.frames.is_open() || self.held.is_some(),
            None => self.frames.are_whole(),
        }
    }

    /// Says something of the gateway's own, if a frame may begin here.
    pub fn say(&mut self, frame: &[u8]) -> bool {
        let done = self.parted || self.ended || self.farewell.is_some() || self.closed().is_some();
        let may = self.law.is_some() && self.may_speak() && !done;
        if may {
            let tail = self.bytes.split_off(self.ready);
            self.bytes.extend_from_slice(frame);
            self.bytes.extend_from_slice(&tail);
            self.ready += frame.len();
            self.held = self.held.map(|held| held + frame.len());
        }
        may
    }

    /// From here on, nothing else is passed on than what is left of the present frame, and then this.
    pub fn part(&mut self, farewell: Vec<u8>) {
        if self.parted || self.farewell.is_some() || self.ended {
            return;
        }
        if self.law.is_some() && self.closed().is_some() {
            // Whoever speaks here has said it already, and nothing comes after that.
            self.parted = true;
        } else if self.may_speak() {
            self.bytes.truncate(self.ready);
            self.bid(&farewell);
        } else {
            self.farewell = Some(farewell);
        }
    }

    fn bid(&mut self, farewell: &[u8]) {
        self.bytes.extend_from_slice(farewell);
        self.ready = self.bytes.len();
        (self.held, self.parted) = (None, true);
    }

    /// Looks at what has come from that place on.
    fn take_in(&mut self, mut at: usize) {
        loop {
            let (count, met) = self.frames.take(self.bytes.get(at..).unwrap_or_default());
            at += count;
            match met {
                Met::Nothing => break,
                Met::Part => self.spoke |= !self.frames.in_control(),
                Met::Head(head) => {
                    let start = at.saturating_sub(head.size);
                    if let Some(Err(fault)) = self.law.as_mut().map(|law| law.judge(&head)) {
                        self.break_off(start, at, fault);
                        return;
                    }
                    self.messages += u64::from(head.begins());
                    self.spoke |= !head.is_control();
                    if self.pongs > 0 && head.may_be_ours() {
                        self.held = Some(start);
                    }
                }
                Met::End => {
                    if let Some(start) = self.held.take()
                        && self.frames.was_ours()
                    {
                        self.pongs = self.pongs.saturating_sub(1);
                        let rest = self.bytes.split_off(at);
                        self.bytes.truncate(start);
                        self.bytes.extend_from_slice(&rest);
                        at = start;
                    }
                    if let Some(farewell) = self.farewell.take() {
                        let rest = self.bytes.split_off(at);
                        self.bid(&farewell);
                        self.overhear(&rest);
                        return;
                    }
                }
            }
        }
        self.ready = match &self.law {
            Some(_) => self.held.unwrap_or(self.bytes.len().saturating_sub(self.frames.begun())),
            None => self.bytes.len(),
        };
    }

    /// The frame whose head is there breaks the law: what came before it is passed on.
    fn break_off(&mut self, start: usize, end: usize, fault: Fault) {
        let rest = self.bytes.split_off(end);
        self.bytes.truncate(start);
        self.ready = self.bytes.len();
        (self.fault, self.cut, self.lost) = (Some(fault), true, fault == Fault::Malformed);
        self.overhear(&rest);
    }

    /// Looks for a close frame in what is not passed on.
    fn overhear(&mut self, piece: &[u8]) {
        let mut at = 0;
        while !self.lost {
            let (count, met) = self.frames.take(piece.get(at..).unwrap_or_default());
            at += count;
            if met == Met::Nothing {
                return;
            }
        }
    }

    /// Moves what can be moved at once, for a turn. Ready once this half is over, or a frame broke the law.
    pub fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Absorb + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failing>> {
        self.busy = false;
        for _ in 0..TURN {
            while self.ready > 0 {
                let piece = self.bytes.get(..self.ready).unwrap_or_default();
                let count = match Pin::new(&mut *to).poll_write(cx, piece) {
                    Poll::Ready(count) => count.and_then(some).map_err(|error| Failing::Listener(reset_reason(&error)))?,
                    Poll::Pending => {
                        self.waits.get_or_insert_with(Instant::now);
                        from.absorb(cx);
                        return Poll::Pending;
                    }
                };
                self.taken();
                self.flushed = false;
                self.bytes.advance(count);
                self.ready -= count;
                self.held = self.held.map(|held| held.saturating_sub(count));
                self.moved += count as u64;
            }
            if !self.flushed {
                // An idle tunnel holds no buffer.
                if self.bytes.is_empty() {
                    self.bytes = BytesMut::new();
                }
                match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(flushed) => flushed.map_err(|error| Failing::Listener(reset_reason(&error)))?,
                    Poll::Pending => {
                        self.waits.get_or_insert_with(Instant::now);
                        from.absorb(cx);
                        return Poll::Pending;
                    }
                }
                self.taken();
                self.flushed = true;
            }
            if self.ended || self.finish {
                if !self.shut {
                    // Whoever listens may be gone, and has nothing left to hear.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            if self.fault.is_some() {
                // What becomes of it is for both halves.
                return Poll::Ready(Ok(()));
            }
            ready!(self.read(from, cx))?;
        }
        self.busy = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whoever listens takes something. While it did not, whoever speaks was not read, and could not be heard.
    fn taken(&mut self) {
        self.heard |= self.waits.take().is_some();
    }

    fn read(&mut self, from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), Failing>> {
        if self.parted || self.cut {
            let mut unheard = BytesMut::new();
            match ready!(scratch::poll_read(Pin::new(&mut *from), cx, &mut unheard)) {
                Ok(1..) => self.overhear(&unheard),
                Ok(0) | Err(_) => self.ended = true,
            }
            return Poll::Ready(Ok(()));
        }
        let before = self.bytes.len();
        match ready!(scratch::poll_read(Pin::new(&mut *from), cx, &mut self.bytes)) {
            Ok(0) => {
                self.ended = true;
                // What will not be whole is passed on as it is, what may have been an answer to the gateway included.
                (self.ready, self.held) = (self.bytes.len(), None);
            }
            Ok(_) => {
                self.heard = true;
                self.take_in(before);
            }
            Err(error) => return Poll::Ready(Err(Failing::Speaker(reset_reason(&error)))),
        }
        Poll::Ready(Ok(()))
    }
}

fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::wire::websocket::{Speaker, close, ping};

    /// Gives `bytes` to a half in pieces of this size, and says what it has passed on.
    fn passed(half: &mut Half, bytes: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.chunks(size) {
            let (mut from, mut cx) = (piece, Context::from_waker(Waker::noop()));
            while !from.is_empty() && half.fault.is_none() {
                // One read, and what it brings; an empty source would be the end.
                let Poll::Ready(Ok(())) = half.read(&mut from, &mut cx) else { panic!("nothing can fail here") };
                out.extend_from_slice(&half.bytes.split_to(half.ready));
                half.held = half.held.map(|held| held - half.ready);
                half.ready = 0;
            }
        }
        out
    }

    fn law(from: Speaker) -> Option<Law> {
        Some(Law::new(from, false, Some(10), None))
    }

    fn text(length: u8) -> Vec<u8> {
        [&[0x81, 0x80 | length, 0, 0, 0, 0][..], &vec![b'x'; usize::from(length)]].concat()
    }

    #[test]
    fn what_breaks_the_law_is_not_passed_on_and_what_came_before_it_is() {
        let good = [text(3), text(10), text(0)].concat();
        let all = [&good[..], &text(11), &text(1)].concat();
        for size in 1..all.len() {
            let mut half = Half::new(BytesMut::new(), law(Speaker::Client));
            assert_eq!(passed(&mut half, &all, size), good, "{size}");
            assert_eq!((half.fault.take(), half.messages), (Some(Fault::TooLarge), 3), "{size}");
            half.part(close(Speaker::Client, 1009, "no"));
            assert_eq!(half.bytes, close(Speaker::Client, 1009, "no"));
            // Its answer is heard behind what is dropped.
            let mut rest = BytesMut::from(&all[good.len()..]);
            rest.extend_from_slice(&close(Speaker::Client, 1009, ""));
            let _ = passed(&mut half, &rest, rest.len());
        }
        let mut half = Half::new(BytesMut::from(&[text(3), text(12)].concat()[..]), law(Speaker::Client));
        assert_eq!((half.fault, &half.bytes[..half.ready]), (Some(Fault::TooLarge), &text(3)[..]), "what was read before");
        half.part(close(Speaker::Client, 1009, ""));
        assert!(half.parted);
    }

    #[test]
    fn an_answer_to_a_ping_of_ours_goes_no_further_and_others_do() {
        let mut ours = ping(Speaker::Client);
        ours[0] = 0x8a;
        let mut theirs = ours.clone();
        theirs[7] ^= 1;
        let all = [text(2), ours.clone(), theirs.clone(), text(1), ours.clone(), text(3), ours.clone()].concat();
        let expected = [text(2), theirs, text(1), text(3), ours].concat();
        for size in 1..all.len() {
            let mut half = Half::new(BytesMut::new(), law(Speaker::Client));
            half.pongs = 2;
            assert_eq!(passed(&mut half, &all, size), expected, "{size}");
            assert_eq!((half.pongs, half.messages), (0, 3), "{size}");
        }
    }

    #[test]
    fn an_answer_to_a_ping_that_breaks_off_is_passed_on() {
        let mut ours = ping(Speaker::Client);
        ours[0] = 0x8a;
        let (all, mut out) = ([text(2), ours[..9].to_vec()].concat(), Vec::new());
        let mut half = Half::new(BytesMut::new(), law(Speaker::Client));
        half.pongs = 1;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(half.poll(&mut &all[..], &mut out, &mut cx), Poll::Ready(Ok(()))));
        assert!(half.ended && half.shut && out == all, "{}", out.escape_ascii());
    }

    #[test]
    fn one_direction_has_its_turn_and_no_more() {
        let (mut from, mut out, mut cx) = (tokio::io::repeat(b'x'), Vec::new(), Context::from_waker(Waker::noop()));
        let mut half = Half::new(BytesMut::new(), None);
        assert!(half.poll(&mut from, &mut out, &mut cx).is_pending());
        assert!(half.busy && half.moved == out.len() as u64 && half.moved > 0);
    }

    #[test]
    fn what_the_gateway_says_stands_between_two_frames() {
        let all = [text(2), text(9)].concat();
        for law in [law(Speaker::Client), None] {
            for cut in 0..=all.len() {
                let mut half =
                    Half::new(BytesMut::new(), law.is_some().then(|| Law::new(Speaker::Client, false, Some(10), None)));
                let mut out = passed(&mut half, &all[..cut], cut.max(1));
                half.part(b"bye".to_vec());
                out.extend_from_slice(&half.bytes.split_to(half.ready));
                half.ready = 0;
                out.extend(passed(&mut half, &all[cut..], all.len()));
                let ends = [0, text(2).len(), all.len()].map(|end| [&all[..end], b"bye"].concat());
                assert!(half.parted && ends.contains(&out), "{cut}: {}", out.escape_ascii());
            }
        }
        let mut half = Half::new(BytesMut::new(), law(Speaker::Client));
        let _ = passed(&mut half, &[0x81], 1);
        assert!(half.say(b"ping"), "before a head that is not whole");
        assert_eq!((&half.bytes[..half.ready], &half.bytes[half.ready..]), (&b"ping"[..], &[0x81][..]));
        let _ = passed(&mut half, &text(5)[1..8], 7);
        assert!(!half.say(b"ping"), "within a payload");
    }
}

//! What frames may be: well-formed, in order, and within the bounds of their route.

use std::time::{Duration, Instant};

use super::{CLOSE, Head, PING, POLICY_VIOLATION, PONG, PROTOCOL_ERROR, Speaker, TOO_BIG};
use crate::exchange::Verdict;

/// What a frame breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    TooLarge,
    TooOften,
}

impl Fault {
    /// The code that both ends are told.
    pub fn code(self) -> u16 {
        match self {
            Fault::Malformed => PROTOCOL_ERROR,
            Fault::TooLarge => TOO_BIG,
            Fault::TooOften => POLICY_VIOLATION,
        }
    }

    /// What the log says of it.
    pub fn verdict(self) -> Verdict {
        match self {
            Fault::Malformed => Verdict { policy: "websocket", reason: "malformed_frame" },
            Fault::TooLarge => Verdict { policy: "websocket", reason: "message_too_large" },
            Fault::TooOften => Verdict { policy: "websocket", reason: "too_many_messages" },
        }
    }
}

/// What holds for the frames of one end, and where its messages stand.
#[derive(Debug)]
pub struct Law {
    from: Speaker,
    /// Extensions were agreed on, so that the bits reserved for them mean something.
    extensions: bool,
    most: u64,
    rate: Option<Rate>,
    /// What has been announced of the present message.
    message: u64,
    /// A message goes on in another frame.
    fragmented: bool,
    /// After a close frame there is nothing but pongs: an end that has closed answers pings until it hears the other one's close (RFC 6455,
    /// section 5.5.2).
    closed: bool,
}

/// So many messages per so long, all of them at once if they were saved up.
#[derive(Debug)]
struct Rate {
    each: Duration,
    per: Duration,
    /// When all that was sent so far would have been due.
    due: Option<Instant>,
}

impl Rate {
    fn admits(&mut self, now: Instant) -> bool {
        let due = self.due.map_or(now, |due| due.max(now)) + self.each;
        let fits = due <= now + self.per;
        if fits {
            self.due = Some(due);
        }
        fits
    }
}

impl Law {
    /// `most` bounds a message, `rate` how many there are in what time.
    pub fn new(from: Speaker, extensions: bool, most: Option<u64>, rate: Option<(u64, Duration)>) -> Self {
        let rate = rate.map(|(count, per)| {
            let each = per.as_nanos() / u128::from(count.max(1));
            Rate { each: Duration::from_nanos(u64::try_from(each).unwrap_or(u64::MAX)), per, due: None }
        });
        let most = most.unwrap_or(u64::MAX);
        Law { from, extensions, most, rate, message: 0, fragmented: false, closed: false }
    }

    /// Judges a frame by its head, before any of it is passed on.
    ///
    /// # Errors
    /// What it breaks.
    pub fn judge(&mut self, head: &Head) -> Result<(), Fault> {
        self.check_form(head)?;
        if head.is_control() {
            self.closed |= head.opcode() == CLOSE;
            // Answers are as many as their questions, which are counted where they are asked.
            return if head.opcode() == PING { self.count() } else { Ok(()) };
        }
        // A message without end could be made of fragments with nothing in them.
        if head.begins() || head.length == 0 && !head.is_final() {
            self.count()?;
        }
        if head.begins() {
            self.message = 0;
        }
        self.message = self.message.saturating_add(head.length);
        self.fragmented = !head.is_final();
        if self.message > self.most { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn check_form(&self, head: &Head) -> Result<(), Fault> {
        let reserved = head.first & 0x70;
        let opcode = match head.opcode() {
            0 => self.fragmented,
            1 | 2 => !self.fragmented,
            8..=10 => head.is_final() && head.length <= 125 && !(head.opcode() == CLOSE && head.length == 1),
            _ => false,
        };
        let masked = head.masked == (self.from == Speaker::Client);
        let late = self.closed && head.opcode() != PONG;
        let fine = opcode && masked && head.minimal && (reserved == 0 || self.extensions) && !late;
        if fine { Ok(()) } else { Err(Fault::Malformed) }
    }

    fn count(&mut self) -> Result<(), Fault> {
        // The clock is read only where somebody counts.
        let admitted = self.rate.as_mut().is_none_or(|rate| rate.admits(Instant::now()));
        if admitted { Ok(()) } else { Err(Fault::TooOften) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frames, Met, close};
    use super::*;

    fn judge(law: &mut Law, bytes: &[u8]) -> Result<(), Fault> {
        match Frames::default().take(bytes) {
            (_, Met::Head(head)) => law.judge(&head),
            other => panic!("{other:?}"),
        }
    }

    fn client() -> Law {
        Law::new(Speaker::Client, false, Some(1000), None)
    }

    const MASKED: [u8; 4] = [1, 2, 3, 4];

    /// A client's frame.
    fn frame(first: u8, length: u8) -> Vec<u8> {
        [&[first, 0x80 | length][..], &MASKED].concat()
    }

    #[test]
    fn what_no_end_may_send_is_malformed() {
        for (what, bytes) in [
            ("unmasked", vec![0x81, 3]),
            ("a reserved opcode", frame(0x83, 3)),
            ("another one", frame(0x8b, 3)),
            ("a reserved bit", frame(0xc1, 3)),
            ("a fragment of nothing", frame(0x80, 3)),
            ("a control frame in fragments", frame(0x09, 3)),
            ("half a code", frame(0x88, 1)),
            ("a long control frame", [&[0x89, 0xfe, 0, 126][..], &MASKED].concat()),
            ("a length that is longer than need be", [&[0x81, 0xfe, 0, 125][..], &MASKED].concat()),
            ("a longer one", [&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 1, 0][..], &MASKED].concat()),
            ("a negative one", [&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASKED].concat()),
        ] {
            assert_eq!(judge(&mut client(), &bytes), Err(Fault::Malformed), "{what}");
        }
        let mut law = client();
        assert_eq!(judge(&mut law, &frame(0x01, 3)), Ok(()));
        assert_eq!(judge(&mut law, &frame(0x89, 3)), Ok(()), "a ping between two fragments");
        assert_eq!(judge(&mut law, &frame(0x81, 3)), Err(Fault::Malformed), "a message within another");
        let mut service = Law::new(Speaker::Service, false, None, None);
        assert_eq!(judge(&mut service, &[0x81, 3]), Ok(()));
        assert_eq!(judge(&mut service, &frame(0x81, 3)), Err(Fault::Malformed), "services do not mask");
        assert_eq!(judge(&mut service, &close(Speaker::Service, 1000, "")), Ok(()));
        assert_eq!(judge(&mut service, &[0x81, 3]), Err(Fault::Malformed), "behind a close");
        assert_eq!(judge(&mut service, &[0x8a, 3]), Ok(()), "the answer to a ping that came before the other's close");
        assert_eq!(judge(&mut Law::new(Speaker::Client, true, None, None), &frame(0xc1, 3)), Ok(()), "compressed");
    }

    #[test]
    fn a_message_is_as_long_as_its_fragments_together() {
        let long = |first: u8, length: u16| [&[first, 0xfe][..], &length.to_be_bytes(), &MASKED].concat();
        assert_eq!(judge(&mut client(), &long(0x82, 1000)), Ok(()));
        assert_eq!(judge(&mut client(), &long(0x82, 1001)), Err(Fault::TooLarge));
        let mut law = client();
        assert_eq!(judge(&mut law, &long(0x02, 600)), Ok(()));
        assert_eq!(judge(&mut law, &long(0x00, 400)), Ok(()));
        assert_eq!(judge(&mut law, &frame(0x89, 125)), Ok(()), "a ping is no part of it");
        assert_eq!(judge(&mut law, &frame(0x80, 1)), Err(Fault::TooLarge));
        let mut law = client();
        for _ in 0..3 {
            assert_eq!(judge(&mut law, &long(0x82, 1000)), Ok(()), "each by itself");
        }
        let mut law = Law::new(Speaker::Client, false, Some(u64::MAX - 1), None);
        let huge = [&[0x02, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &MASKED].concat();
        assert_eq!(judge(&mut law, &huge), Ok(()));
        let again = [&[0x00][..], &huge[1..]].concat();
        assert_eq!(judge(&mut law, &again), Ok(()));
        assert_eq!(judge(&mut law, &again), Err(Fault::TooLarge), "no sum overflows");
    }

    #[test]
    fn a_rate_counts_messages_pings_and_fragments_of_nothing() {
        let hourly = || Law::new(Speaker::Client, false, None, Some((3, Duration::from_secs(3600))));
        for first in [0x81, 0x89] {
            let mut law = hourly();
            for _ in 0..3 {
                assert_eq!(judge(&mut law, &frame(first, 3)), Ok(()));
            }
            assert_eq!(judge(&mut law, &frame(first, 3)), Err(Fault::TooOften));
            assert_eq!(judge(&mut law, &frame(0x8a, 3)), Ok(()), "a pong is an answer");
        }
        let mut law = hourly();
        assert_eq!(judge(&mut law, &frame(0x01, 3)), Ok(()));
        for _ in 0..100 {
            assert_eq!(judge(&mut law, &frame(0x00, 3)), Ok(()), "the same message");
        }
        assert_eq!(judge(&mut law, &frame(0x00, 0)), Ok(()));
        assert_eq!(judge(&mut law, &frame(0x00, 0)), Ok(()));
        assert_eq!(judge(&mut law, &frame(0x00, 0)), Err(Fault::TooOften));
        let mut rate = Rate { each: Duration::from_millis(100), per: Duration::from_secs(1), due: None };
        let start = Instant::now();
        assert_eq!((0..20).filter(|_| rate.admits(start)).count(), 10, "those of a second at once");
        assert!(!rate.admits(start + Duration::from_millis(99)));
        assert!(rate.admits(start + Duration::from_millis(100)) && !rate.admits(start + Duration::from_millis(100)));
    }
}

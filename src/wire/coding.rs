//! The content codings of requests (RFC 9110, section 8.4.1), undone where a policy has to see what is behind them.
//!
//! It is done at one go, into memory that somebody has paid for, and stops at the first byte beyond its bounds: a decoder never lives longer
//! than a call, so that a worker has one at a time, and what a bomb costs is the bound and the decoder's window.
//!
//! What could be read in two ways is told: there are readers that stop behind the first member of a gzip body, or the first frame of zstd.

use std::io::{self, Read};

use brotli::reader::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::HeaderValue;
use smallvec::SmallVec;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::head::RequestHead;

/// What a request's body may be coded with, for `Accept-Encoding` of an answer (RFC 7694).
pub const TAKEN: HeaderValue = HeaderValue::from_static("gzip, deflate, br, zstd");

/// As many codings one upon the other are undone.
const MOST: usize = 3;
/// Members and frames of all of them together: each takes a decoder, also where nothing is in it.
const MOST_PARTS: usize = 64;
/// So much may come of however little.
const UNSUSPICIOUS: usize = 1 << 20;
/// Beyond that, no more than so many times what came. Text is made some 10 times smaller, logs 50 times.
const MOST_RATIO: usize = 200;
/// What is coded does not become much smaller when it is coded again, unless it was made for that.
const MOST_RATIO_OF_CODED: usize = 2;
const UNSUSPICIOUS_OF_CODED: usize = 64 * 1024;
/// 8 MiB, by its logarithm: what any reader of zstd has room for (RFC 9659).
const ZSTD_WINDOW: u32 = 23;
/// What is decoded at once.
const STEP: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    /// In the format of zlib, as RFC 9110 has it.
    Deflate,
    Br,
    Zstd,
}

impl Coding {
    fn parse(name: &[u8]) -> Option<Coding> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match () {
            () if is("gzip") || is("x-gzip") => Some(Coding::Gzip),
            () if is("deflate") => Some(Coding::Deflate),
            () if is("br") => Some(Coding::Br),
            () if is("zstd") => Some(Coding::Zstd),
            () => None,
        }
    }
}

/// What a request says of how its body is coded.
#[derive(Debug, PartialEq, Eq)]
pub enum Coded {
    No,
    /// In the order in which they were applied.
    With(Codings),
    /// In a way that is not known here, or in more ways than are undone.
    Unknown,
}

/// Some that can be undone.
#[derive(Debug, PartialEq, Eq)]
pub struct Codings(SmallVec<[Coding; MOST]>);

impl Coded {
    pub fn of(head: &RequestHead) -> Coded {
        Self::by(head.header_all("content-encoding"))
    }

    /// As these lines of `Content-Encoding` name them.
    pub fn by<'l>(lines: impl IntoIterator<Item = &'l [u8]>) -> Coded {
        let mut codings = SmallVec::new();
        for name in lines.into_iter().flat_map(names) {
            match Coding::parse(name) {
                Some(coding) if codings.len() < MOST => codings.push(coding),
                _ => return Coded::Unknown,
            }
        }
        if codings.is_empty() { Coded::No } else { Coded::With(Codings(codings)) }
    }
}

/// The codings that a line of `Content-Encoding` names, but for the one that is none.
fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
}

/// Whether a body with this line of `Content-Encoding` is coded.
pub fn is_coded(line: &[u8]) -> bool {
    names(line).next().is_some()
}

/// Whether nobody here can see what this request's body is.
pub fn is_unknown(head: &RequestHead) -> bool {
    Coded::of(head) == Coded::Unknown
}

/// What was behind the codings.
#[derive(Debug, PartialEq, Eq)]
pub struct Undone {
    pub content: Vec<u8>,
    /// There were several members or frames: some would read less of it.
    pub several: bool,
}

/// Why a coding was not undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not coded as it says, it is cut off, there is something behind it, or it is in too many parts.
    Malformed,
    /// There is more behind it than may be.
    TooLarge,
    /// It becomes so much larger that it was made for that.
    Ratio,
    /// There is no memory for it.
    NoMemory,
}

impl Codings {
    /// Undoes them. `bound`: the most bytes that may come of it, also in between. `pay`: takes so much more memory, if there is any.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn undo(&self, body: &[u8], bound: usize, mut pay: impl FnMut(usize) -> bool) -> Result<Undone, Fault> {
        let most_content = body.len().saturating_mul(MOST_RATIO).max(UNSUSPICIOUS);
        let (mut parts, mut several) = (MOST_PARTS, false);
        let mut piece = [0; STEP];
        let mut coded = Vec::new();
        for (left, coding) in (0..self.0.len()).zip(&self.0).rev() {
            let from = if left + 1 == self.0.len() { body } else { &coded };
            let most = match left {
                0 => most_content,
                _ => from.len().saturating_mul(MOST_RATIO_OF_CODED).saturating_add(UNSUSPICIOUS_OF_CODED),
            };
            let mut out = Out { bytes: Vec::new(), piece: &mut piece, bound, most, pay: &mut pay };
            let before = parts;
            coding.undo(from, &mut out, &mut parts)?;
            several |= before - parts > 1;
            coded = out.bytes;
        }
        Ok(Undone { content: coded, several })
    }
}

impl Coding {
    /// `parts`: how many members and frames there may be yet.
    fn undo(self, mut from: &[u8], out: &mut Out<'_>, parts: &mut usize) -> Result<(), Fault> {
        let malformed = |_: io::Error| Fault::Malformed;
        loop {
            *parts = parts.checked_sub(1).ok_or(Fault::Malformed)?;
            from = match self {
                Coding::Gzip => {
                    let mut run = GzDecoder::new(from);
                    out.take(&mut run)?;
                    run.into_inner()
                }
                Coding::Deflate => {
                    let mut run = ZlibDecoder::new(from);
                    out.take(&mut run)?;
                    run.into_inner()
                }
                Coding::Zstd => {
                    let mut run = ZstdDecoder::with_buffer(from).map_err(malformed)?.single_frame();
                    run.window_log_max(ZSTD_WINDOW).map_err(malformed)?;
                    out.take(&mut run)?;
                    run.finish()
                }
                Coding::Br => {
                    let mut run = Brotli::new(from);
                    out.take(&mut run)?;
                    run.from
                }
            };
            match self {
                _ if from.is_empty() => return Ok(()),
                Coding::Gzip | Coding::Zstd => {}
                // There can be nothing behind the end of these.
                Coding::Deflate | Coding::Br => return Err(Fault::Malformed),
            }
        }
    }
}

/// What has come of it so far.
struct Out<'a> {
    bytes: Vec<u8>,
    piece: &'a mut [u8],
    bound: usize,
    most: usize,
    pay: &'a mut dyn FnMut(usize) -> bool,
}

impl Out<'_> {
    /// All that this decoder gives.
    fn take(&mut self, run: &mut impl Read) -> Result<(), Fault> {
        loop {
            let count = run.read(self.piece).map_err(|_| Fault::Malformed)?;
            let Some(piece) = self.piece.get(..count).filter(|piece| !piece.is_empty()) else { return Ok(()) };
            let length = self.bytes.len() + piece.len();
            if length > self.bound {
                return Err(Fault::TooLarge);
            }
            if length > self.most {
                return Err(Fault::Ratio);
            }
            if length > self.bytes.capacity() {
                let after = (2 * self.bytes.capacity()).min(self.bound).max(length);
                if !(self.pay)(after - self.bytes.capacity()) {
                    return Err(Fault::NoMemory);
                }
                self.bytes.reserve_exact(after - self.bytes.len());
            }
            self.bytes.extend_from_slice(piece);
        }
    }
}

/// One stream of brotli. The library's own reader takes windows of up to 1 GiB, and does not say what is left behind the end.
struct Brotli<'a> {
    from: &'a [u8],
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    ended: bool,
}

impl<'a> Brotli<'a> {
    fn new(from: &'a [u8]) -> Self {
        let alloc = StandardAlloc::default;
        Brotli { from, state: Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())), ended: false }
    }
}

impl Read for Brotli<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let (mut left, mut begin) = (self.from.len(), 0);
        let (mut room, mut made, mut total) = (into.len(), 0, 0);
        let state = &mut *self.state;
        let result = BrotliDecompressStream(&mut left, &mut begin, self.from, &mut room, &mut made, into, &mut total, state);
        self.from = self.from.get(begin..).unwrap_or_default();
        match result {
            BrotliResult::ResultSuccess => self.ended = true,
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput if made > 0 => {}
            BrotliResult::NeedsMoreInput => return Err(io::ErrorKind::UnexpectedEof.into()),
            BrotliResult::ResultFailure => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn codings(value: &str) -> Coded {
        Coded::of(&RequestHead::build("POST", "/", &[("content-encoding", value)]))
    }

    fn coded(coding: Coding, plain: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut run = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                run.write_all(plain).unwrap();
                run.finish().unwrap()
            }
            Coding::Deflate => {
                let mut run = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
                run.write_all(plain).unwrap();
                run.finish().unwrap()
            }
            Coding::Zstd => zstd::stream::encode_all(plain, 19).unwrap(),
            Coding::Br => {
                let mut run = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                run.write_all(plain).unwrap();
                run.into_inner()
            }
        }
    }

    const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Br, Coding::Zstd];

    fn undo(all: &[Coding], body: &[u8], bound: usize) -> Result<Undone, Fault> {
        Codings(all.into()).undo(body, bound, |_| true)
    }

    #[test]
    fn lists_are_read_as_fields_are() {
        let with = |all: &[Coding]| Coded::With(Codings(all.into()));
        assert_eq!(codings("gzip"), with(&[Coding::Gzip]));
        assert_eq!(codings(" X-GZIP ,, identity, Br"), with(&[Coding::Gzip, Coding::Br]));
        assert_eq!((codings(""), codings("identity, ,")), (Coded::No, Coded::No));
        let unknown = ["compress", "gzip, x", "aes128gcm", "gzip;q=1", "gzip gzip", "gzip, gzip, gzip, gzip", "\u{e9}"];
        assert!(unknown.into_iter().all(|value| codings(value) == Coded::Unknown));
        let head = RequestHead::build("POST", "/", &[("content-encoding", "br"), ("content-encoding", "zstd")]);
        assert_eq!(Coded::of(&head), with(&[Coding::Br, Coding::Zstd]));
    }

    #[test]
    fn what_was_coded_is_there_again() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|number| (number % 977).to_le_bytes()).collect();
        for plain in [&b""[..], b"x", &text] {
            for coding in ALL {
                let undone = undo(&[coding], &coded(coding, plain), usize::MAX);
                assert_eq!(undone, Ok(Undone { content: plain.to_vec(), several: false }), "{coding:?}");
                for second in ALL {
                    let twice = coded(second, &coded(coding, plain));
                    assert_eq!(undo(&[coding, second], &twice, usize::MAX).unwrap().content, plain, "{coding:?} {second:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_read_in_two_ways() {
        for coding in ALL {
            let (one, two) = (coded(coding, b"{\"a\":1}"), coded(coding, b"  "));
            let both = undo(&[coding], &[&one[..], &two].concat(), 100);
            match coding {
                Coding::Gzip | Coding::Zstd => {
                    assert_eq!(both, Ok(Undone { content: b"{\"a\":1}  ".to_vec(), several: true }), "{coding:?}");
                }
                Coding::Deflate | Coding::Br => assert_eq!(both, Err(Fault::Malformed), "{coding:?}"),
            }
            for behind in [&b"x"[..], b"\0", b"\0\0\0\0\0\0\0\0", b"\x1f\x8b", b"{\"a\":2}"] {
                assert_eq!(undo(&[coding], &[&one[..], behind].concat(), 100), Err(Fault::Malformed), "{coding:?} {behind:?}");
            }
            for length in 0..one.len() {
                assert_eq!(undo(&[coding], &one[..length], 100), Err(Fault::Malformed), "{coding:?} {length}");
            }
            assert_eq!(undo(&[coding], b"{\"a\":1}", 100), Err(Fault::Malformed), "{coding:?}");
            // What sums up to something else was not meant.
            if matches!(coding, Coding::Gzip | Coding::Deflate) {
                let mut other = one.clone();
                *other.last_mut().unwrap() ^= 1;
                assert_eq!(undo(&[coding], &other, 100), Err(Fault::Malformed), "{coding:?}");
            }
        }
    }

    #[test]
    fn bombs_stop_at_their_bounds_and_are_paid_for() {
        for coding in ALL {
            let bomb = coded(coding, &vec![b'['; 32 << 20]);
            assert!(bomb.len() < 40_000, "{coding:?} {}", bomb.len());
            assert_eq!(undo(&[coding], &bomb, 1000), Err(Fault::TooLarge), "{coding:?}");
            assert_eq!(undo(&[coding], &bomb, usize::MAX), Err(Fault::Ratio), "{coding:?}");
            let mut paid = 0;
            let pay = |more| {
                paid += more;
                paid <= 100_000
            };
            assert_eq!(Codings([coding][..].into()).undo(&bomb, usize::MAX, pay), Err(Fault::NoMemory), "{coding:?}");
            let mut paid = 0;
            let within = Codings([coding][..].into()).undo(&coded(coding, &[b'x'; 70_000]), 70_000, |more| {
                paid += more;
                true
            });
            assert_eq!(within.map(|undone| (undone.content.len(), undone.content.capacity())), Ok((70_000, paid)));
            // One in the other: what is in between is bounded too.
            let nested = coded(Coding::Gzip, &bomb);
            assert_eq!(undo(&[coding, Coding::Gzip], &nested, 1 << 20), Err(Fault::TooLarge), "{coding:?}");
            // What is in between is coded, and no text.
            let text = coded(Coding::Gzip, &coded(coding, &vec![b'x'; 900_000]));
            assert!(undo(&[coding, Coding::Gzip], &text, 1 << 20).is_ok(), "{coding:?}");
            let between = coded(coding, &vec![0; 900_000]);
            assert_eq!(undo(&[Coding::Zstd, coding], &between, 1 << 20), Err(Fault::Ratio), "{coding:?}");
        }
    }

    /// A frame that has nothing in it takes a decoder all the same.
    #[test]
    fn parts_are_counted_over_all_codings() {
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        let empty = coded(Coding::Gzip, b"");
        for (coding, part) in [(Coding::Zstd, &skipped[..]), (Coding::Gzip, &empty)] {
            let body = |count: usize| [part.repeat(count - 1), coded(coding, b"{}")].concat();
            assert_eq!(undo(&[coding], &body(64), 100).map(|undone| undone.content), Ok(b"{}".to_vec()), "{coding:?}");
            assert_eq!(undo(&[coding], &body(65), 100), Err(Fault::Malformed), "{coding:?}");
            let within = coded(Coding::Gzip, &body(64));
            assert_eq!(undo(&[coding, Coding::Gzip], &within, 1 << 20), Err(Fault::Malformed), "{coding:?}");
        }
        // 1 MiB of frames out of 56 bytes.
        let frames = coded(Coding::Deflate, &coded(Coding::Deflate, &skipped.repeat(1 << 17)));
        assert!(frames.len() < 100, "{}", frames.len());
        assert_eq!(undo(&[Coding::Zstd, Coding::Deflate, Coding::Deflate], &frames, 1 << 20), Err(Fault::Ratio));
    }

    /// Windows that take more memory than a reader has to have: of zstd beyond 8 MiB, of brotli beyond 16 MiB.
    #[test]
    fn large_windows_are_not_taken() {
        let mut run = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        run.window_log(24).unwrap();
        run.write_all(b"{}").unwrap();
        assert_eq!(undo(&[Coding::Zstd], &run.finish().unwrap(), 100), Err(Fault::Malformed));
        // The first bytes of a stream with the large window (WBITS 30), which RFC 7932 does not have.
        assert_eq!(undo(&[Coding::Br], &[0x11, 0x1e, 0x03], 100), Err(Fault::Malformed));
    }
}

//! The strict decoder of HTTP/1.1 message bodies (RFC 9112, sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};

use super::chunk;
use crate::head::BodyFraming;

/// Chunk-size lines are bounded in all as well: 16 KiB of extensions in a body of one-byte chunks are an attack.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The longest trailer section of a request, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;

const END_OF_LINE: usize = 2;

/// Why a body was refused. The connection has to be closed: where the body ends is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBody {
    /// Not a hexadecimal size, or one with a sign, a space, or over 15 digits.
    ChunkSize,
    /// The size is followed by something that is no well-formed extension, or by too many of them.
    ChunkExtension,
    /// The chunk's data is not followed by CR LF.
    ChunkEnd,
    Trailers,
}

impl BadBody {
    pub fn reason(self) -> &'static str {
        match self {
            BadBody::ChunkSize => "chunk_size",
            BadBody::ChunkExtension => "chunk_extension",
            BadBody::ChunkEnd => "chunk_end",
            BadBody::Trailers => "trailers",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Some bytes of the body; never empty.
    Data(Bytes),
    /// The buffer holds no complete piece: read more.
    NeedMore,
    /// The body is over, and these fields came behind it: well-formed lines, the empty one that ends them included.
    Trailers(Bytes),
    /// The body is over. What is left in the buffer belongs to the next message.
    End,
}

/// Where in a body the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyDecoder {
    Done,
    /// Bytes still to come.
    Length(u64),
    Chunked(Chunked),
    /// Everything until the connection ends: an answer without length, or an upgraded connection.
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    at: ChunkedAt,
    /// Bytes spent on extensions so far.
    extensions: usize,
    /// How many bytes of trailers may come.
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkedAt {
    Size,
    Data(u64),
    DataEnd,
    /// In the trailer section, which stays in the buffer until it is whole: so many bytes of it are good.
    Trailers(usize),
}

impl BodyDecoder {
    pub fn new(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None | BodyFraming::Length(0) => BodyDecoder::Done,
            BodyFraming::Length(length) => BodyDecoder::Length(length),
            BodyFraming::Streamed => BodyDecoder::chunked(MAX_TRAILERS),
        }
    }

    /// For a body in chunks that so many bytes of trailers may follow.
    pub fn chunked(trailers: usize) -> Self {
        BodyDecoder::Chunked(Chunked { at: ChunkedAt::Size, extensions: 0, trailers })
    }

    pub fn is_done(&self) -> bool {
        *self == BodyDecoder::Done
    }

    /// Takes the next piece of the body off the front of `buffer`, without copying it.
    ///
    /// # Errors
    /// A body that is not framed exactly as the RFC says.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
        match self {
            BodyDecoder::Done => Ok(Decoded::End),
            BodyDecoder::UntilClose if buffer.is_empty() => Ok(Decoded::NeedMore),
            BodyDecoder::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            BodyDecoder::Length(_) if buffer.is_empty() => Ok(Decoded::NeedMore),
            BodyDecoder::Length(left) => {
                let data = take(buffer, left);
                if *left == 0 {
                    *self = BodyDecoder::Done;
                }
                Ok(Decoded::Data(data))
            }
            BodyDecoder::Chunked(chunked) => {
                let decoded = chunked.decode(buffer)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    *self = BodyDecoder::Done;
                }
                Ok(decoded)
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    buffer.split_to(length).freeze()
}

impl Chunked {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
        loop {
            match &mut self.at {
                ChunkedAt::Size => {
                    let Some(size) = self.size(buffer)? else { return Ok(Decoded::NeedMore) };
                    self.at = if size == 0 { ChunkedAt::Trailers(0) } else { ChunkedAt::Data(size) };
                }
                ChunkedAt::Data(_) if buffer.is_empty() => return Ok(Decoded::NeedMore),
                ChunkedAt::Data(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.at = ChunkedAt::DataEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                ChunkedAt::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.at = ChunkedAt::Size;
                    }
                    Some(_) => return Err(BadBody::ChunkEnd),
                    None if buffer.first().is_some_and(|&byte| byte != b'\r') => return Err(BadBody::ChunkEnd),
                    None => return Ok(Decoded::NeedMore),
                },
                ChunkedAt::Trailers(good) => {
                    let rest = buffer.get(*good..).unwrap_or_default();
                    let line = chunk::trailer_line(rest)?;
                    if *good + line.unwrap_or(rest.len()) > self.trailers {
                        return Err(BadBody::Trailers);
                    }
                    let Some(line) = line else { return Ok(Decoded::NeedMore) };
                    *good += line;
                    if line == END_OF_LINE {
                        let section = buffer.split_to(*good);
                        let none = section.len() == END_OF_LINE;
                        return Ok(if none { Decoded::End } else { Decoded::Trailers(section.freeze()) });
                    }
                }
            }
        }
    }

    /// The size line. Its extensions are dropped (RFC 9112, section 7.1.1).
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, BadBody> {
        let Some(line) = chunk::size_line(buffer)? else { return Ok(None) };
        self.extensions += line.extensions;
        if self.extensions > MAX_EXTENSIONS {
            return Err(BadBody::ChunkExtension);
        }
        buffer.advance(line.length);
        Ok(Some(line.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &[u8]) -> Result<(Vec<u8>, bool, Vec<u8>), BadBody> {
        let mut decoder = BodyDecoder::new(BodyFraming::Streamed);
        let mut buffer = BytesMut::from(text);
        let mut body = Vec::new();
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::NeedMore => return Ok((body, false, buffer.to_vec())),
                Decoded::Trailers(_) | Decoded::End => return Ok((body, true, buffer.to_vec())),
            }
        }
    }

    #[test]
    fn trailers_come_whole_or_not_at_all() {
        let text = b"0\r\nA: b\r\nC:d\r\n\r\nGET /";
        let mut decoder = BodyDecoder::new(BodyFraming::Streamed);
        let mut buffer = BytesMut::new();
        let end = text.len() - b"GET /".len();
        for byte in &text[..end - 1] {
            buffer.extend_from_slice(&[*byte]);
            assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::NeedMore));
        }
        buffer.extend_from_slice(&text[end - 1..]);
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::Trailers(Bytes::from_static(b"A: b\r\nC:d\r\n\r\n"))));
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::End));
        assert_eq!(&buffer[..], b"GET /");
    }

    #[test]
    fn decodes_chunks_and_leaves_the_rest() {
        let (body, ended, rest) = decode(b"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\nGET /").unwrap();
        assert_eq!((body, ended, rest), (b"abc0123456789".to_vec(), true, b"GET /".to_vec()));
    }

    #[test]
    fn decodes_the_same_whatever_the_packets() {
        let text = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        let mut decoder = BodyDecoder::new(BodyFraming::Streamed);
        let mut buffer = BytesMut::new();
        let mut body = Vec::new();
        for byte in text {
            buffer.extend_from_slice(&[*byte]);
            while let Decoded::Data(data) = decoder.decode(&mut buffer).unwrap() {
                body.extend_from_slice(&data);
            }
        }
        assert!(decoder.is_done());
        assert_eq!(body, b"abc0123456789");
    }

    #[test]
    fn refuses_every_trick_with_sizes() {
        for (text, why) in [
            (&b"-1\r\n"[..], BadBody::ChunkSize),
            (b"+1\r\na\r\n", BadBody::ChunkSize),
            (b"0x1\r\na\r\n", BadBody::ChunkSize),
            (b" 1\r\na\r\n", BadBody::ChunkSize),
            (b"1 \r\na\r\n", BadBody::ChunkExtension),
            (b"1_0\r\n", BadBody::ChunkSize),
            (b"\r\n", BadBody::ChunkSize),
            (b"1111111111111111\r\n", BadBody::ChunkSize),
            (b"1\na\r\n", BadBody::ChunkSize),
            (b"1;a\nb\r\n", BadBody::ChunkExtension),
            (b"1;a\rb\r\n", BadBody::ChunkExtension),
            (b"1\r\nab\r\n", BadBody::ChunkEnd),
            (b"1\r\na\n", BadBody::ChunkEnd),
            (b"0\r\n X: y\r\n\r\n", BadBody::Trailers),
            (b"0\r\nnothing\r\n\r\n", BadBody::Trailers),
            (b"0\r\nX: y\n\r\n", BadBody::Trailers),
        ] {
            assert_eq!(decode(text), Err(why), "{text:?}");
        }
        assert_eq!(decode(&[b'1'; 1000]), Err(BadBody::ChunkSize));
        let endless = b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(1000);
        assert_eq!(decode(&endless), Err(BadBody::ChunkExtension));
        let mut trailers = b"0\r\n".to_vec();
        trailers.extend(b"A: bcdefghijklmnopq\r\n".repeat(1000));
        assert_eq!(decode(&trailers), Err(BadBody::Trailers));
    }

    #[test]
    fn a_length_is_a_length() {
        let mut decoder = BodyDecoder::new(BodyFraming::Length(3));
        let mut buffer = BytesMut::from(&b"abcdef"[..]);
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::Data(Bytes::from_static(b"abc"))));
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::End));
        assert_eq!(&buffer[..], b"def");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_never_invents(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok((body, _, _)) = decode(&bytes) {
                proptest::prop_assert!(body.len() <= bytes.len());
            }
        }
    }
}

//! The strict decoder of HTTP/1.1 message bodies (RFC 9112, sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};

use crate::head::BodyFraming;

/// The longest line that carries a chunk's size, extensions included.
const MAX_SIZE_LINE: usize = 256;
/// Chunk-size lines are bounded in all as well: 16 KiB of extensions in a body of one-byte chunks are an attack.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Trailer fields are read and dropped, up to this many bytes.
const MAX_TRAILERS: usize = 8 * 1024;

/// Why a body was refused. The connection has to be closed: where the body ends is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBody {
    /// Not a hexadecimal size, or one with a sign, a space, or over 15 digits.
    ChunkSize,
    /// The size is followed by something that is no extension, or by too many of them.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkedAt {
    Size,
    Data(u64),
    DataEnd,
    /// In the trailer section, this many bytes in.
    Trailers(usize),
}

impl BodyDecoder {
    pub fn new(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None | BodyFraming::Length(0) => BodyDecoder::Done,
            BodyFraming::Length(length) => BodyDecoder::Length(length),
            BodyFraming::Streamed => BodyDecoder::Chunked(Chunked { at: ChunkedAt::Size, extensions: 0 }),
        }
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
                if decoded == Decoded::End {
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
                ChunkedAt::Trailers(spent) => {
                    let Some(line) = line(buffer, MAX_TRAILERS, BadBody::Trailers)? else { return Ok(Decoded::NeedMore) };
                    *spent += line + 2;
                    let field = buffer.get(..line).unwrap_or_default();
                    let named = memchr::memchr(b':', field).is_some_and(|colon| colon > 0);
                    let folded = field.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
                    if *spent > MAX_TRAILERS || (line > 0 && (!named || folded)) {
                        return Err(BadBody::Trailers);
                    }
                    buffer.advance(line + 2);
                    if line == 0 {
                        return Ok(Decoded::End);
                    }
                }
            }
        }
    }

    /// The size line: hexadecimal digits, then nothing or `;` and extensions, which are dropped (RFC 9112, section 7.1.1).
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, BadBody> {
        let Some(length) = line(buffer, MAX_SIZE_LINE, BadBody::ChunkExtension)? else {
            // A first byte that is no digit can be refused before the line is whole.
            return match buffer.first() {
                Some(byte) if !byte.is_ascii_hexdigit() => Err(BadBody::ChunkSize),
                _ => Ok(None),
            };
        };
        let text = buffer.get(..length).unwrap_or_default();
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (number, rest) = text.split_at_checked(digits).ok_or(BadBody::ChunkSize)?;
        if digits == 0 || digits > 15 || !matches!(rest.first(), None | Some(b';')) {
            return Err(BadBody::ChunkSize);
        }
        self.extensions += rest.len();
        if self.extensions > MAX_EXTENSIONS || rest.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(BadBody::ChunkExtension);
        }
        let number = std::str::from_utf8(number).ok().and_then(|number| u64::from_str_radix(number, 16).ok());
        let number = number.ok_or(BadBody::ChunkSize)?;
        buffer.advance(length + 2);
        Ok(Some(number))
    }
}

/// The length of the line at the front of `buffer`, without its CR LF; `None` if it is not whole yet.
fn line(buffer: &[u8], bound: usize, too_long: BadBody) -> Result<Option<usize>, BadBody> {
    match memchr::memchr(b'\n', buffer) {
        None if buffer.len() > bound => Err(too_long),
        None => Ok(None),
        Some(at) if at > bound => Err(too_long),
        Some(at) if at > 0 && buffer.get(at - 1) == Some(&b'\r') => Ok(Some(at - 1)),
        // A bare LF: other parsers may not take it for a line's end.
        Some(_) => Err(too_long),
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
                Decoded::End => return Ok((body, true, buffer.to_vec())),
            }
        }
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
            (b"1 \r\na\r\n", BadBody::ChunkSize),
            (b"1_0\r\n", BadBody::ChunkSize),
            (b"\r\n", BadBody::ChunkSize),
            (b"1111111111111111\r\n", BadBody::ChunkSize),
            (b"1\na\r\n", BadBody::ChunkExtension),
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
        assert_eq!(decode(&[b'1'; 1000]), Err(BadBody::ChunkExtension));
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

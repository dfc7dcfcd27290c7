//! The codings themselves, on pieces of a body.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli::CompressorWriter as BrotliEncoder;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::Coding;
use crate::reply::Reply;
use crate::wire::stages::{Changed, Pieces};

/// Bytes that all encoders of the process together may take, as far as it is known what one takes. Answers beyond go out as they are.
const MOST: usize = 256 * 1024 * 1024;
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Fast enough for every answer; slower ones win a few percent.
const GZIP_LEVEL: u32 = 5;
const ZSTD_LEVEL: i32 = 3;
/// Of 11. From 5 on each step takes much more time and memory for a few percent.
const BROTLI_QUALITY: u32 = 4;
/// 256 KiB of a window, by its logarithm, for what an encoder takes; any decoder takes 16 MiB.
const BROTLI_WINDOW: u32 = 18;
const BROTLI_BUFFER: usize = 4096;
/// 128 KiB of a window: decoders of browsers take up to 8 MiB, and each encoder takes a multiple of it.
const ZSTD_WINDOW: u32 = 17;

/// What one encoder may take of the memory for all.
pub struct Allowance(usize);

impl Allowance {
    /// `None` where there is nothing left.
    pub fn take(coding: Coding) -> Option<Allowance> {
        let cost = match coding {
            Coding::Gzip => 320 * 1024,
            Coding::Zstd => 1024 * 1024,
            Coding::Br => 2 * 1024 * 1024,
        };
        let more = |taken: usize| taken.checked_add(cost).filter(|sum| *sum <= MOST);
        TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Allowance(cost))
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// One body's encoder.
pub struct Encoder {
    run: Option<Run>,
    /// Something was put in since it was flushed.
    pending: bool,
    _allowance: Allowance,
}

enum Run {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Br(Box<BrotliEncoder<Vec<u8>>>),
}

impl Encoder {
    /// `None` if the library cannot make one.
    pub fn new(coding: Coding, allowance: Allowance) -> Option<Encoder> {
        let run = match coding {
            Coding::Gzip => Run::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
            Coding::Zstd => {
                let mut run = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL).ok()?;
                run.set_parameter(CParameter::WindowLog(ZSTD_WINDOW)).ok()?;
                Run::Zstd(run)
            }
            Coding::Br => Run::Br(Box::new(BrotliEncoder::new(Vec::new(), BROTLI_BUFFER, BROTLI_QUALITY, BROTLI_WINDOW))),
        };
        Some(Encoder { run: Some(run), pending: false, _allowance: allowance })
    }

    fn work(&mut self, work: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Changed {
        match &mut self.run {
            None => Ok(Bytes::new()),
            Some(Run::Gzip(run)) => work(run).map(|()| std::mem::take(run.get_mut()).into()).map_err(|_| failed()),
            Some(Run::Zstd(run)) => work(run).map(|()| std::mem::take(run.get_mut()).into()).map_err(|_| failed()),
            Some(Run::Br(run)) => work(&mut **run).map(|()| std::mem::take(run.get_mut()).into()).map_err(|_| failed()),
        }
    }
}

impl Pieces for Encoder {
    fn piece(&mut self, data: Bytes) -> Changed {
        self.pending = true;
        self.work(|run| run.write_all(&data))
    }

    fn flush(&mut self) -> Changed {
        if std::mem::take(&mut self.pending) { self.work(|run| run.flush()) } else { Ok(Bytes::new()) }
    }

    fn end(&mut self) -> Changed {
        let rest = match self.run.take() {
            None => Ok(Vec::new()),
            Some(Run::Gzip(run)) => run.finish(),
            Some(Run::Zstd(run)) => run.finish(),
            Some(Run::Br(run)) => Ok(run.into_inner()),
        };
        rest.map(Bytes::from).map_err(|_| failed())
    }
}

/// Writing into memory does not fail.
fn failed() -> Box<Reply> {
    Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "compress", "encoder_failed", "The answer could not be encoded.")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let read = match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(coded).read_to_end(&mut plain),
            Coding::Zstd => zstd::stream::read::Decoder::new(coded).unwrap().read_to_end(&mut plain),
            Coding::Br => brotli::Decompressor::new(coded, 4096).read_to_end(&mut plain),
        };
        // Of a body that has not ended yet, its pieces can be read all the same.
        drop(read);
        plain
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, Allowance::take(coding).unwrap()).unwrap();
            let mut coded = Vec::new();
            let mut plain = Vec::new();
            for number in 0..20 {
                let piece = format!("data: {number} {}\n\n", "x".repeat(number * 500));
                plain.extend_from_slice(piece.as_bytes());
                coded.extend(encoder.piece(piece.into()).unwrap());
                coded.extend(encoder.flush().unwrap());
                assert_eq!(decoded(coding, &coded), plain, "{coding:?} after {number}");
                assert!(encoder.flush().unwrap().is_empty());
            }
            coded.extend(encoder.end().unwrap());
            assert_eq!(decoded(coding, &coded), plain);
            assert!(coded.len() * 4 < plain.len(), "{coding:?}: {} of {}", coded.len(), plain.len());
        }
    }
}

//! Numbers, texts and bytes as JSON has them (proto3's JSON mapping).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{Kind, Value};

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Up to here each whole number is a float of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a number is before it is known which one is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    Whole(i128),
    Float(f64),
}

impl Number {
    /// Of a text that is a number as JSON writes it.
    pub fn of_text(text: &str) -> Option<Number> {
        if let Some(whole) = plain_integer(text) {
            return Some(Number::Whole(whole));
        }
        // As JSON writes it, without the white space that it has around values. The library's own reading may be off in the last digit.
        let is_json = text.trim() == text && serde_json::from_str::<f64>(text).is_ok();
        text.parse().ok().filter(|_| is_json).map(Number::Float)
    }

    pub fn of_json(number: &serde_json::Number) -> Option<Number> {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        whole.map(Number::Whole).or_else(|| number.as_f64().map(Number::Float))
    }

    fn whole(self) -> Option<i128> {
        match self {
            Number::Whole(whole) => Some(whole),
            // Beyond, several numbers are read as one float, and it cannot be told which was written.
            #[allow(clippy::cast_possible_truncation, reason = "it has no fraction, and is within")]
            Number::Float(float) => (float.fract() == 0.0 && float.abs() < EXACT).then_some(float as i128),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "as JSON's own readers round")]
    fn float(self) -> f64 {
        match self {
            Number::Whole(whole) => whole as f64,
            Number::Float(float) => float,
        }
    }
}

/// Digits, and a minus sign perhaps.
pub fn plain_integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = (1..=30).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// A number of that kind.
///
/// # Errors
/// What it would have to be.
pub fn of_number(kind: &Kind, number: Number) -> Result<Value, String> {
    let whole = |bounds: &str| number.whole().ok_or_else(|| format!("must be a whole number {bounds}"));
    macro_rules! integer {
        ($value:ident, $type:ty, $name:literal) => {{
            let bounds = concat!("of ", $name);
            let whole = whole(bounds)?;
            <$type>::try_from(whole).map(Value::$value).map_err(|_| format!("must be a whole number {bounds}"))
        }};
    }
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer!(I32, i32, "int32"),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer!(I64, i64, "int64"),
        Kind::Uint32 | Kind::Fixed32 => integer!(U32, u32, "uint32"),
        Kind::Uint64 | Kind::Fixed64 => integer!(U64, u64, "uint64"),
        Kind::Double => Ok(Value::F64(number.float())),
        #[allow(clippy::cast_possible_truncation, reason = "what is too large is refused")]
        Kind::Float => {
            let float = number.float() as f32;
            if float.is_finite() { Ok(Value::F32(float)) } else { Err("must be a number of float".to_owned()) }
        }
        kind => Err(must_be(kind)),
    }
}

/// A scalar of that kind that came as a text.
///
/// # Errors
/// What it would have to be.
pub fn of_text(kind: &Kind, text: &str) -> Result<Value, String> {
    let special = match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    match (kind, special) {
        (Kind::String, _) => Ok(Value::String(text.to_owned())),
        (Kind::Bytes, _) => bytes(text).map(|bytes| Value::Bytes(bytes.into())).ok_or_else(|| "must be base64".to_owned()),
        (Kind::Double, Some(special)) => Ok(Value::F64(special)),
        #[allow(clippy::cast_possible_truncation, reason = "the same in both")]
        (Kind::Float, Some(special)) => Ok(Value::F32(special as f32)),
        _ => of_number(kind, Number::of_text(text).ok_or_else(|| must_be(kind))?),
    }
}

/// What a value of that kind is.
pub fn must_be(kind: &Kind) -> String {
    match kind {
        Kind::String => "must be a text".to_owned(),
        Kind::Bytes => "must be base64".to_owned(),
        Kind::Bool => "must be true or false".to_owned(),
        Kind::Double | Kind::Float => "must be a number".to_owned(),
        Kind::Enum(kind) => format!("must be a name or a number of {}", kind.name()),
        Kind::Message(_) => "must be an object".to_owned(),
        _ => "must be a whole number".to_owned(),
    }
}

/// Base64 in either alphabet, with padding or without, and not with some of it.
fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.ends_with('=') && !text.len().is_multiple_of(4) {
        return None;
    }
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

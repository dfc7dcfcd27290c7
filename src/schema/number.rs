//! Numbers of JSON, compared as the numbers that they are and not as what a machine makes of them.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde_json::Number;

/// A decimal number: digits, and the power of ten that they are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Decimal {
    digits: i128,
    power: i32,
}

impl Decimal {
    fn of(number: &Number) -> Option<Decimal> {
        let text = number.to_string();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let power = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        let mut decimal = Decimal { digits: format!("{whole}{fraction}").parse().ok()?, power };
        while decimal.digits != 0 && decimal.digits % 10 == 0 {
            decimal = Decimal { digits: decimal.digits / 10, power: decimal.power + 1 };
        }
        Some(if decimal.digits == 0 { Decimal { digits: 0, power: 0 } } else { decimal })
    }

    /// The digits of it at a lower power; `None` if there are too many.
    fn at(self, power: i32) -> Option<i128> {
        let by = 10i128.checked_pow(u32::try_from(self.power.checked_sub(power)?).ok()?)?;
        self.digits.checked_mul(by)
    }
}

pub fn compare(one: &Number, other: &Number) -> Ordering {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => return one.cmp(&other),
        _ => {
            if let (Some(one), Some(other)) = (one.as_u64(), other.as_u64()) {
                return one.cmp(&other);
            }
        }
    }
    if let (Some(one), Some(other)) = (Decimal::of(one), Decimal::of(other)) {
        let power = one.power.min(other.power);
        if let (Some(one), Some(other)) = (one.at(power), other.at(power)) {
            return one.cmp(&other);
        }
    }
    one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal)
}

/// The same for numbers that compare as equal, and for no others: no digit is rounded away.
pub fn hash(number: &Number, hasher: &mut impl Hasher) {
    Decimal::of(number).hash(hasher);
}

pub fn is_integer(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

pub fn is_multiple(number: &Number, of: &Number) -> bool {
    if let (Some(number), Some(of)) = (number.as_i64(), of.as_i64()) {
        return of != 0 && number % of == 0;
    }
    if let (Some(number), Some(of)) = (Decimal::of(number), Decimal::of(of)) {
        let power = number.power.min(of.power);
        if let (Some(number), Some(of)) = (number.at(power), of.at(power)) {
            return of != 0 && number % of == 0;
        }
        // So many more digits than the divisor: a multiple of every power of ten that it could need, if it is a whole number of them.
        if number.power > of.power
            && let Some(ten) = of.digits.checked_abs().filter(|digits| *digits > 0)
        {
            return residue(number, of.power, ten) == Some(0);
        }
    }
    match (number.as_f64(), of.as_f64()) {
        (Some(number), Some(of)) => of != 0.0 && number % of == 0.0,
        _ => false,
    }
}

/// What is left of `number`, counted in units of ten to that power, divided by `by`.
fn residue(number: Decimal, power: i32, by: i128) -> Option<i128> {
    let mut left = number.digits % by;
    for _ in 0..number.power.checked_sub(power)? {
        left = left.checked_mul(10)? % by;
    }
    Some(left)
}

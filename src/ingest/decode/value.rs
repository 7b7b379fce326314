//! Texts to exact values: integers, decimals, dates and instants. Nothing here rounds, passes
//! through a float or allocates; which JSON tokens a column takes is decided in `columns`.

/// Why a text is not a decimal of the wanted precision and scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecimalFault {
    NotANumber,
    TooManyFractionDigits,
    OutOfRange,
}

/// An integer token: an optional minus and digits. `None` for a fraction, an exponent or a value
/// outside 64 bits.
pub(super) fn integer(token: &[u8]) -> Option<i64> {
    let (negative, digits) = split_sign(token);
    // Nineteen nines fit into 64 unsigned bits, so the loop cannot overflow.
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut magnitude: u64 = 0;
    for byte in digits {
        magnitude = magnitude * 10 + u64::from(digit(*byte)?);
    }
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// The unscaled value of a decimal in JSON's number grammar; `12.5`, `12.50` and `125e-1` are the
/// same value.
pub(super) fn decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, DecimalFault> {
    let (negative, rest) = split_sign(text);
    let mut magnitude: u128 = 0;
    // Zeros wait here until a non-zero digit follows, so that trailing ones cost no range.
    let mut zeros: u32 = 0;
    let mut fraction_digits: i64 = 0;
    let mut integer_digits: usize = 0;
    let mut in_fraction = false;
    let mut exponent: i64 = 0;
    for (index, byte) in rest.iter().enumerate() {
        match byte {
            b'0' => zeros = zeros.saturating_add(1),
            b'1'..=b'9' => {
                magnitude = shift(magnitude, zeros + 1)
                    .and_then(|shifted| shifted.checked_add(u128::from(byte - b'0')))
                    .ok_or(DecimalFault::OutOfRange)?;
                zeros = 0;
            }
            b'.' if !in_fraction && integer_digits > 0 => {
                in_fraction = true;
                continue;
            }
            b'e' | b'E' if integer_digits > 0 && (!in_fraction || fraction_digits > 0) => {
                exponent = read_exponent(&rest[index + 1..]).ok_or(DecimalFault::NotANumber)?;
                break;
            }
            _ => return Err(DecimalFault::NotANumber),
        }
        fraction_digits += i64::from(in_fraction);
        integer_digits += usize::from(!in_fraction);
    }
    let leading_zero = integer_digits > 1 && rest[0] == b'0';
    if integer_digits == 0 || leading_zero || (in_fraction && fraction_digits == 0) {
        return Err(DecimalFault::NotANumber);
    }
    if magnitude == 0 {
        return Ok(0);
    }
    // The last digit of `magnitude` is not zero, so a negative shift would always lose something.
    let digits_up = exponent - fraction_digits + i64::from(zeros) + i64::from(scale);
    let digits_up = u32::try_from(digits_up).map_err(|_| {
        if digits_up < 0 { DecimalFault::TooManyFractionDigits } else { DecimalFault::OutOfRange }
    })?;
    let unscaled = shift(magnitude, digits_up).ok_or(DecimalFault::OutOfRange)?;
    if unscaled >= 10_u128.pow(u32::from(precision)) {
        return Err(DecimalFault::OutOfRange);
    }
    let unscaled = unscaled as i128;
    Ok(if negative { -unscaled } else { unscaled })
}

/// `magnitude` with `digits` zeros appended.
fn shift(magnitude: u128, digits: u32) -> Option<u128> {
    match (magnitude, digits) {
        (0, _) => Some(0),
        (_, 1) => magnitude.checked_mul(10),
        _ => magnitude.checked_mul(10_u128.checked_pow(digits)?),
    }
}

/// Far exponents are clamped: they are out of range whatever their exact value is.
fn read_exponent(text: &[u8]) -> Option<i64> {
    const EXPONENT_MAX: i64 = 1_000_000_000_000;
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent: i64 = 0;
    for byte in digits {
        exponent = (exponent * 10 + i64::from(digit(*byte)?)).min(EXPONENT_MAX);
    }
    Some(if negative { -exponent } else { exponent })
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    days(text.try_into().ok()?)
}

/// Microseconds since 1970 of an RFC 3339 instant. Without an offset it is UTC; digits beyond
/// microseconds are cut off; second 60 is the first second of the next minute.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    let (date_text, rest) = text.split_first_chunk::<10>()?;
    let (clock, rest) = rest.split_first_chunk::<9>()?;
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = *clock else {
        return None;
    };
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, rest) = match rest {
        [b'.', rest @ ..] => fraction_micros(rest)?,
        _ => (0, rest),
    };
    let offset_seconds = offset_seconds(rest)?;
    let seconds = i64::from(days(*date_text)?) * 86_400
        + i64::from(hour * 3_600 + minute * 60 + second)
        - offset_seconds;
    Some(seconds * 1_000_000 + micros)
}

/// At least one digit; the rest of the text follows the last one.
fn fraction_micros(text: &[u8]) -> Option<(i64, &[u8])> {
    let mut micros: i64 = 0;
    let mut weight: i64 = 100_000;
    let mut length = 0;
    while let Some(value) = text.get(length).and_then(|byte| digit(*byte)) {
        micros += i64::from(value) * weight;
        weight /= 10;
        length += 1;
    }
    (length > 0).then(|| (micros, &text[length..]))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    match *text {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours * 3_600 + minutes * 60);
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Howard Hinnant's `days_from_civil`, for the years 0000 to 9999.
fn days(text: [u8; 10]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i32::from(is_leap),
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > month_days {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn two(tens: u8, ones: u8) -> Option<i32> {
    Some(i32::from(digit(tens)?) * 10 + i32::from(digit(ones)?))
}

fn digit(byte: u8) -> Option<u8> {
    let value = byte.wrapping_sub(b'0');
    (value <= 9).then_some(value)
}

fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Days, NaiveDate};

    use super::*;

    #[test]
    fn integers_end_exactly_at_64_bits() {
        let read = |text: &str| integer(text.as_bytes());
        assert_eq!(read("-0"), Some(0));
        assert_eq!(read("9223372036854775807"), Some(i64::MAX));
        assert_eq!(read("-9223372036854775808"), Some(i64::MIN));
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
        for text in ["1.0", "1e2", "-", ""] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        use DecimalFault::*;
        let read = |text: &str, precision, scale| decimal(text.as_bytes(), precision, scale);
        for (text, unscaled) in [
            ("12.50", 1250),
            ("12.5e1", 12500),
            ("125E-1", 1250),
            ("0.01", 1),
            ("-0.00", 0),
            ("-99999999.99", -9_999_999_999),
            ("1.0000000000000000000000000000000000000000000000000000000", 100),
            ("0.00000000000000000000000000000000000000000000000001e50", 100),
            ("0e999999999999999999999999", 0),
        ] {
            assert_eq!(read(text, 10, 2), Ok(unscaled), "{text}");
        }
        for (text, fault) in [
            ("12.505", TooManyFractionDigits),
            ("1e-3", TooManyFractionDigits),
            ("1e-999999999999999999999999", TooManyFractionDigits),
            ("100000000", OutOfRange),
            ("1e8", OutOfRange),
            ("1e999999999999999999999999", OutOfRange),
            ("1234567890123456789012345678901234567890", OutOfRange),
        ] {
            assert_eq!(read(text, 10, 2), Err(fault), "{text}");
        }
        for text in
            ["", "-", ".5", "5.", "+5", " 5", "5 ", "1e", "1e+", "5.e1", "1.2.3", "007", "0x1"]
        {
            assert_eq!(read(text, 10, 2), Err(NotANumber), "{text}");
        }
        let nines = "9".repeat(38);
        assert_eq!(read(&nines, 38, 0), Ok(10_i128.pow(38) - 1));
        assert_eq!(read(&format!("-{nines}"), 38, 0), Ok(1 - 10_i128.pow(38)));
    }

    #[test]
    fn every_thirteenth_day_of_ten_thousand_years_is_the_calendar_s() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let mut day = NaiveDate::from_ymd_opt(0, 1, 1).unwrap();
        let end = NaiveDate::from_ymd_opt(9999, 12, 31).unwrap();
        while day <= end {
            let expected = (day - epoch).num_days() as i32;
            assert_eq!(
                date(day.format("%Y-%m-%d").to_string().as_bytes()),
                Some(expected),
                "{day}"
            );
            day = day + Days::new(13);
        }
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for text in [
            "2026-02-29",
            "1900-02-29",
            "2026-04-31",
            "2026-00-10",
            "2026-13-01",
            "2026-01-00",
            "2026-1-05",
            "2026/01/05",
            "26-01-05",
            "2026-01-05 ",
            "+026-01-05",
            "",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        assert_eq!(date(b"2000-02-29"), Some(11_016));
    }

    #[test]
    fn instants_agree_with_chrono() {
        for text in [
            "2026-03-29T02:30:00Z",
            "2026-03-29T02:30:00.5+01:00",
            "1969-12-31T23:59:59.999999-23:59",
            "0000-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.123456Z",
            "2016-12-31T23:59:60Z",
            "2026-03-29t02:30:00.000001z",
            "2026-03-29 02:30:00Z",
            "2026-03-29T02:30:00.123456789Z",
        ] {
            let expected = DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
            assert_eq!(timestamp(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(timestamp(b"1970-01-01T00:00:01"), Some(1_000_000));
        assert_eq!(timestamp(b"1970-01-01T00:00:00.00000199999999999999999999Z"), Some(1));
        for text in [
            "2026-03-29",
            "2026-03-29T02:30Z",
            "2026-03-29T24:00:00Z",
            "2026-03-29T02:60:00Z",
            "2026-03-29T02:30:61Z",
            "2026-03-29T02:30:00.Z",
            "2026-03-29T02:30:00+0100",
            "2026-03-29T02:30:00+24:00",
            "2026-03-29T02:30:00+01:60",
            "2026-03-29T02:30:00 Z",
            "2026-02-30T00:00:00Z",
            "1774751400",
            "",
        ] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
    }
}

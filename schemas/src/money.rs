//! Money as an integer count of minor units; text in and out is exact decimal notation.

/// Largest amount of one operation, in minor units.
pub const AMOUNT_MINOR_MAX: i64 = 1_000_000_000_000;
/// Most points that one operation may move.
pub const POINTS_MAX: i64 = 1_000_000_000_000;
/// Largest magnitude of a balance, in points.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

/// An ISO 4217 currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency {
    code: [u8; 3],
    /// How many decimal digits its minor unit has.
    pub minor_digits: u8,
}

/// Active ISO 4217 codes (list one, 2024) by their number of minor digits.
const CODES: [(u8, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF \
         CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD \
         HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT \
         MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR \
         SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU \
         UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

impl Currency {
    /// Reads amounts of a program that is not known: what it refuses is wrong in every currency (`XXX` is the code of
    /// ISO 4217 for none).
    pub const ANY: Self = Self { code: *b"XXX", minor_digits: 4 };

    /// Whether this is a currency and not [`Self::ANY`].
    pub fn is_known(&self) -> bool {
        *self != Self::ANY
    }

    /// Largest amount of one operation, in this currency's minor units.
    pub fn amount_minor_max(&self) -> i64 {
        // One without a minor unit has amounts up to this many of its units.
        if self.is_known() {
            AMOUNT_MINOR_MAX
        } else {
            AMOUNT_MINOR_MAX * 10_i64.pow(u32::from(Self::ANY.minor_digits))
        }
    }

    /// The currency with this upper-case code.
    pub fn from_code(code: &str) -> Option<Self> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        let (minor_digits, _) = CODES.iter().find(|(_, codes)| codes.split_ascii_whitespace().any(|c| c == code))?;
        Some(Self { code: bytes, minor_digits: *minor_digits })
    }

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }
}

/// Parses plain decimal notation (`19.90`, `20`, `0.5`) into minor units, exactly. A minus sign, an
/// exponent, a leading zero, a lone point, more fraction digits than `minor_digits` allows (even zeros)
/// or a value beyond `i64` is not an amount.
pub fn parse_minor(text: &str, minor_digits: u8) -> Option<i64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > minor_digits as usize {
        return None;
    }
    if whole.len() > 1 && whole.starts_with('0') {
        return None;
    }
    let mut value: i64 = 0;
    let padding = std::iter::repeat_n(b'0', minor_digits as usize - fraction.len());
    for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
        value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// Appends an amount with all its minor digits: `6000000.00`.
pub fn write_minor(out: &mut Vec<u8>, minor: i64, minor_digits: u8) {
    if minor < 0 {
        out.push(b'-');
    }
    let unit = 10u64.pow(u32::from(minor_digits));
    let magnitude = minor.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(magnitude / unit).as_bytes());
    if minor_digits > 0 {
        out.push(b'.');
        let fraction = magnitude % unit;
        let mut place = unit / 10;
        while place > 0 {
            out.push(b'0' + (fraction / place % 10) as u8);
            place /= 10;
        }
    }
}

/// The text of [`write_minor`].
pub fn format_minor(minor: i64, minor_digits: u8) -> String {
    let mut out = Vec::new();
    write_minor(&mut out, minor, minor_digits);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        assert_eq!(parse_minor("19.90", 2), Some(1990));
        assert_eq!(parse_minor("0.1", 2), Some(10));
        assert_eq!(parse_minor("5", 0), Some(5));
        assert_eq!(parse_minor("1.234", 3), Some(1234));
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "01", "1.234", "1,0", " 1", "99999999999999999999"] {
            assert_eq!(parse_minor(text, 2), None, "{text}");
        }
        assert_eq!(parse_minor("1.0", 0), None);
        assert_eq!(format_minor(-5, 2), "-0.05");
        assert_eq!(format_minor(600_000_000, 2), "6000000.00");
        assert_eq!(format_minor(7, 0), "7");
    }

    #[test]
    fn currencies_have_their_digits() {
        assert_eq!(Currency::from_code("IDR").map(|c| c.minor_digits), Some(2));
        assert_eq!(Currency::from_code("JPY").map(|c| c.minor_digits), Some(0));
        assert_eq!(Currency::from_code("KWD").map(|c| c.minor_digits), Some(3));
        assert_eq!(Currency::from_code("usd"), None);
        assert_eq!(Currency::from_code("XXX"), None);
    }
}

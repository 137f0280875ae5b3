//! Small numbers in few bytes: variable-length integers, sixteen-bit floats, and a reader that cannot run over.

/// What a decoder did not understand. Nothing was taken from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed mesh message: {0}")]
pub struct Malformed(pub &'static str);

/// A cursor over foreign bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("an integer is too long"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("an integer is too large"))
    }

    pub(crate) fn float(&mut self) -> Result<f32, Malformed> {
        Ok(unpack_float(self.u16()?))
    }

    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes follow its end")) }
    }
}

/// Appends `value`, seven bits a byte.
pub(crate) fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// Appends a rate, in two bytes.
pub(crate) fn put_float(into: &mut Vec<u8>, value: f32) {
    into.extend(pack_float(value).to_be_bytes());
}

/// The exponent of the smallest normal number is -`BIAS`.
const BIAS: i64 = 20;
const MANTISSA_BITS: u32 = 10;
const MANTISSA: f64 = (1 << MANTISSA_BITS) as f64;

/// A non-negative number as six bits of exponent and ten of mantissa: off by at most one part in 2,048 from 1e-6
/// to 8e12, by at most 2^-31 below. Negative numbers and NaN become zero, what is too large the largest.
pub(crate) fn pack_float(value: f32) -> u16 {
    let value = f64::from(value);
    if value.is_nan() || value <= 0.0 {
        return 0;
    }
    let exponent = (value.to_bits() >> 52) as i64 - 1023;
    if exponent > 63 - 1 - BIAS {
        return u16::MAX;
    }
    // Rounding up to the next power of two carries from the mantissa into the exponent by itself.
    let code = if exponent < -BIAS {
        (value / power_of_two(-BIAS) * MANTISSA).round() as u64
    } else {
        let mantissa = ((value / power_of_two(exponent) - 1.0) * MANTISSA).round() as u64;
        (((exponent + BIAS + 1) as u64) << MANTISSA_BITS) + mantissa
    };
    code.min(u64::from(u16::MAX)) as u16
}

/// The number that [`pack_float`] packed.
pub(crate) fn unpack_float(code: u16) -> f32 {
    let mantissa = f64::from(code & ((1 << MANTISSA_BITS) - 1)) / MANTISSA;
    let value = match i64::from(code >> MANTISSA_BITS) {
        0 => mantissa * power_of_two(-BIAS),
        exponent => (1.0 + mantissa) * power_of_two(exponent - 1 - BIAS),
    };
    value as f32
}

fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_come_back(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= 10);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn floats_are_off_by_one_part_in_2048(value in 1e-6f32..8e12) {
            let back = unpack_float(pack_float(value));
            prop_assert!((back - value).abs() <= value / 2000.0, "{value} came back as {back}");
        }

        #[test]
        fn packed_floats_stand_for_themselves(code: u16) {
            prop_assert_eq!(pack_float(unpack_float(code)), code);
        }
    }

    #[test]
    fn odd_floats() {
        for (value, back) in [(f32::NAN, 0.0), (-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (1e-12, 0.0)]
        {
            assert_eq!(unpack_float(pack_float(value)).to_bits(), f32::to_bits(back), "{value}");
        }
        assert_eq!(pack_float(f32::INFINITY), u16::MAX);
        assert_eq!(pack_float(1e30), u16::MAX);
    }

    #[test]
    fn integers_that_do_not_fit() {
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).varint_u32().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }
}

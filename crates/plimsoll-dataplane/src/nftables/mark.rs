//! The bits of the conntrack mark that are ours: seen, opened, closed and the age slot.

/// The slot number of connections without an age: opened before this agent began to count, or too old.
pub const OLD: u8 = 255;
/// Slots are numbered 0 to 191 and again from 0. The numbers between are never in a mark, so that whoever dumps
/// conntrack for old numbers can leave out all connections without an age by one bit pattern.
pub const NUMBERS: u8 = 192;

/// Eleven bits of the conntrack mark. They belong to the connection's entry, so they outlive the table, and the
/// events about the entry carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkBits {
    /// The connection was counted as opened.
    pub opened: u32,
    /// It was counted as closed.
    pub closed: u32,
    /// TCP: the endpoint has accepted (SYN-ACK), the client's ACK is still to come.
    pub seen: u32,
    /// Eight bits: the number of the age slot it was opened in.
    pub slot: u32,
}

impl MarkBits {
    /// Takes the eleven bits of `mask`: the lowest three for opened, closed and seen, the others for the slot.
    /// `None` if it has more or fewer bits.
    pub fn new(mask: u32) -> Option<MarkBits> {
        if mask.count_ones() != 11 {
            return None;
        }
        let lowest = |mask: u32| mask & mask.wrapping_neg();
        let opened = lowest(mask);
        let closed = lowest(mask & !opened);
        let seen = lowest(mask & !opened & !closed);
        Some(MarkBits { opened, closed, seen, slot: mask & !(opened | closed | seen) })
    }

    /// All eleven.
    pub fn mask(self) -> u32 {
        self.opened | self.closed | self.seen | self.slot
    }

    /// A slot's number in its place in the mark.
    pub fn with_slot(self, number: u8) -> u32 {
        let mut rest = self.slot;
        let mut mark = 0;
        for bit in 0..8 {
            let place = rest & rest.wrapping_neg();
            if number & (1 << bit) != 0 {
                mark |= place;
            }
            rest &= !place;
        }
        mark
    }

    /// The slot number in a mark.
    pub fn slot_of(self, mark: u32) -> u8 {
        let mut rest = self.slot;
        let mut number = 0;
        for bit in 0..8 {
            let place = rest & rest.wrapping_neg();
            if mark & place != 0 {
                number |= 1 << bit;
            }
            rest &= !place;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bits_are_where_they_are_documented() {
        let bits = MarkBits::new(0x0ff7_0000).unwrap();
        assert_eq!(
            (bits.opened, bits.closed, bits.seen, bits.slot),
            (0x1_0000, 0x2_0000, 0x4_0000, 0x0ff0_0000)
        );
        assert_eq!(bits.with_slot(0x5a), 0x05a0_0000);
        assert_eq!(bits.mask(), 0x0ff7_0000);
    }

    #[test]
    fn a_slot_survives_scattered_bits() {
        let bits = MarkBits::new(0b1010_1010_1010_1010_1010_1000).unwrap();
        for number in 0..=255 {
            assert_eq!(bits.slot_of(bits.with_slot(number) | !bits.slot), number);
        }
        assert_eq!(MarkBits::new(0x0fff_0000), None);
    }
}

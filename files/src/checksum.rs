//! Records in JSON that a bit which turns must not change unseen: a digit that became another one would give somebody
//! another standing, or reveal other weights than were committed to.

/// An object in JSON, of one entry or more, with the BLAKE3 of all that follows as its first entry.
pub fn with_checksum(object: &[u8]) -> Vec<u8> {
    let rest = object.strip_prefix(b"{").unwrap_or(object);
    [head(rest).as_bytes(), rest].concat()
}

/// The object again; `None` if its checksum is wrong or not there.
pub fn without_checksum(bytes: &[u8]) -> Option<Vec<u8>> {
    let (start, rest) = bytes.split_at_checked(head(&[]).len())?;
    (start == head(rest).as_bytes()).then(|| [b"{", rest].concat())
}

fn head(rest: &[u8]) -> String {
    format!("{{\n  \"checksum\": \"{}\",", blake3::hash(rest).to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_turned_anywhere_is_noticed() {
        let object = b"{\n  \"weight\": 65535\n}";
        let whole = with_checksum(object);
        assert_eq!(without_checksum(&whole).as_deref(), Some(object.as_slice()));
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(without_checksum(&damaged), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(without_checksum(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(without_checksum(object), None);
    }
}

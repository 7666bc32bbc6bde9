//! Digests and signatures out of `bytes` fields.

/// A field's bytes as a digest, nonce or id; `None` unless there are exactly 32.
pub fn digest(field: &[u8]) -> Option<[u8; 32]> {
    field.try_into().ok()
}

/// A field's bytes as a signature; `None` unless there are exactly 64.
pub fn signature(field: &[u8]) -> Option<[u8; 64]> {
    field.try_into().ok()
}

/// The nonce of a challenge: an empty field stands for none, any other length than 32 is malformed.
///
/// # Errors
/// [`WrongLength`].
pub fn optional_nonce(field: &[u8]) -> Result<Option<[u8; 32]>, WrongLength> {
    if field.is_empty() { Ok(None) } else { digest(field).map(Some).ok_or(WrongLength) }
}

/// A field of fixed length has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field of fixed length has another one")]
pub struct WrongLength;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_length_is_taken() {
        assert_eq!(digest(&[7; 32]), Some([7; 32]));
        assert_eq!(signature(&[7; 64]), Some([7; 64]));
        for length in [0, 31, 33, 64] {
            assert_eq!(digest(&vec![7; length]), None, "{length}");
        }
        for length in [0, 32, 63, 65] {
            assert_eq!(signature(&vec![7; length]), None, "{length}");
        }
    }

    #[test]
    fn an_empty_nonce_is_none_and_a_short_one_an_error() {
        assert_eq!(optional_nonce(&[]), Ok(None));
        assert_eq!(optional_nonce(&[1; 32]), Ok(Some([1; 32])));
        assert_eq!(optional_nonce(&[1; 31]), Err(WrongLength));
    }
}

//! Addresses as people write them: SS58, with the prefix 42 that Bittensor uses.

use assay_commitments::Hotkey;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PREFIX: u8 = 42;
const CHECKSUM: usize = 2;
/// A prefix of one byte, an account of 32, a checksum of two.
const BYTES: usize = 1 + 32 + CHECKSUM;

/// Why text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A character that base 58 does not have.
    #[error("{0:?} does not occur in an SS58 address; check for a typing mistake")]
    Character(char),
    /// Too long or too short.
    #[error("an SS58 address of an account has 35 bytes, and this has {0}; check that it is whole")]
    Length(usize),
    /// An address of another chain.
    #[error("the address has the prefix {0}, and Bittensor's have {PREFIX}; this account is written for another chain")]
    Prefix(u8),
    /// The last two bytes do not fit the others.
    #[error("the checksum of the address does not fit; check for a typing mistake")]
    Checksum,
}

/// The SS58 address of a hotkey.
pub fn format(hotkey: &Hotkey) -> String {
    let mut bytes = vec![PREFIX];
    bytes.extend_from_slice(hotkey.as_bytes());
    let check = checksum(&bytes);
    bytes.extend_from_slice(&check);
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = low(carry % 58);
            carry /= 58;
        }
        while carry > 0 {
            digits.push(low(carry % 58));
            carry /= 58;
        }
    }
    // The prefix is not zero, so no leading zeros have to be written.
    digits.iter().rev().map(|digit| char::from(ALPHABET[usize::from(*digit)])).collect()
}

/// Reads an SS58 address of Bittensor.
///
/// # Errors
/// [`AddressError`].
pub fn parse(address: &str) -> Result<Hotkey, AddressError> {
    let mut bytes: Vec<u8> = Vec::new();
    for character in address.chars() {
        let digit = ALPHABET.iter().position(|known| char::from(*known) == character);
        let mut carry = u32::try_from(digit.ok_or(AddressError::Character(character))?).unwrap_or(0);
        for byte in &mut bytes {
            carry += u32::from(*byte) * 58;
            *byte = low(carry & 0xff);
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(low(carry & 0xff));
            carry >>= 8;
        }
        if bytes.len() > BYTES {
            return Err(AddressError::Length(bytes.len()));
        }
    }
    // Leading zeros are written one by one.
    bytes.extend(address.bytes().take(BYTES).take_while(|character| *character == ALPHABET[0]).map(|_| 0));
    bytes.reverse();
    let Ok(bytes) = <[u8; BYTES]>::try_from(bytes.as_slice()) else {
        return Err(AddressError::Length(bytes.len()));
    };
    let (body, check) = bytes.split_at(BYTES - CHECKSUM);
    if check != checksum(body) {
        return Err(AddressError::Checksum);
    }
    if body[0] != PREFIX {
        return Err(AddressError::Prefix(body[0]));
    }
    let mut account = [0; 32];
    account.copy_from_slice(&body[1..]);
    Ok(Hotkey::new(account))
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let hash = sp_crypto_hashing::blake2_512(&[b"SS58PRE", body].concat());
    [hash[0], hash[1]]
}

/// What is known to be below 256.
fn low(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The development account of every Substrate chain.
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn kat_alice_is_written_as_everywhere() {
        let alice = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";
        let bytes: [u8; 32] = hex::decode(alice).unwrap().try_into().unwrap();
        assert_eq!(format(&Hotkey::new(bytes)), ALICE);
        assert_eq!(parse(ALICE), Ok(Hotkey::new(bytes)));
    }

    #[test]
    fn an_address_with_a_mistake_is_refused() {
        assert_eq!(parse(&ALICE.replace("GKut", "GKuT")), Err(AddressError::Checksum));
        assert_eq!(parse(&ALICE.replace('5', "0")), Err(AddressError::Character('0')));
        assert!(matches!(parse(&ALICE[..47]), Err(AddressError::Length(_))));
        assert!(matches!(parse(&format!("{ALICE}{ALICE}")), Err(AddressError::Length(_))));
        // The same account as Polkadot writes it.
        assert_eq!(parse("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"), Err(AddressError::Prefix(0)));
    }

    proptest! {
        #[test]
        fn prop_an_address_is_read_as_it_was_written(bytes in any::<[u8; 32]>()) {
            let hotkey = Hotkey::new(bytes);
            prop_assert_eq!(parse(&format(&hotkey)), Ok(hotkey));
        }
    }
}

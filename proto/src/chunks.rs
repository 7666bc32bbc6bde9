//! Long byte strings in pieces.
//!
//! Proofs and assets may be megabytes, and a message is held in memory before anyone can look at it.
//! In pieces of [`CHUNK_BYTES`] the limit on messages stays small, and the receiver counts what has come
//! against a bound of its own. Only the last piece may be shorter, so that the number of messages is
//! bounded with the bytes: to take a message costs the receiver more than to send it.

use crate::v1::{AssetChunk, MinerMessage, ProofChunk, miner_message};

/// Bytes of every piece but the last, which has as many or fewer.
pub const CHUNK_BYTES: usize = 64 << 10;

/// A proof in the messages that carry it; the last has the signature. An empty proof is one message
/// without data.
pub fn proof_messages(proof: &[u8], signature: [u8; 64]) -> impl Iterator<Item = MinerMessage> + '_ {
    let pieces = proof.len().div_ceil(CHUNK_BYTES).max(1);
    (0..pieces).map(move |piece| {
        let start = piece * CHUNK_BYTES;
        let end = proof.len().min(start + CHUNK_BYTES);
        let signature = if piece + 1 == pieces { signature.to_vec() } else { Vec::new() };
        let chunk = ProofChunk { data: proof[start..end].to_vec(), signature };
        MinerMessage { message: Some(miner_message::Message::Proof(chunk)) }
    })
}

/// An asset in pieces; none for an empty one.
pub fn asset_chunks(asset: &[u8]) -> impl Iterator<Item = AssetChunk> + '_ {
    asset.chunks(CHUNK_BYTES).map(|data| AssetChunk { data: data.to_vec() })
}

/// Why pieces are no whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// More bytes than the whole may have.
    #[error("more bytes came than the bound allows")]
    TooLong,
    /// A piece that is not the last is shorter, or one is longer.
    #[error("a piece has another length than {CHUNK_BYTES} bytes")]
    Piece,
    /// The last piece's signature has not 64 bytes.
    #[error("a signature has another length than 64 bytes")]
    Signature,
}

/// A proof, whole, and the signature that came with its last piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeProof {
    /// The proof.
    pub bytes: Vec<u8>,
    /// The signature, not yet checked.
    pub signature: [u8; 64],
}

/// Bytes put together from pieces, up to a bound.
#[derive(Clone, Debug)]
pub struct Assembly {
    bound: usize,
    bytes: Vec<u8>,
    is_over: bool,
}

impl Assembly {
    /// Nothing yet, and at most `bound` bytes to come.
    pub const fn new(bound: usize) -> Self {
        Self { bound, bytes: Vec::new(), is_over: false }
    }

    /// Adds a piece; a shorter one was the last. Memory grows with what has come, never with what was announced.
    ///
    /// # Errors
    /// [`ChunkError::TooLong`] and [`ChunkError::Piece`].
    pub fn push(&mut self, data: &[u8]) -> Result<(), ChunkError> {
        if self.is_over || data.is_empty() || data.len() > CHUNK_BYTES {
            return Err(ChunkError::Piece);
        }
        self.is_over = data.len() < CHUNK_BYTES;
        if data.len() > self.bound - self.bytes.len() {
            return Err(ChunkError::TooLong);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Adds a piece of a proof; after the last one, the whole.
    ///
    /// # Errors
    /// [`ChunkError`].
    pub fn push_proof(&mut self, chunk: &ProofChunk) -> Result<Option<WholeProof>, ChunkError> {
        let is_last = !chunk.signature.is_empty();
        // An empty proof is one piece.
        if !(is_last && chunk.data.is_empty() && self.bytes.is_empty()) {
            self.push(&chunk.data)?;
        }
        if !is_last {
            return if self.is_over { Err(ChunkError::Piece) } else { Ok(None) };
        }
        let signature = crate::fields::signature(&chunk.signature).ok_or(ChunkError::Signature)?;
        Ok(Some(WholeProof { bytes: std::mem::take(&mut self.bytes), signature }))
    }

    /// The bytes so far.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::ENVELOPE_BYTES;

    fn chunk(message: MinerMessage) -> ProofChunk {
        match message.message {
            Some(miner_message::Message::Proof(chunk)) => chunk,
            other => panic!("not a piece of a proof: {other:?}"),
        }
    }

    fn assemble(proof: &[u8], bound: usize) -> Result<Option<WholeProof>, ChunkError> {
        let mut assembly = Assembly::new(bound);
        let mut whole = None;
        for message in proof_messages(proof, [9; 64]) {
            assert_eq!(whole, None, "a piece after the last");
            whole = assembly.push_proof(&chunk(message))?;
        }
        Ok(whole)
    }

    #[test]
    fn a_proof_in_pieces_is_the_same_proof() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let proof: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let whole = assemble(&proof, length).unwrap().unwrap();
            assert!(whole.bytes == proof && whole.signature == [9; 64], "{length}");
        }
    }

    #[test]
    fn one_byte_above_the_bound_is_refused() {
        assert_eq!(assemble(&[1; 100], 99), Err(ChunkError::TooLong));
        assert_eq!(assemble(&vec![1; CHUNK_BYTES + 1], CHUNK_BYTES), Err(ChunkError::TooLong));
    }

    #[test]
    fn pieces_of_another_length_and_short_signatures_are_refused() {
        let piece = |length, signature| ProofChunk { data: vec![1; length], signature: vec![1; signature] };
        let push = |pieces: &[(usize, usize)]| {
            let mut assembly = Assembly::new(4 * CHUNK_BYTES);
            pieces.iter().map(|(length, signature)| assembly.push_proof(&piece(*length, *signature))).last().unwrap()
        };
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES + 1] {
            assert_eq!(push(&[(length, 0)]), Err(ChunkError::Piece), "{length}");
            assert_eq!(push(&[(CHUNK_BYTES, 0), (length, 0)]), Err(ChunkError::Piece), "{length}");
        }
        assert_eq!(push(&[(CHUNK_BYTES + 1, 64)]), Err(ChunkError::Piece));
        assert_eq!(push(&[(CHUNK_BYTES, 0), (0, 64)]), Err(ChunkError::Piece), "the piece before had been the last");
        assert_eq!(push(&[(1, 63)]), Err(ChunkError::Signature));
        let mut asset = Assembly::new(10);
        assert_eq!((asset.push(&[1]), asset.push(&[1])), (Ok(()), Err(ChunkError::Piece)));
    }

    #[test]
    fn every_message_fits_the_limit_on_messages() {
        for message in proof_messages(&vec![1; 2 * CHUNK_BYTES], [9; 64]) {
            assert!(message.encoded_len() <= CHUNK_BYTES + ENVELOPE_BYTES);
            assert_eq!(MinerMessage::decode(message.encode_to_vec().as_slice()), Ok(message));
        }
        assert!(asset_chunks(&[]).next().is_none());
        assert_eq!(asset_chunks(&vec![1; CHUNK_BYTES + 1]).count(), 2);
    }

    #[test]
    fn the_descriptors_name_the_service() {
        let name = b"assay/v1/assay.proto";
        assert!(crate::FILE_DESCRIPTOR_SET.windows(name.len()).any(|window| window == name));
    }
}

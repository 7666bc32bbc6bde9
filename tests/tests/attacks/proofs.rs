//! Rows 3, 8, 9, 11, 13, 17 and 18: proofs that an honest prover would not make, each signed by the miner.
//!
//! These are representatives, end to end. Forgers of weight openings that redo everything after their deviation
//! are in `commitments/src/weights/tests/forgers`; every byte of a proof is flipped in `tests/tests/tamper.rs`.

use assay_audit::prove::Kept;
use assay_commitments::TokenId;
use assay_commitments::manifest::Matrix;
use assay_tests::adversary::{Anatomy, Part, as_scripted};

use crate::table::{Cheat, at_the_proof, claimed, in_the_first_cell};

/// Changes the bytes of the proof.
fn forging(change: impl Fn(&Anatomy, &mut Vec<u8>) + Send + Sync + 'static) -> Cheat {
    Cheat::of(claimed().proof_bytes(change))
}

/// Changes bytes that the proof keeps, and makes what follows them for what is then drawn.
fn choosing(kept: Kept, change: impl Fn(&Anatomy, &mut Vec<u8>) + Send + Sync + 'static) -> Cheat {
    Cheat::of(claimed().chosen(kept, change))
}

/// Changes a field element so many bytes into a part; it stays an element.
fn moving(part: Part, offset: usize) -> Cheat {
    forging(move |anatomy, proof| proof[anatomy.of(part).start + offset] ^= 1)
}

/// Moves eight supplied products of the first cell by 128 steps of their grid, three thousand times what the sketch
/// lets their rounding be.
fn off(matrix: Matrix) -> impl Fn(&Anatomy, &mut Vec<u8>) {
    move |anatomy, proof| {
        let at = anatomy.of(Part::Supplied(matrix));
        let width = usize::from(proof[at.start + 1]);
        proof[at][2..].chunks_mut(width).take(8).for_each(|value| value[0] ^= 0x80);
    }
}

/// The proof of one token that is not the likeliest, its logit among those sent changed from what it is, in steps of
/// their grid, and that of the largest.
fn logit_of_another_pick(change: fn(i64, i64) -> i64) -> Cheat {
    const SERVED: usize = 7;
    Cheat::of_one_cell(|adversary| {
        let writing = adversary.written(|_, answer| answer.output[0] = TokenId::new(u32::try_from(SERVED).unwrap()));
        writing.chosen(Kept::Witness, move |anatomy, proof| {
            let at = anatomy.of(Part::Logits);
            let width = usize::from(proof[at.start + 1]);
            let values = &mut proof[at][2..];
            let read = |bytes: &[u8]| {
                let sign = if bytes[width - 1] & 0x80 == 0 { 0 } else { 0xff };
                let mut whole = [sign; 8];
                whole[..width].copy_from_slice(bytes);
                i64::from_le_bytes(whole)
            };
            let largest = values.chunks(width).map(read).max().unwrap();
            let own = &mut values[SERVED * width..][..width];
            let changed = change(read(own), largest);
            own.copy_from_slice(&changed.to_le_bytes()[..width]);
        })
    })
    .asked(|question| question.ask.temperature = 0.0)
}

attacks! {
    /// norm weights that are not the manifest's
    attack_03_other_norm_weights: Always [SmallTensors] => moving(Part::Small, 8);
    /// a proof of zeros
    attack_08_all_zero_proof: Always [ProofShape] => forging(|_, proof| proof.fill(0));
    /// the vector in which the weight opening ends, chosen freely
    attack_08_free_terminal_vector: Always [Sumcheck] => moving(Part::Last, 0);
    /// a claim on a product that is not its sum, with the opening that follows made anew
    attack_08_wrong_claim_sum: Always [Sumcheck] => choosing(Kept::Claims, |anatomy, proof| {
        proof[anatomy.of(Part::Claims(Matrix::Down)).start + 4] ^= 1;
    });
    /// a round of the sumcheck with a coefficient too many
    attack_08_wrong_round_degree: Always [ProofShape] => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Rounds).start;
        anatomy.splice(proof, at..at, [1; 24]);
    });
    /// a claim too few
    attack_09_element_missing: Always [ProofShape] => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Claims(Matrix::V)).start + 4;
        anatomy.splice(proof, at..at + 8, []);
    });
    /// an integer above the modulus for a field element
    attack_09_element_not_canonical: Always [ProofShape] => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Claims(Matrix::V)).start + 4;
        proof[at..at + 8].fill(0xff);
    });
    /// a row with a value that is no number
    attack_09_row_of_no_number: Always [RowNotCanonical] at in_the_first_cell => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Rows);
        proof[at][..2].copy_from_slice(&[0xc0, 0x7f]);
    })
    .in_full();
    /// rows whose sum is no number
    attack_09_rows_beyond_every_number: Always [C7] at in_the_first_cell => forging(|anatomy, proof| {
        let rows: Vec<_> = anatomy.all(Part::Rows).take(4).collect();
        let [h, _, o, _] = rows.as_slice() else { panic!("four rows") };
        [h, o].into_iter().for_each(|row| proof[row.clone()][..2].copy_from_slice(&[0x7f, 0x7f]));
    })
    .in_full();
    /// supplied products with less than the bits they have to have
    attack_09_products_of_no_bits: Always [SuppliedNotCanonical] at in_the_first_cell => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Supplied(Matrix::Gate));
        proof[at][2..].fill(0);
    })
    .in_full();
    /// an element of the extension where one of the base field belongs
    attack_09_element_of_another_field: Always [ProofShape] => forging(|anatomy, proof| {
        let at = anatomy.of(Part::Claims(Matrix::V)).start + 12;
        anatomy.splice(proof, at..at, [0; 16]);
    });
    /// a decode left out of the proof
    attack_11_part_omitted: Always [ProofShape] => forging(|anatomy, proof| {
        anatomy.rejoin(proof, |parts| drop(parts.remove(anatomy.number(Part::DecodeRow))));
    });
    /// the proof of a cell sent twice
    attack_11_part_duplicated: Always [ProofShape] => forging(|anatomy, proof| {
        let cell = anatomy.number(Part::Rows);
        anatomy.rejoin(proof, |parts| parts.insert(cell, parts[cell].clone()));
    });
    /// two rows of a cell in each other's place
    attack_11_parts_reordered: Always [TraceOpening] at in_the_first_cell => forging(|anatomy, proof| {
        let rows: Vec<_> = anatomy.all(Part::Rows).take(4).collect();
        let [_, _, o, m] = rows.as_slice() else { panic!("four rows of the hidden width") };
        let (first, second) = proof.split_at_mut(m.start);
        first[o.clone()].swap_with_slice(&mut second[..m.len()]);
    })
    .in_full();
    /// the whole proof twice
    attack_11_proof_duplicated: Always [ProofShape, ProtocolViolation] => forging(|_, proof| proof.extend(proof.clone()));
    /// bytes after the proof
    attack_11_bytes_appended: Always [ProofShape] => forging(|_, proof| proof.extend([0; 24]));
    /// pieces of the proof in another order
    attack_11_pieces_reordered: Always [ProofSignature] => Cheat::speaking(at_the_proof(|_, mut pieces| {
        assert!(pieces.len() > 3);
        pieces.swap(0, 1);
        as_scripted(pieces)
    }));
    /// a piece of the proof left out
    attack_11_piece_omitted: Always [ProofSignature] => Cheat::speaking(at_the_proof(|_, mut pieces| {
        assert!(pieces.len() > 3);
        pieces.remove(1);
        as_scripted(pieces)
    }));
    /// a piece of the proof sent twice
    attack_11_piece_duplicated: Always [ProofSignature] => Cheat::speaking(at_the_proof(|_, mut pieces| {
        assert!(pieces.len() > 3);
        pieces.insert(1, pieces[0].clone());
        as_scripted(pieces)
    }));
    /// a supplied product moved after its signs are known
    attack_13_product_after_the_signs: Always [C2] at in_the_first_cell => {
        moving(Part::Supplied(Matrix::Gate), 2).in_full()
    };
    /// supplied products some steps off, with claims and openings made for the signs that are then drawn
    attack_13_products_off_and_claims_redone: Always [C8] at in_the_first_cell => {
        choosing(Kept::Witness, off(Matrix::Gate)).in_full()
    };
    /// a committed row moved after it was drawn
    attack_13_row_after_the_draw: Always [TraceOpening] at in_the_first_cell => moving(Part::Rows, 0).in_full();
    /// logits in which another token than the likeliest is as likely
    attack_17_logits_that_fit: Always [Logits] => logit_of_another_pick(|_, largest| largest);
    /// the picked token's logit a step off, within what a sketch of all of them bears
    attack_17_logit_a_step_off: Always [Candidate] => logit_of_another_pick(|own, _| own - own.signum());
    /// an element of a column that the opening shows
    attack_18_wrong_column: Always [ColumnPath] => moving(Part::Columns, 0);
    /// a hash of a path from a column to the committed root
    attack_18_wrong_path: Always [ColumnPath] => moving(Part::ColumnPaths, 4);
    /// a nonce that does not show the work which drawing positions costs
    attack_18_wrong_nonce: Always [Grinding] => forging(|anatomy, proof| {
        let end = anatomy.of(Part::ColumnCount).start;
        let at = end - 8..end;
        let honest = u64::from_le_bytes(proof[at.clone()].try_into().unwrap());
        // An honest prover sends the smallest that does.
        proof[at].copy_from_slice(&honest.checked_sub(1).unwrap_or(1).to_le_bytes());
    });
    /// a round of the opening's sumcheck
    attack_18_wrong_round: Always [Grinding, OpeningShape, ColumnPath] => moving(Part::Rounds, 0);
    /// the root of a folded vector
    attack_18_wrong_fold: Always [Grinding, OpeningShape, ColumnPath] => moving(Part::Folds, 0);
    /// the answer of a folded vector out of the domain
    attack_18_wrong_sample: Always [Grinding, OpeningShape, ColumnPath] => moving(Part::Folds, 32);
}

//! A miner that shows something else than its model's files to a validator that does not know the model: rows 1, 15,
//! 20, 21 and 22. Whatever comes is refused, and another miner may be asked.

use std::iter::{once, repeat_with};

use assay_commitments::codec;
use assay_proto::chunks::CHUNK_BYTES;
use assay_proto::v1::{AssetChunk, AssetKind, InfoReply};
use assay_tests::adversary::{Act, Acts, Files, Seat, in_pieces, said, unreadable};
use assay_tests::arena::keys;
use assay_tests::{fixture, smallest};
use assay_validator::{FetchError, ModelError, Patience, VerifierModel, fetch_model};
use tonic::Status;

/// What a validator makes of the files when it looks for the fixture.
async fn fetched(files: Files) -> Result<VerifierModel, FetchError> {
    let seat = Seat::showing(files, &keys(1)).await;
    fetch_model(seat.peer().endpoint, fixture().committed.manifest.id(), Patience::DEFAULT).await
}

/// The fixture's, but for one file.
fn but(kind: AssetKind, sent: impl Fn(Vec<u8>) -> Acts<AssetChunk> + Send + Sync + 'static) -> Files {
    Files::of(&fixture()).asset(kind, sent)
}

fn replied(manifest: Vec<u8>) -> Acts<InfoReply> {
    let manifest_id = fixture().committed.manifest.id().as_bytes().to_vec();
    said(vec![InfoReply { manifest_id, manifest }])
}

/// The kit itself breaks nothing: without a change, the files are taken.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_changed_are_taken() {
    let model = fetched(Files::of(&fixture())).await.unwrap();
    assert_eq!(model.manifest().id(), fixture().committed.manifest.id());
}

/// The digests of another model's embeddings.
#[tokio::test(flavor = "multi_thread")]
async fn attack_01_other_embeddings_shown() {
    let changes: [fn(&mut Vec<u8>); 3] =
        [|digests| digests[7] ^= 1, |digests| digests.truncate(32), |digests| digests.push(0)];
    for change in changes {
        let found = fetched(but(AssetKind::EmbeddingDigests, move |mut digests| {
            change(&mut digests);
            in_pieces(&digests)
        }));
        let found = found.await;
        let is_refused = matches!(found, Err(FetchError::Model(_, ModelError::Embeddings) | FetchError::TooLong(..)));
        assert!(is_refused, "{:?}", found.err());
    }
}

/// Another tokenizer: one that means the same, and none at all.
#[tokio::test(flavor = "multi_thread")]
async fn attack_15_other_tokenizer_shown() {
    let changes: [fn(&mut Vec<u8>); 2] = [|tokenizer| tokenizer.push(b'\n'), Vec::clear];
    for change in changes {
        let found = fetched(but(AssetKind::Tokenizer, move |mut tokenizer| {
            change(&mut tokenizer);
            in_pieces(&tokenizer)
        }));
        let found = found.await;
        assert!(matches!(found, Err(FetchError::Model(..))), "{:?}", found.err());
    }
}

/// A manifest larger than any, one with bytes behind it, and bytes that are no message.
#[tokio::test(flavor = "multi_thread")]
async fn attack_20_no_manifest_shown() {
    let trailing = Files::of(&fixture()).manifest(|manifest| replied([manifest, vec![0]].concat()));
    let found = fetched(trailing).await;
    assert!(matches!(found, Err(FetchError::Manifest(..))), "{:?}", found.err());
    let too_long = Files::of(&fixture()).manifest(|_| replied(vec![0; 8 << 20]));
    let nested = Files::of(&fixture()).manifest(|_| Box::new(once(Act::Bytes(vec![0x7b; 1_000_000]))));
    for files in [too_long, nested] {
        let found = fetched(files).await;
        assert!(matches!(found, Err(FetchError::Silent(..))), "{:?}", found.err());
    }
}

/// A trailer that is no base64, over which the reader of the stream panics, behind the manifest and behind a file.
#[tokio::test(flavor = "multi_thread")]
async fn attack_20_trailer_behind_a_file() {
    let manifest = Files::of(&fixture()).manifest(|_| Box::new(once(Act::Fail(unreadable()))));
    let tokenizer = but(AssetKind::Tokenizer, |_| Box::new(once(Act::Fail(unreadable()))));
    for files in [manifest, tokenizer] {
        let found = fetched(files).await;
        let is_silence = matches!(&found, Err(FetchError::Silent(_, why)) if why == "it sends what cannot be read");
        assert!(is_silence, "{:?}", found.err());
    }
}

/// Files that do not end.
#[tokio::test(flavor = "multi_thread")]
async fn attack_20_endless_file() {
    for kind in [AssetKind::Tokenizer, AssetKind::EmbeddingDigests] {
        let piece = || Act::Say(AssetChunk { data: vec![b' '; CHUNK_BYTES] });
        let found = fetched(but(kind, move |_| Box::new(repeat_with(piece)))).await;
        assert!(matches!(found, Err(FetchError::TooLong(..))), "{:?}", found.err());
    }
}

/// Another model's manifest under the claimed one's id.
#[tokio::test(flavor = "multi_thread")]
async fn attack_21_other_manifest_shown() {
    let other = codec::encode(&smallest().committed.manifest);
    let found = fetched(Files::of(&fixture()).manifest(move |_| replied(other.clone()))).await;
    assert!(matches!(found, Err(FetchError::Manifest(..))), "{:?}", found.err());
    // With all the files that belong to it.
    let found = fetched(Files::of(&smallest())).await;
    assert!(matches!(found, Err(FetchError::Manifest(..))), "{:?}", found.err());
}

/// A file that stops coming, in any form.
#[tokio::test(flavor = "multi_thread")]
async fn attack_22_file_breaks_off() {
    let half = |tokenizer: &[u8]| Act::Say(AssetChunk { data: tokenizer[..1_000].to_vec() });
    let ending = |end: Act<AssetChunk>| {
        but(AssetKind::Tokenizer, move |tokenizer| Box::new([half(&tokenizer), end.clone()].into_iter()))
    };
    let (hangs, fails) = (fetched(ending(Act::Hang)), fetched(ending(Act::Fail(Status::internal("no memory left")))));
    for found in [hangs.await, fails.await] {
        assert!(matches!(found, Err(FetchError::Silent(..))), "{:?}", found.err());
    }
    let found = fetched(ending(Act::Leave)).await;
    assert!(matches!(found, Err(FetchError::Model(..))), "{:?}", found.err());
}

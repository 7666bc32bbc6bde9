//! The devnet through the trait, as validators and miners use it.
//!
//! `calls` holds what it accepts and refuses, `commits` weights that are seen later, `registration` who
//! gets a place, `epochs` what its epochs come to, `validators` what that means for those who disagree,
//! and `files` what stays of it all.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use assay_chain::{
    Chain, ChainError, Devnet, Genesis, GenesisHash, Metagraph, NetUid, Network, Parameters, Placement, Rao, Uid,
    WeightsForm,
};
use assay_commitments::Hotkey;

mod calls;
mod commits;
mod epochs;
mod files;
mod registration;
mod validators;

const OWNER: Hotkey = hotkey(0);
const NETWORK: Network = Network { genesis: GenesisHash::new([9; 32]), netuid: NetUid::new(9) };

const fn hotkey(number: u8) -> Hotkey {
    Hotkey::new([number; 32])
}

/// The devnet's futures never wait, so one poll is a whole run.
fn ready<T>(future: impl Future<Output = T> + Send) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the devnet made somebody wait"),
    }
}

/// Epochs of ten blocks of 65535 RAO, and plain weights as often as one likes. With netuid 9 they end in
/// blocks 10, 20 and so on, and the first one has number 1.
fn parameters() -> Parameters {
    Parameters {
        tempo: 9,
        weights_form: WeightsForm::Plain,
        weights_rate_limit: 0,
        min_allowed_weights: 1,
        emission_per_block: Rao::new(65_535),
        ..Parameters::default()
    }
}

/// A subnet with validators 1, 2, … of the given stakes, and miners after them that came in block
/// 1. It stands in block 2.
fn subnet(parameters: Parameters, stakes: &[u64], miners: u8) -> Devnet {
    let validators: Vec<(Hotkey, Rao)> = (1..).map(hotkey).zip(stakes.iter().copied().map(Rao::new)).collect();
    let first = u8::try_from(stakes.len() + 1).expect("few validators");
    let chain =
        Devnet::new(&Genesis { network: NETWORK, owner: OWNER, validators, parameters }).expect("a proper genesis");
    for number in first..first + miners {
        chain.register(hotkey(number)).expect("there is room");
    }
    assert_eq!(chain.step_block(), None);
    chain
}

fn metagraph(chain: &Devnet) -> Metagraph {
    ready(chain.metagraph()).expect("the devnet can be read")
}

fn place(chain: &Devnet, signer: Hotkey, weights: &[(u16, u16)]) -> Result<Placement, ChainError> {
    let weights: Vec<(Uid, u16)> = weights.iter().map(|(uid, value)| (Uid::new(*uid), *value)).collect();
    ready(chain.set_weights(signer, &weights, 0))
}

fn set(chain: &Devnet, signer: Hotkey, weights: &[(u16, u16)]) -> Result<(), ChainError> {
    place(chain, signer, weights).map(drop)
}

/// What stands of a hotkey's weights.
fn standing(chain: &Devnet, hotkey: Hotkey) -> Vec<(u16, u16)> {
    let stored = ready(chain.weights_of(hotkey)).expect("it is registered");
    stored.weights.into_iter().map(|(uid, value)| (uid.get(), value)).collect()
}

fn step(chain: &Devnet, blocks: u64) {
    (0..blocks).for_each(|_| drop(chain.step_block()));
}

//! A devnet as a file.

use assay_chain::{Chain, Devnet, EpochKeyHash, Parameters, Rao, WeightsForm};
use assay_commitments::{Epoch, ManifestId};

use super::{OWNER, hotkey, metagraph, parameters, place, ready, step, subnet};

/// A chain with something of everything.
fn lived_in() -> Devnet {
    let settings = Parameters { weights_form: WeightsForm::CommitReveal { period: 1 }, ..parameters() };
    let chain = subnet(settings, &[60, 40], 3);
    ready(chain.publish_manifests(OWNER, &[ManifestId::new([3; 32])])).expect("the owner may");
    ready(chain.serve_endpoint(hotkey(3), "[2001:db8::1]:9".parse().expect("an address"))).expect("it is registered");
    ready(chain.publish_epoch_key(hotkey(1), Epoch::new(1), EpochKeyHash::new([7; 32]))).expect("the epoch runs");
    chain.fund(assay_chain::Coldkey::new([9; 32]), Rao::new(u64::MAX));
    chain.burned_register(assay_chain::Coldkey::new([9; 32]), hotkey(9)).expect("there is room");
    live(&chain);
    chain.commit_weights(hotkey(2), [1; 32]).expect("the form is right");
    place(&chain, hotkey(1), &[(3, 1)]).expect("the form is right");
    chain
}

/// A few epochs in which validators disagree.
fn live(chain: &Devnet) {
    for _ in 0..3 {
        place(chain, hotkey(1), &[(3, 2), (4, 1)]).expect("the form is right");
        place(chain, hotkey(2), &[(4, 1), (5, 1)]).expect("the form is right");
        chain.run_epoch();
    }
    step(chain, 4);
}

#[test]
fn a_loaded_devnet_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("devnet.json");
    let one = lived_in();
    one.save(&path).expect("it can be written");
    let other = Devnet::load(&path).expect("it was just written");
    for chain in [&one, &other] {
        live(chain);
    }
    assert_eq!(metagraph(&one), metagraph(&other));
    assert_eq!(one.whole_history(), other.whole_history());
    assert_eq!(one.reports(Epoch::new(0)), other.reports(Epoch::new(0)));
    assert!(one.reports(Epoch::new(0)).len() > 5);
    // What is not to be seen from outside is in the file.
    let again = |chain: &Devnet, name: &str| {
        let path = folder.path().join(name);
        chain.save(&path).expect("it can be written");
        std::fs::read(path).expect("it was just written")
    };
    assert_eq!(again(&one, "one"), again(&other, "other"));
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").collect();
    assert_eq!(names.len(), 3, "nothing else is left in the folder");
}

#[test]
fn saving_replaces_what_was_there_and_failing_to_leaves_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("devnet.json");
    let chain = subnet(parameters(), &[5], 0);
    chain.save(&path).expect("it can be written");
    chain.step_block();
    chain.save(&path).expect("it can be written");
    assert_eq!(metagraph(&Devnet::load(&path).expect("it was just written")).block.get(), 3);
    let error = chain.save(&folder.path().join("absent/devnet.json")).expect_err("there is no such folder").to_string();
    assert!(error.contains("absent/devnet.json") && error.contains("check the path"), "{error}");
}

#[test]
fn a_file_that_is_no_whole_devnet_is_named_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("devnet.json");
    lived_in().save(&path).expect("it can be written");
    let good = std::fs::read_to_string(&path).expect("it was just written");
    let load = |text: &str| {
        std::fs::write(&path, text).expect("it can be written");
        let error = Devnet::load(&path).expect_err(text).to_string();
        assert!(error.contains("devnet.json") && !error.contains('\n'), "{error}");
        error
    };
    assert!(load("").contains("no devnet"));
    assert!(load("{\"kind\":\"something else\",\"version\":1}").contains("no devnet"));
    assert!(load("not even JSON").contains("no devnet"));
    assert!(load(&good.replacen("\"version\":1", "\"version\":2", 1)).contains("version 2"));
    assert!(load(&good[..good.len() / 2]).contains("its end is missing"));
    assert!(load(&good.replacen("\"burn\"", "\"born\"", 1)).contains("damaged"));
    assert!(load(&good.replacen("\"tempo\":9", "\"tempo\":0", 1)).contains("a tempo of 0"));
    assert!(load(&good.replacen("\"registered_at\":1,", "\"registered_at\":99,", 1)).contains("not there yet"));
    let twice = good.replacen(&"03".repeat(32), &"04".repeat(32), 10_000);
    assert!(load(&twice).contains("damaged"));
    let error = Devnet::load(&folder.path().join("absent")).expect_err("it is not there").to_string();
    assert!(error.contains("absent"), "{error}");
}

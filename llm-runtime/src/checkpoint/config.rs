//! `config.json` to an architecture.

use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Biases};
use serde_json::Value;

use super::error::{ConfigProblem, ConfigProblems};

/// What a configuration says, or everything in it that this runtime cannot serve.
///
/// Stop tokens are those of `config.json` and of `generation_config.json` together.
pub(super) fn architecture(config: &Value, generation: Option<&Value>) -> Result<Architecture, ConfigProblems> {
    let mut keys = Keys { config, problems: Vec::new() };
    keys.only("architectures", &Value::from(vec!["LlamaForCausalLM"]), "[\"LlamaForCausalLM\"]");
    keys.only_if_present("model_type", &Value::from("llama"), "\"llama\"");
    keys.only_if_present("hidden_act", &Value::from("silu"), "\"silu\"");
    keys.only_if_present("attention_bias", &Value::from(false), "false");
    keys.only_if_present("mlp_bias", &Value::from(false), "false");
    keys.absent("quantization_config", "a checkpoint that is not quantised");
    keys.absent("rope_scaling", "null: plain rotary positions");

    let hidden = keys.count("hidden_size");
    let heads = keys.count("num_attention_heads");
    let kv_heads = keys.count_or("num_key_value_heads", heads);
    let head_dim = keys.head_dim(hidden, heads);
    if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
        && (kv_heads == 0 || heads % kv_heads != 0)
    {
        keys.contradiction(
            format!("num_attention_heads {heads} and num_key_value_heads {kv_heads}"),
            "the first is a multiple of the second",
        );
    }
    let vocab_size = keys.count("vocab_size");
    let stop_tokens = keys.stop_tokens(generation, vocab_size);
    let theta = keys.rope_theta();
    let architecture = Architecture {
        vocab_size: vocab_size.unwrap_or(0),
        hidden: hidden.unwrap_or(0),
        layers: keys.count("num_hidden_layers").unwrap_or(0),
        heads: heads.unwrap_or(0),
        kv_heads: kv_heads.unwrap_or(0),
        head_dim: head_dim.unwrap_or(0),
        ffn: keys.count("intermediate_size").unwrap_or(0),
        max_positions: keys.count("max_position_embeddings").unwrap_or(0),
        norm_eps: keys.norm_eps(),
        inverse_frequencies: inverse_frequencies(theta, head_dim.unwrap_or(0)),
        tied: keys.flag("tie_word_embeddings"),
        biases: Biases::None,
        head_norms: false,
        window: None,
        stop_tokens,
    };
    if keys.problems.is_empty() {
        match architecture.check() {
            Ok(()) => return Ok(architecture),
            Err(error) => keys.problems.push(ConfigProblem::OutOfRange(error)),
        }
    }
    Err(ConfigProblems(keys.problems))
}

/// `theta^(-2i / head_dim)` of each pair `i`, computed in f64 and rounded to f32 once.
#[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
pub(crate) fn inverse_frequencies(theta: f64, head_dim: u32) -> Vec<f32> {
    let exponent = |pair: u32| f64::from(2 * pair) / f64::from(head_dim);
    (0..head_dim / 2).map(|pair| (1.0 / theta.powf(exponent(pair))) as f32).collect()
}

/// Reads keys and gathers what is wrong with them.
struct Keys<'a> {
    config: &'a Value,
    problems: Vec<ConfigProblem>,
}

impl Keys<'_> {
    /// The value of a key; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn unsupported(&mut self, key: &'static str, found: &Value, supported: &'static str) {
        self.problems.push(ConfigProblem::Unsupported { key, found: found.to_string(), supported });
    }

    fn contradiction(&mut self, between: String, expected: &'static str) {
        self.problems.push(ConfigProblem::Contradiction { between, expected });
    }

    fn only_if_present(&mut self, key: &'static str, value: &Value, supported: &'static str) {
        if let Some(found) = self.get(key).filter(|found| *found != value).cloned() {
            self.unsupported(key, &found, supported);
        }
    }

    fn only(&mut self, key: &'static str, value: &Value, supported: &'static str) {
        match self.get(key) {
            Some(_) => self.only_if_present(key, value, supported),
            None => self.problems.push(ConfigProblem::Missing(key)),
        }
    }

    fn absent(&mut self, key: &'static str, supported: &'static str) {
        if let Some(found) = self.get(key).cloned() {
            self.unsupported(key, &found, supported);
        }
    }

    /// A count that may be absent.
    fn optional_count(&mut self, key: &'static str) -> Option<u32> {
        let found = self.get(key)?.clone();
        let count = found.as_u64().and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.unsupported(key, &found, "a whole number below 2^32");
        }
        count
    }

    fn count(&mut self, key: &'static str) -> Option<u32> {
        if self.get(key).is_none() {
            self.problems.push(ConfigProblem::Missing(key));
        }
        self.optional_count(key)
    }

    fn count_or(&mut self, key: &'static str, default: Option<u32>) -> Option<u32> {
        if self.get(key).is_none() { default } else { self.optional_count(key) }
    }

    fn flag(&mut self, key: &'static str) -> bool {
        let Some(found) = self.get(key).cloned() else {
            return false;
        };
        found.as_bool().unwrap_or_else(|| {
            self.unsupported(key, &found, "true or false");
            false
        })
    }

    fn head_dim(&mut self, hidden: Option<u32>, heads: Option<u32>) -> Option<u32> {
        if self.get("head_dim").is_some() {
            return self.optional_count("head_dim");
        }
        let (hidden, heads) = (hidden?, heads?);
        if heads == 0 || hidden % heads != 0 {
            self.contradiction(
                format!("hidden_size {hidden} and num_attention_heads {heads}"),
                "without head_dim the first is a multiple of the second",
            );
            return None;
        }
        Some(hidden / heads)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
    fn norm_eps(&mut self) -> f32 {
        const KEY: &str = "rms_norm_eps";
        match self.get(KEY).cloned() {
            None => self.problems.push(ConfigProblem::Missing(KEY)),
            Some(found) => match found.as_f64() {
                Some(eps) => return eps as f32,
                None => self.unsupported(KEY, &found, "a number"),
            },
        }
        0.0
    }

    /// Newer configurations keep the base of the rotary frequencies in `rope_parameters`.
    fn rope_theta(&mut self) -> f64 {
        const DEFAULT: f64 = 10_000.0;
        let parameters = self.get("rope_parameters").cloned();
        let kind = parameters.as_ref().and_then(|parameters| parameters.get("rope_type"));
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            self.unsupported("rope_parameters.rope_type", kind, "\"default\": plain rotary positions");
        }
        let inner = parameters.as_ref().and_then(|parameters| parameters.get("rope_theta"));
        let Some(found) = inner.or(self.get("rope_theta")).cloned() else {
            return DEFAULT;
        };
        found.as_f64().filter(|theta| (1.0..1e12).contains(theta)).unwrap_or_else(|| {
            self.unsupported("rope_theta", &found, "a number from 1 to 10^12");
            DEFAULT
        })
    }

    fn stop_tokens(&mut self, generation: Option<&Value>, vocab_size: Option<u32>) -> Vec<TokenId> {
        const KEY: &str = "eos_token_id";
        let sources = [Some(self.config), generation];
        let mut tokens = Vec::new();
        for found in sources.into_iter().flatten().filter_map(|source| source.get(KEY)) {
            let list = found.as_array().map_or(std::slice::from_ref(found), Vec::as_slice);
            for id in list.iter().filter(|id| !id.is_null()) {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let known = |id: &u32| vocab_size.is_none_or(|vocab_size| *id < vocab_size);
                match id.filter(known) {
                    Some(id) => tokens.push(TokenId::new(id)),
                    None => self.problems.push(ConfigProblem::Unsupported {
                        key: KEY,
                        found: found.to_string(),
                        supported: "a token id below vocab_size, or a list of them",
                    }),
                }
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null, "eos_token_id": 3,
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = config();
        config[key] = value;
        config
    }

    fn refusal(config: &Value) -> String {
        architecture(config, None).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_configuration_is_read() {
        let read = architecture(&config(), None).unwrap();
        assert_eq!((read.head_dim, read.kv_heads, read.tied), (8, 2, false));
        assert_eq!(read.inverse_frequencies.len(), 4);
        assert_eq!(read.stop_tokens, [TokenId::new(3)]);
    }

    #[test]
    fn absent_kv_heads_are_heads_and_a_head_width_may_be_given() {
        let mut config = with("head_dim", json!(16));
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        let read = architecture(&config, None).unwrap();
        assert_eq!((read.head_dim, read.kv_heads), (16, 4));
    }

    #[test]
    fn stop_tokens_are_gathered_in_order() {
        let generation = json!({"eos_token_id": [9, 3, 1]});
        let read = architecture(&config(), Some(&generation)).unwrap();
        assert_eq!(read.stop_tokens, [1, 3, 9].map(TokenId::new));
    }

    #[test]
    fn the_base_is_read_where_newer_configurations_keep_it() {
        let mut config = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 500_000.0}));
        config.as_object_mut().unwrap().remove("rope_theta");
        let read = architecture(&config, None).unwrap();
        assert_eq!(read.inverse_frequencies, inverse_frequencies(500_000.0, 8));
    }

    #[test]
    fn every_unsupported_value_is_named() {
        for (key, value, expected) in [
            ("architectures", json!(["GemmaForCausalLM"]), "architectures is [\"GemmaForCausalLM\"]"),
            ("architectures", Value::Null, "architectures is missing"),
            ("model_type", json!("mistral"), "model_type is \"mistral\""),
            ("hidden_act", json!("gelu"), "hidden_act is \"gelu\", supported is \"silu\""),
            ("attention_bias", json!(true), "attention_bias is true"),
            ("mlp_bias", json!(true), "mlp_bias is true"),
            ("rope_scaling", json!({"factor": 8.0}), "rope_scaling is {\"factor\":8.0}"),
            ("rope_parameters", json!({"rope_type": "llama3"}), "rope_type is \"llama3\""),
            ("quantization_config", json!({"bits": 4}), "quantization_config is"),
            ("rope_theta", json!(-1.0), "rope_theta is -1.0"),
            ("rms_norm_eps", json!("small"), "rms_norm_eps is \"small\""),
            ("rms_norm_eps", json!(0.0), "norm_eps is out of range"),
            ("hidden_size", json!(33), "hidden_size 33 and num_attention_heads 4 contradict"),
            ("num_key_value_heads", json!(3), "num_attention_heads 4 and num_key_value_heads 3 contradict"),
            ("num_key_value_heads", json!(0), "num_key_value_heads 0 contradict"),
            ("head_dim", json!(7), "head_dim is out of range"),
            ("head_dim", json!(0), "head_dim is out of range"),
            ("vocab_size", json!("many"), "vocab_size is \"many\""),
            ("vocab_size", Value::Null, "vocab_size is missing"),
            ("num_hidden_layers", json!(0), "layers is out of range"),
            ("eos_token_id", json!(64), "eos_token_id is 64"),
            ("tie_word_embeddings", json!("yes"), "tie_word_embeddings is \"yes\""),
        ] {
            let text = refusal(&with(key, value));
            assert!(text.contains(expected) && !text.contains('\n'), "{key}: {text}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let mut config = with("hidden_act", json!("gelu"));
        config["attention_bias"] = json!(true);
        config.as_object_mut().unwrap().remove("vocab_size");
        let text = refusal(&config);
        assert!(["hidden_act", "attention_bias", "vocab_size"].iter().all(|key| text.contains(key)), "{text}");
    }

    #[test]
    fn something_else_than_an_object_is_refused() {
        assert!(refusal(&json!([1, 2])).contains("architectures is missing"));
    }
}

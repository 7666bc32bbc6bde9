//! `config.json` to an architecture.
//!
//! What a family does that its `config.json` does not say, and what an absent key means, is as in the configuration
//! classes of Hugging Face's transformers.

use std::borrow::Cow;

use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Biases};
use serde_json::Value;

use super::error::{ConfigProblem, ConfigProblems};
use super::gptq::Gptq;
use super::rope::{Scaling, inverse_frequencies};

/// What a configuration describes.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) architecture: Architecture,
    /// How the matrices are quantised, if they are.
    pub(super) gptq: Option<Gptq>,
}

/// What tells a family of models from the others.
struct Family {
    /// The class, as `architectures` names it.
    name: &'static str,
    model_type: &'static str,
    biases: FamilyBiases,
    head_norms: bool,
    window: FamilyWindow,
    /// Key and value heads where the key is absent; `None` for as many as query heads.
    kv_heads: Option<u32>,
    /// Width of a head where the key is absent; `None` for its part of the residual stream's.
    head_dim: Option<u32>,
}

/// Which projections have a bias.
#[derive(Clone, Copy)]
enum FamilyBiases {
    Never,
    /// All four of attention where `attention_bias` is set.
    OnDemand,
    /// Query, key and value.
    Qkv,
}

/// Which layers attend to a window.
#[derive(Clone, Copy)]
enum FamilyWindow {
    Never,
    /// All, to `sliding_window` positions unless it is null.
    Always,
    /// Those from `max_window_layers` on, where `use_sliding_window` is set.
    OnDemand,
}

const FAMILIES: [Family; 4] = [
    Family {
        name: "LlamaForCausalLM",
        model_type: "llama",
        biases: FamilyBiases::OnDemand,
        head_norms: false,
        window: FamilyWindow::Never,
        kv_heads: None,
        head_dim: None,
    },
    Family {
        name: "MistralForCausalLM",
        model_type: "mistral",
        biases: FamilyBiases::Never,
        head_norms: false,
        window: FamilyWindow::Always,
        kv_heads: Some(8),
        head_dim: None,
    },
    Family {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        biases: FamilyBiases::Qkv,
        head_norms: false,
        window: FamilyWindow::OnDemand,
        kv_heads: Some(32),
        head_dim: None,
    },
    Family {
        name: "Qwen3ForCausalLM",
        model_type: "qwen3",
        biases: FamilyBiases::OnDemand,
        head_norms: true,
        window: FamilyWindow::OnDemand,
        kv_heads: Some(32),
        head_dim: Some(128),
    },
];

/// What is said of a family that is none of [`FAMILIES`].
fn instead_of(name: &str) -> &'static str {
    if name.starts_with("Gemma") {
        "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM: Gemma's scaled embeddings, norms \
         that multiply by one plus their weight, GeGLU, norms after the branches, soft-capping and alternating \
         windows are not done"
    } else if name.contains("Moe") || name.starts_with("Mixtral") {
        "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM: mixtures of experts are not done"
    } else {
        "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM"
    }
}

/// What a configuration says, or everything in it that this runtime cannot serve.
///
/// Stop tokens are those of `config.json` and of `generation_config.json` together.
pub(super) fn read(config: &Value, generation: Option<&Value>) -> Result<Configuration, ConfigProblems> {
    let mut keys = Keys::new(config, "");
    let family = keys.family();
    keys.only("hidden_act", |act| act == "silu", "\"silu\"");
    keys.only("hidden_activation", |act| act == "silu", "\"silu\"");
    keys.only("mlp_bias", |bias| *bias == false, "false");
    for key in ["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"] {
        keys.only(key, |_| false, "null");
    }

    // The ranges are those of `Architecture::check`, which knows the keys by other names.
    let hidden = keys.within("hidden_size", 1 << 16);
    let heads = keys.within("num_attention_heads", 1024);
    let kv_heads = match family.kv_heads {
        Some(absent) if !keys.has("num_key_value_heads") => Some(absent),
        _ => keys.count_or("num_key_value_heads", heads),
    };
    let head_dim = keys.head_dim(family, hidden, heads);
    if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
        && (kv_heads == 0 || heads % kv_heads != 0)
    {
        keys.contradiction(
            format!("num_attention_heads {heads} and num_key_value_heads {kv_heads}"),
            "the first is a multiple of the second",
        );
    }
    let vocab_size = keys.within("vocab_size", 1 << 20);
    let layers = keys.within("num_hidden_layers", 1024).unwrap_or(0);
    let max_positions = keys.within("max_position_embeddings", 1 << 20).unwrap_or(0);
    let (theta, scaling) = keys.rope();
    let architecture = Architecture {
        vocab_size: vocab_size.unwrap_or(0),
        hidden: hidden.unwrap_or(0),
        layers,
        heads: heads.unwrap_or(0),
        kv_heads: kv_heads.unwrap_or(0),
        head_dim: head_dim.unwrap_or(0),
        ffn: keys.within("intermediate_size", 1 << 18).unwrap_or(0),
        max_positions,
        norm_eps: keys.norm_eps(),
        inverse_frequencies: inverse_frequencies(theta, head_dim.unwrap_or(0), scaling),
        tied: keys.flag("tie_word_embeddings"),
        biases: keys.biases(family),
        head_norms: family.head_norms,
        window: keys.window(family, layers, max_positions),
        stop_tokens: keys.stop_tokens(generation, vocab_size),
    };
    let gptq = keys.section("quantization_config", Gptq::read);
    if keys.problems.is_empty() {
        match architecture.check() {
            Ok(()) => {
                keys.problems.extend(gptq.as_ref().and_then(|gptq| gptq.misfit(&architecture)));
            }
            Err(error) => keys.problems.push(ConfigProblem::OutOfRange(error)),
        }
    }
    if keys.problems.is_empty() { Ok(Configuration { architecture, gptq }) } else { Err(ConfigProblems(keys.problems)) }
}

/// Reads keys of an object and gathers what is wrong with them.
pub(super) struct Keys<'a> {
    object: &'a Value,
    /// Stands before the names of keys.
    prefix: &'static str,
    problems: Vec<ConfigProblem>,
}

impl<'a> Keys<'a> {
    const fn new(object: &'a Value, prefix: &'static str) -> Self {
        Self { object, prefix, problems: Vec::new() }
    }

    /// Whether the key is there, `null` included.
    fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some()
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Reads an object in the object, if it is there.
    fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Keys<'_>) -> T) -> Option<T> {
        let mut inner = Keys::new(self.get(key)?, key);
        let value = read(&mut inner);
        self.problems.append(&mut inner.problems);
        Some(value)
    }

    fn name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    fn unsupported(&mut self, key: &str, found: &impl ToString, supported: impl Into<Cow<'static, str>>) {
        let (key, found, supported) = (self.name(key), found.to_string(), supported.into());
        self.problems.push(ConfigProblem::Unsupported { key, found, supported });
    }

    fn missing(&mut self, key: &str) {
        self.problems.push(ConfigProblem::Missing(self.name(key)));
    }

    fn contradiction(&mut self, between: String, expected: &'static str) {
        self.problems.push(ConfigProblem::Contradiction { between, expected });
    }

    /// Refuses a key: it is missing, or its value is none of those supported.
    pub(super) fn refuse(&mut self, key: &str, supported: &'static str) {
        match self.get(key) {
            Some(found) => self.unsupported(key, found, supported),
            None => self.missing(key),
        }
    }

    /// Refuses values of a key, if it is there, that are not good.
    pub(super) fn only(&mut self, key: &str, good: impl Fn(&Value) -> bool, supported: &'static str) {
        if let Some(found) = self.get(key).filter(|found| !good(found)) {
            self.unsupported(key, found, supported);
        }
    }

    /// A count that may be absent.
    fn optional_count(&mut self, key: &str) -> Option<u32> {
        let found = self.get(key)?;
        let count = found.as_u64().and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.unsupported(key, found, "a whole number below 2^32");
        }
        count
    }

    /// A count that must be there, at least 1 and at most so many.
    fn within(&mut self, key: &str, most: u32) -> Option<u32> {
        let count = self.count(key)?;
        let is_within = (1..=most).contains(&count);
        if !is_within {
            self.unsupported(key, &count, format!("a whole number from 1 to {most}"));
        }
        is_within.then_some(count)
    }

    fn count(&mut self, key: &str) -> Option<u32> {
        if self.get(key).is_none() {
            self.missing(key);
        }
        self.optional_count(key)
    }

    fn count_or(&mut self, key: &str, default: Option<u32>) -> Option<u32> {
        if self.get(key).is_none() { default } else { self.optional_count(key) }
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(found) = self.get(key) else {
            return false;
        };
        found.as_bool().unwrap_or_else(|| {
            self.unsupported(key, found, "true or false");
            false
        })
    }

    /// A number that must be there.
    fn number(&mut self, key: &str, good: impl Fn(f64) -> bool, supported: &'static str) -> Option<f64> {
        let Some(found) = self.get(key) else {
            self.missing(key);
            return None;
        };
        let number = found.as_f64().filter(|number| good(*number));
        if number.is_none() {
            self.unsupported(key, found, supported);
        }
        number
    }

    /// The family; the first of the table in place of one that is not there, so that the rest is looked at too.
    fn family(&mut self) -> &'static Family {
        const KEY: &str = "architectures";
        let Some(found) = self.get(KEY) else {
            self.missing(KEY);
            return &FAMILIES[0];
        };
        let name = found.as_array().filter(|names| names.len() == 1).and_then(|names| names[0].as_str()).unwrap_or("");
        let Some(family) = FAMILIES.iter().find(|family| family.name == name) else {
            self.unsupported(KEY, found, instead_of(name));
            return &FAMILIES[0];
        };
        if let Some(found) = self.get("model_type").filter(|found| *found != family.model_type) {
            self.unsupported("model_type", found, family.model_type);
        }
        family
    }

    fn biases(&mut self, family: &Family) -> Biases {
        const KEY: &str = "attention_bias";
        match family.biases {
            FamilyBiases::Never => self.only(KEY, |bias| *bias == false, "false"),
            FamilyBiases::Qkv => self.only(KEY, |bias| *bias == true, "true: query, key and value have one"),
            FamilyBiases::OnDemand => {
                return if self.flag(KEY) { Biases::Qkvo } else { Biases::None };
            }
        }
        if matches!(family.biases, FamilyBiases::Qkv) { Biases::Qkv } else { Biases::None }
    }

    fn head_dim(&mut self, family: &Family, hidden: Option<u32>, heads: Option<u32>) -> Option<u32> {
        if self.get("head_dim").is_some() {
            return self.optional_count("head_dim");
        }
        if family.head_dim.is_some() {
            return family.head_dim;
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
        self.number("rms_norm_eps", |_| true, "a number").unwrap_or(0.0) as f32
    }

    /// The window that all layers have. One over the whole context is none.
    fn window(&mut self, family: &Family, layers: u32, max_positions: u32) -> Option<u32> {
        /// Where keys are absent.
        const POSITIONS: u32 = 4096;
        const FIRST_LAYER: u32 = 28;
        let (on, first) = match family.window {
            FamilyWindow::Never => {
                self.only("sliding_window", |_| false, "null");
                (false, 0)
            }
            FamilyWindow::Always => (true, 0),
            FamilyWindow::OnDemand => {
                let first = self.count_or("max_window_layers", Some(FIRST_LAYER)).unwrap_or(0);
                (self.flag("use_sliding_window"), first)
            }
        };
        let width = match on {
            true if self.has("sliding_window") => self.optional_count("sliding_window"),
            true => Some(POSITIONS),
            false => None,
        };
        let first = if width.is_some() { first.min(layers) } else { layers };
        self.check_layer_types(first);
        let window = width.filter(|width| first < layers && *width < max_positions);
        if window.is_some() && first > 0 {
            let supported = "0 or no less than num_hidden_layers: a window on all layers or on none";
            self.unsupported("max_window_layers", &first, supported);
        }
        window
    }

    /// Checks that the kinds of layers, where they are listed, are those that follow from the other keys: a window
    /// from layer `first` on.
    fn check_layer_types(&mut self, first: u32) {
        let Some(found) = self.get("layer_types") else {
            return;
        };
        let agrees =
            |(layer, kind): (u32, &Value)| *kind == if layer < first { "full_attention" } else { "sliding_attention" };
        let list = found.as_array().map(Vec::as_slice).unwrap_or_default();
        let length = self.get("num_hidden_layers").and_then(Value::as_u64);
        if length != Some(list.len() as u64) || !(0..).zip(list).all(agrees) {
            let windows = format!("layer_types {found} and a sliding window from layer {first} on");
            self.contradiction(windows, "each layer has the type that the other keys give it");
        }
    }

    /// Base and scaling of the rotary frequencies: newer configurations have both in `rope_parameters`, older ones
    /// the base by itself and the rest in `rope_scaling`.
    fn rope(&mut self) -> (f64, Scaling) {
        const DEFAULT: f64 = 10_000.0;
        const SECTIONS: [&str; 2] = ["rope_scaling", "rope_parameters"];
        let whole = |factor: &Value| factor.as_f64() == Some(1.0);
        let is_base = |theta: f64| (1.0..1e12).contains(&theta);
        let base = "a number from 1 to 10^12";
        self.only("partial_rotary_factor", whole, "1");
        let found = SECTIONS.map(|key| self.get(key));
        if let [Some(old), Some(new)] = found
            && old != new
        {
            self.contradiction(format!("rope_scaling {old} and rope_parameters {new}"), "one is left out");
        }
        let mut theta = None;
        let mut scaling = Scaling::Plain;
        for key in SECTIONS {
            self.section(key, |rope| {
                rope.only("partial_rotary_factor", whole, "1");
                if rope.get("rope_theta").is_some() {
                    theta = rope.number("rope_theta", is_base, base);
                }
                scaling = rope.scaling();
            });
        }
        if theta.is_none() && self.get("rope_theta").is_some() {
            theta = self.number("rope_theta", is_base, base);
        }
        if let (Scaling::Llama3 { original, .. }, Some(found)) =
            (scaling, self.optional_count("original_max_position_embeddings"))
            && original != found
        {
            let both = format!("original_max_position_embeddings {found} and the {original} of the rotary scaling");
            self.contradiction(both, "they are equal");
        }
        (theta.unwrap_or(DEFAULT), scaling)
    }

    /// The scaling that a section of rotary parameters describes.
    fn scaling(&mut self) -> Scaling {
        const SUPPORTED: &str = "\"default\", \"linear\" or \"llama3\"";
        const FACTOR: &str = "a number from 1 to 10^6";
        let is_factor = |factor: f64| (1.0..=1e6).contains(&factor);
        let key = if self.get("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = self.get(key);
        match kind.map(|kind| kind.as_str().unwrap_or("")) {
            Some("default") => Scaling::Plain,
            None => {
                // Without a type there is no scaling; what else there is would go unheeded.
                let heeded = ["rope_theta", "partial_rotary_factor"];
                let all = self.object.as_object().is_some_and(|all| all.keys().all(|key| heeded.contains(&&**key)));
                if !all {
                    let found = self.object.to_string();
                    self.problems.push(ConfigProblem::Unsupported {
                        key: self.prefix.to_owned(),
                        found,
                        supported: "an object with a rope_type: \"default\", \"linear\" or \"llama3\"".into(),
                    });
                }
                Scaling::Plain
            }
            Some("linear") => Scaling::Linear { factor: self.number("factor", is_factor, FACTOR).unwrap_or(1.0) },
            Some("llama3") => {
                let factor = self.number("factor", is_factor, FACTOR);
                let low = self.number("low_freq_factor", |low| low > 0.0, "a number above 0");
                let least = low.unwrap_or(0.0);
                let high = self.number("high_freq_factor", |high| high > least, "a number above low_freq_factor");
                let original = self.count("original_max_position_embeddings");
                match (factor, low, high, original) {
                    (Some(factor), Some(low), Some(high), Some(original)) => {
                        Scaling::Llama3 { factor, low, high, original }
                    }
                    _ => Scaling::Plain,
                }
            }
            Some(_) => {
                self.unsupported(key, kind.unwrap_or(&Value::Null), SUPPORTED);
                Scaling::Plain
            }
        }
    }

    fn stop_tokens(&mut self, generation: Option<&Value>, vocab_size: Option<u32>) -> Vec<TokenId> {
        const KEY: &str = "eos_token_id";
        let sources = [Some(self.object), generation];
        let mut tokens = Vec::new();
        for found in sources.into_iter().flatten().filter_map(|source| source.get(KEY)) {
            let list = found.as_array().map_or(std::slice::from_ref(found), Vec::as_slice);
            for id in list.iter().filter(|id| !id.is_null()) {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let known = |id: &u32| vocab_size.is_none_or(|vocab_size| *id < vocab_size);
                match id.filter(known) {
                    Some(id) => tokens.push(TokenId::new(id)),
                    None => self.unsupported(KEY, found, "a token id below vocab_size, or a list of them"),
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
        read(config, None).unwrap_err().to_string()
    }

    fn architecture(config: &Value, generation: Option<&Value>) -> Architecture {
        super::read(config, generation).unwrap().architecture
    }

    #[test]
    fn a_plain_configuration_is_read() {
        let read = architecture(&config(), None);
        assert_eq!((read.head_dim, read.kv_heads, read.tied), (8, 2, false));
        assert_eq!(read.inverse_frequencies.len(), 4);
        assert_eq!(read.stop_tokens, [TokenId::new(3)]);
    }

    #[test]
    fn absent_kv_heads_are_heads_and_a_head_width_may_be_given() {
        let mut config = with("head_dim", json!(16));
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        let read = architecture(&config, None);
        assert_eq!((read.head_dim, read.kv_heads), (16, 4));
    }

    #[test]
    fn stop_tokens_are_gathered_in_order() {
        let generation = json!({"eos_token_id": [9, 3, 1]});
        let read = architecture(&config(), Some(&generation));
        assert_eq!(read.stop_tokens, [1, 3, 9].map(TokenId::new));
    }

    #[test]
    fn the_base_is_read_where_newer_configurations_keep_it() {
        let mut config = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 500_000.0}));
        config.as_object_mut().unwrap().remove("rope_theta");
        let read = architecture(&config, None);
        assert_eq!(read.inverse_frequencies, inverse_frequencies(500_000.0, 8, Scaling::Plain));
    }

    #[test]
    fn every_unsupported_value_is_named() {
        for (key, value, expected) in [
            (
                "architectures",
                json!(["GemmaForCausalLM"]),
                "architectures is [\"GemmaForCausalLM\"], supported is Llama",
            ),
            (
                "architectures",
                json!(["Gemma2ForCausalLM"]),
                "Gemma's scaled embeddings, norms that multiply by one plus",
            ),
            ("architectures", json!(["Qwen3MoeForCausalLM"]), "mixtures of experts are not done"),
            ("architectures", json!(["Phi3ForCausalLM"]), "architectures is [\"Phi3ForCausalLM\"], supported is Llama"),
            ("architectures", json!([]), "architectures is []"),
            ("architectures", Value::Null, "architectures is missing"),
            ("model_type", json!("mistral"), "model_type is \"mistral\", supported is llama"),
            ("hidden_act", json!("gelu"), "hidden_act is \"gelu\", supported is \"silu\""),
            ("hidden_activation", json!("gelu"), "hidden_activation is \"gelu\", supported is \"silu\""),
            ("attention_bias", json!(1), "attention_bias is 1"),
            ("sliding_window", json!(16), "sliding_window is 16, supported is null"),
            ("layer_types", json!(["full_attention"]), "layer_types [\"full_attention\"] and"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "from layer 2 on contradict"),
            ("final_logit_softcapping", json!(30.0), "final_logit_softcapping is 30.0"),
            ("attn_logit_softcapping", json!(50.0), "attn_logit_softcapping is 50.0"),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor is 0.5, supported is 1"),
            ("mlp_bias", json!(true), "mlp_bias is true"),
            ("rope_scaling", json!({"factor": 8.0}), "rope_scaling is {\"factor\":8.0}"),
            (
                "rope_scaling",
                json!({"type": "yarn", "factor": 4.0}),
                "rope_scaling.type is \"yarn\", supported is \"default\"",
            ),
            ("rope_scaling", json!({"rope_type": "dynamic"}), "rope_scaling.rope_type is \"dynamic\""),
            ("rope_scaling", json!({"rope_type": "longrope"}), "rope_scaling.rope_type is \"longrope\""),
            ("rope_scaling", json!({"rope_type": "linear"}), "rope_scaling.factor is missing"),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 0.5}), "rope_scaling.factor is 0.5"),
            ("rope_scaling", json!("linear"), "rope_scaling is \"linear\""),
            ("rope_parameters", json!({"rope_type": "llama3"}), "rope_parameters.factor is missing"),
            ("rope_parameters", json!({"full_attention": {}}), "rope_parameters is {\"full_attention\":{}}"),
            ("rope_parameters", json!({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor is 0.5"),
            ("quantization_config", json!({"bits": 4}), "quantization_config.quant_method is missing"),
            ("quantization_config", json!({"quant_method": "awq"}), "quant_method is \"awq\", supported is \"gptq\""),
            ("quantization_config", json!({"quant_method": "bitsandbytes"}), "quant_method is \"bitsandbytes\""),
            ("quantization_config", json!({"quant_method": "fp8"}), "quant_method is \"fp8\""),
            ("quantization_config", json!({"quant_method": "compressed-tensors"}), "is \"compressed-tensors\""),
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
            ("hidden_size", json!(0), "hidden_size is 0, supported is a whole number from 1 to 65536"),
            ("hidden_size", json!(65_537), "hidden_size is 65537, supported is a whole number from 1 to 65536"),
            ("num_hidden_layers", json!(0), "num_hidden_layers is 0, supported is a whole number from 1 to 1024"),
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
        config["mlp_bias"] = json!(true);
        config.as_object_mut().unwrap().remove("vocab_size");
        let text = refusal(&config);
        assert!(["hidden_act", "mlp_bias", "vocab_size"].iter().all(|key| text.contains(key)), "{text}");
    }

    fn of_family(family: &Family) -> Value {
        let mut config = with("architectures", json!([family.name]));
        config["model_type"] = json!(family.model_type);
        config
    }

    fn merged(mut config: Value, more: Value) -> Value {
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    }

    #[test]
    fn families_have_their_biases_and_norms() {
        let [llama, mistral, qwen2, qwen3] = FAMILIES.each_ref().map(of_family);
        let kind = |config: &Value| {
            let read = architecture(config, None);
            (read.biases, read.head_norms)
        };
        let biased = |config: &Value| merged(config.clone(), json!({"attention_bias": true}));
        assert_eq!(kind(&llama), (Biases::None, false));
        assert_eq!(kind(&biased(&llama)), (Biases::Qkvo, false));
        let mistral = merged(mistral, json!({"sliding_window": null}));
        assert_eq!(kind(&mistral), (Biases::None, false));
        assert!(refusal(&biased(&mistral)).contains("attention_bias is true, supported is false"));
        assert_eq!(kind(&qwen2), (Biases::Qkv, false));
        assert_eq!(kind(&biased(&qwen2)), (Biases::Qkv, false));
        assert!(refusal(&merged(qwen2, json!({"attention_bias": false}))).contains("attention_bias is false"));
        assert_eq!(kind(&qwen3), (Biases::None, true));
        assert_eq!(kind(&biased(&qwen3)), (Biases::Qkvo, true));
        assert_eq!(architecture(&qwen3, None).head_dim, 128, "what transformers takes where it is absent");
    }

    #[test]
    fn windows_are_those_of_transformers() {
        let [_, mistral, qwen2, qwen3] = FAMILIES.each_ref().map(of_family);
        let window = |config: &Value, more: Value| architecture(&merged(config.clone(), more), None).window;
        let large = json!({"max_position_embeddings": 10_000});
        assert_eq!(window(&mistral, json!({"sliding_window": 16})), Some(16));
        assert_eq!(window(&mistral, json!({"sliding_window": null})), None);
        assert_eq!(window(&mistral, json!({"sliding_window": 128})), None, "as many as there are positions");
        assert_eq!(window(&mistral, large.clone()), Some(4096), "what transformers takes where it is absent");
        let all = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0});
        for qwen in [qwen2, qwen3] {
            assert_eq!(window(&qwen, json!({"sliding_window": 16, "max_window_layers": 0})), None);
            assert_eq!(window(&qwen, all.clone()), Some(16));
            let both = ["sliding_attention", "sliding_attention"];
            assert_eq!(window(&merged(qwen.clone(), all.clone()), json!({"layer_types": both})), Some(16));
            let none = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 2});
            assert_eq!(window(&qwen, none), None);
            let some = merged(merged(qwen.clone(), all.clone()), json!({"max_window_layers": 1}));
            assert!(refusal(&some).contains("max_window_layers is 1, supported is 0 or no less"), "{}", refusal(&some));
            let other =
                merged(merged(qwen.clone(), all.clone()), json!({"layer_types": ["full_attention", "full_attention"]}));
            assert!(refusal(&other).contains("contradict"), "{}", refusal(&other));
            // A window over the whole context is none, on however many layers.
            assert_eq!(window(&some, json!({"sliding_window": 128})), None);
        }
    }

    #[test]
    fn scaling_is_read_under_old_and_new_names() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let expected = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
        let old = merged(config(), json!({"rope_theta": 5e5, "rope_scaling": llama3}));
        let mut new = merged(config(), json!({"rope_parameters": merged(llama3, json!({"rope_theta": 5e5}))}));
        new.as_object_mut().unwrap().remove("rope_theta");
        for config in [&old, &new] {
            assert_eq!(architecture(config, None).inverse_frequencies, inverse_frequencies(5e5, 8, expected));
        }
        let linear = with("rope_scaling", json!({"type": "linear", "factor": 2}));
        let expected = inverse_frequencies(1e4, 8, Scaling::Linear { factor: 2.0 });
        assert_eq!(architecture(&linear, None).inverse_frequencies, expected);
        let both = merged(linear, json!({"rope_parameters": {"rope_type": "default"}}));
        assert!(refusal(&both).contains("one is left out"), "{}", refusal(&both));
        let other = merged(old, json!({"original_max_position_embeddings": 32}));
        assert!(refusal(&other).contains("32 and the 64"), "{}", refusal(&other));
    }

    #[test]
    fn every_unsupported_quantisation_is_named() {
        let good = json!({"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": false, "sym": true,
            "lm_head": false, "dynamic": null, "modules_in_block_to_quantize": null, "checkpoint_format": "gptq"});
        assert!(read(&with("quantization_config", good.clone()), None).unwrap().gptq.is_some());
        for (key, value, expected) in [
            ("bits", json!(3), "quantization_config.bits is 3, supported is 4 or 8"),
            ("bits", Value::Null, "quantization_config.bits is missing"),
            ("group_size", json!(0), "quantization_config.group_size is 0"),
            ("group_size", Value::Null, "quantization_config.group_size is missing"),
            ("desc_act", json!(true), "quantization_config.desc_act is true"),
            ("lm_head", json!(true), "quantization_config.lm_head is true"),
            ("dynamic", json!({"-:.*down.*": {}}), "quantization_config.dynamic is"),
            ("modules_in_block_to_quantize", json!([["mlp.up_proj"]]), "modules_in_block_to_quantize is"),
            ("checkpoint_format", json!("marlin"), "quantization_config.checkpoint_format is \"marlin\""),
        ] {
            let text = refusal(&with("quantization_config", merged(good.clone(), json!({key: value}))));
            assert!(text.contains(expected) && !text.contains('\n'), "{key}: {text}");
        }
        let odd = merged(with("quantization_config", good), json!({"intermediate_size": 50}));
        let text = refusal(&odd);
        assert!(text.contains("quantization_config.bits 4 and gate_proj of 32 inputs and 50 outputs"), "{text}");
    }

    #[test]
    fn something_else_than_an_object_is_refused() {
        assert!(refusal(&json!([1, 2])).contains("architectures is missing"));
    }
}

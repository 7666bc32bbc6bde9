"""A model of random weights for llama.cpp, and both runtimes on it in turns: see llama_cpp.sh.

The weights are not those that `assay bench` makes, and no matter which: speed hangs on the shape alone.
"""

import json
import os
import statistics
import subprocess
import sys

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCABULARY = 28, 1024, 16, 8, 128, 3072, 151_936
# What `assay bench capture` runs without its capture: so many steps behind a prompt of one token, and a prompt.
STEPS, STEP_ROUNDS = 16, 15
PROMPT, PROMPT_ROUNDS = 192, 9
THREADS = 2


def write(path):
    """Writes the model: matrices of bf16, lm_head tied, norms of f32."""
    import numpy
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    random = numpy.random.default_rng(1)
    writer = GGUFWriter(path, "qwen3")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")

    def matrix(name, outputs, inputs):
        integers = random.integers(-128, 128, (outputs, inputs), dtype=numpy.int8)
        scale = 2.0 ** round(numpy.log2(1 / (inputs**0.5 * 73.9)))
        values = integers.astype(numpy.float32) * numpy.float32(scale)
        bf16 = GGMLQuantizationType.BF16
        writer.add_tensor(f"{name}.weight", quants.quantize(values, bf16), raw_dtype=bf16)

    def norm(name, length):
        writer.add_tensor(f"{name}.weight", numpy.ones(length, dtype=numpy.float32))

    matrix("token_embd", VOCABULARY, HIDDEN)
    norm("output_norm", HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm", HIDDEN)
        norm(f"{block}.attn_q_norm", HEAD_DIM)
        norm(f"{block}.attn_k_norm", HEAD_DIM)
        norm(f"{block}.ffn_norm", HIDDEN)
        matrix(f"{block}.attn_q", HEADS * HEAD_DIM, HIDDEN)
        matrix(f"{block}.attn_k", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(f"{block}.attn_v", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(f"{block}.attn_output", HIDDEN, HEADS * HEAD_DIM)
        matrix(f"{block}.ffn_gate", FFN, HIDDEN)
        matrix(f"{block}.ffn_up", FFN, HIDDEN)
        matrix(f"{block}.ffn_down", HIDDEN, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(command):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=environment)
    return json.loads(done.stdout)


def measure(llama, model, assay, rounds):
    numbers = (THREADS, STEPS, STEP_ROUNDS, PROMPT, PROMPT_ROUNDS)
    sides = {"llama.cpp": [llama, model, *map(str, numbers)], "assay": [assay, "bench", "capture", "--json"]}
    times = {name: [] for name in sides}
    for number in range(rounds):
        # Whoever comes first may find the machine in another state.
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            figures = run(sides[name])
            times[name].append((figures["seconds"], figures["prefill_seconds"]))
            decode, prompt = (1e3 * seconds for seconds in times[name][-1])
            print(f"round {number + 1}, {name}: decode {decode:.1f} ms a token, prompt {prompt:.2f} ms a token", flush=True)
    for index, what in enumerate(["decode", "prompt"]):
        medians = {name: statistics.median(pair[index] for pair in pairs) for name, pairs in times.items()}
        ratio = medians["llama.cpp"] / medians["assay"]
        print(f"{what}: llama.cpp {1e3 * medians['llama.cpp']:.2f} ms, assay {1e3 * medians['assay']:.2f} ms a token;"
              f" assay is {ratio:.2f} times as fast")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", path]:
            write(path)
        case ["measure", llama, model, assay, rounds]:
            measure(llama, model, assay, int(rounds))
        case _:
            sys.exit(__doc__)

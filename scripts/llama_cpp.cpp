// Times llama.cpp on a model file: see llama_cpp.py.
//
//   llama_cpp MODEL THREADS STEPS STEP_ROUNDS PROMPT PROMPT_ROUNDS
//
// prints as JSON the median seconds a token of so many steps behind a prompt of one token, and of a prompt, each with
// the logits of its last position and an empty cache before it.

#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

static void run(llama_context *context, std::vector<llama_token> &tokens, size_t start, size_t count) {
    const auto batch = llama_batch_get_one(tokens.data() + start, static_cast<int32_t>(count));
    if (llama_decode(context, batch) != 0 || llama_get_logits(context) == nullptr) {
        std::fprintf(stderr, "llama.cpp does not run the model\n");
        std::exit(1);
    }
}

// After one round that is not counted.
static double median(size_t rounds, const std::function<double()> &seconds) {
    seconds();
    std::vector<double> times(rounds);
    std::generate(times.begin(), times.end(), seconds);
    std::sort(times.begin(), times.end());
    return times[rounds / 2];
}

int main(int, char **arguments) {
    const auto number = [&](int index) { return std::strtoul(arguments[index], nullptr, 10); };
    const auto threads = static_cast<int32_t>(number(2));
    const size_t steps = number(3), step_rounds = number(4), prompt = number(5), prompt_rounds = number(6);

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    auto *model = llama_model_load_from_file(arguments[1], llama_model_default_params());
    auto parameters = llama_context_default_params();
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512;
    parameters.n_threads = parameters.n_threads_batch = threads;
    auto *context = model == nullptr ? nullptr : llama_init_from_model(model, parameters);
    if (context == nullptr) {
        std::fprintf(stderr, "llama.cpp does not read the model\n");
        return 1;
    }

    const auto vocabulary = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
    std::vector<llama_token> tokens(std::max(prompt, steps + 1));
    for (size_t index = 0; index < tokens.size(); ++index) {
        tokens[index] = static_cast<llama_token>(index * 37 % vocabulary);
    }
    const auto timed = [&](size_t first, size_t count, size_t at_once) {
        llama_memory_clear(llama_get_memory(context), true);
        if (first > 0) {
            run(context, tokens, 0, first);
        }
        const auto begin = std::chrono::steady_clock::now();
        for (size_t start = first; start < first + count; start += at_once) {
            run(context, tokens, start, at_once);
        }
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
        return passed.count() / static_cast<double>(count);
    };
    const double step_seconds = median(step_rounds, [&] { return timed(1, steps, 1); });
    const double prompt_seconds = median(prompt_rounds, [&] { return timed(0, prompt, prompt); });
    std::printf("{\"seconds\": %.9f, \"prefill_seconds\": %.9f}\n", step_seconds, prompt_seconds);
    return 0;
}

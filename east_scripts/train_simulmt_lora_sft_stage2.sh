#!/usr/bin/env bash
# Stage 2, a LoRA adapter on the output of stage 1: [CONFIG.yaml] [key=value ...]; without a YAML the toy one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$root/.venv/bin:$PATH"

config=$root/yaml_configs/toy_wait_k_stage2_lora.yaml
if [[ ${1-} == *.y*ml ]]; then
    config=$(realpath "$1")
    shift
fi
cd "$root" # the paths in the YAMLs are relative to it
exec llamafactory-cli train "$config" "$@"

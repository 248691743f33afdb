#!/usr/bin/env bash
# Stage 1, full fine-tuning: [CONFIG.yaml] [key=value ...]; without a YAML the toy one, with its data and model.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$root/.venv/bin:$PATH"

if [[ ${1-} == *.y*ml ]]; then
    config=$(realpath "$1")
    shift
else
    config=$root/yaml_configs/toy_wait_k_stage1_full.yaml
    python "$root/east_scripts/demo.py" --output "$root/output/toy" --prepare
fi
cd "$root" # the paths in the YAMLs are relative to it
exec llamafactory-cli train "$config" "$@"

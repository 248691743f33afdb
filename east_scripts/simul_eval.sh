#!/usr/bin/env bash
# Streams a test set through SimulEval and draws the curve: [CONFIG.yaml] [key=value ...]; without a YAML the toy one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$root/.venv/bin:$PATH"

config=$root/yaml_configs/toy_eval.yaml
if [[ ${1-} == *.y*ml ]]; then
    config=$(realpath "$1")
    shift
fi
cd "$root" # the paths in the YAMLs are relative to it
exec simulmask eval "$config" "$@"

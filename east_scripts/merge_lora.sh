#!/usr/bin/env bash
# Merges the adapter of stage 2 into its base model: [CONFIG.yaml] [key=value ...]; without a YAML the toy one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$root/.venv/bin:$PATH"

config=$root/yaml_configs/toy_merge.yaml
if [[ ${1-} == *.y*ml ]]; then
    config=$(realpath "$1")
    shift
fi
cd "$root" # the paths in the YAMLs are relative to it
exec llamafactory-cli export "$config" "$@"

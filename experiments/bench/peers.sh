#!/usr/bin/env bash
# The environments of the peers, which cannot share one: Tunix keeps jax below 0.11.1, EasyDeL pins it to 0.9, TRL wants
# torch. Python 3.11, about 7 GB.   experiments/bench/peers.sh [DIRECTORY]
set -euo pipefail
where=${1:-.venv-peers}
python=${PYTHON:-python3.11}
torch="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu"
for name in trl tunix easydel; do "$python" -m venv "$where/$name"; done
# shellcheck disable=SC2086
"$where/trl/bin/pip" install $torch
"$where/trl/bin/pip" install transformers==5.23.0 trl==1.16.0
"$where/trl/bin/pip" install --no-deps liger-kernel==0.8.5 triton==3.9.0 # Liger imports only where triton is
"$where/tunix/bin/pip" install google-tunix==0.1.7
# shellcheck disable=SC2086
"$where/easydel/bin/pip" install easydel==0.3.0 pillow $torch # it needs the last two and does not say so

#!/bin/bash
# What needs a GPU, in calls of ten minutes at most, on a machine without a network.
#
#   here:   python tests/benchmarks/pack_for_gpu.py      (.gpu/pack.xz, 50 MB, ignored by git)
#           64 MB may travel: put links in the place of the weights in data/checkpoints, but for the
#           teacher's, meanwhile
#   there:  bash tests/benchmarks/on_gpu.sh correct      the same results as on a CPU, float32 and bf16
#           bash tests/benchmarks/on_gpu.sh search       which student and which texts, judged on dev
#           bash tests/benchmarks/on_gpu.sh students     the chosen ones, five seeds, on test
#           bash tests/benchmarks/on_gpu.sh ensemble     three teachers instead of one (and keep the
#                                                        weights of general-nano-6heads: 6 MB)
#           bash tests/benchmarks/on_gpu.sh speed        throughput, with the roofline
#           bash tests/benchmarks/on_gpu.sh sst2         SST-2: teacher, lite, nano
# FORMS, STEPS, SWITCH_STEPS, ROUNDS and DEVICE=cpu make `speed` a rehearsal. OUT names the folder for results (default runs/gpu); what is there already is continued.
set -eu
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/gpu}
mkdir -p "$OUT"
export TINYBERT_LITE_CACHE=${TINYBERT_LITE_CACHE:-$PWD/.gpu/cache} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TINYBERT_LITE_TEACHER=${TINYBERT_LITE_TEACHER:-$PWD/.gpu/minilm}
PY=${PY:-python3}
DEVICE=${DEVICE:-cuda}
[ ! -f .gpu/pack.xz ] || [ -d .gpu/minilm ] || $PY tests/benchmarks/pack_for_gpu.py --unpack
sst2="--train .gpu/sst2/train.tsv --test .gpu/sst2/dev.tsv --text sentence --label label"

case "${1:?correct, search, students, ensemble, speed or sst2}" in
correct)
    $PY -m pytest -q -p no:cacheprovider tests/test_cuda.py tests/test_losses.py
    ;;
search)
    $PY -m tests.benchmarks.bench_search --text .gpu/text/general.txt --workers "${WORKERS:-8}" \
        --work "$PWD/runs/search" --seeds 0 1 --out "$OUT/search.json"
    ;;
students)
    $PY -m tests.benchmarks.bench_search --text .gpu/text/general.txt --workers "${WORKERS:-8}" \
        --work "$PWD/runs/search" --seeds 0 1 2 3 4 --together 3 --test --out "$OUT/search.json" \
        --rows "nano, 6 heads, full"
    ;;
ensemble)
    $PY -m tests.benchmarks.bench_ensemble --gpu --seeds 0 1 2 3 4 --work "$OUT/ensemble" \
        --out "$OUT/ensemble.json"
    ;;
speed)
    # batch size of an additional optimized side: the first has 32, as the baseline
    forms=${FORMS:-sst2 embedded 64 256;random bert-base 128 128;random bert-base 512 32}
    while read -r texts size tokens batch; do
        [ -f "$OUT/speed-$texts-$tokens.json" ] && continue
        parts="intermediate prediction" own=""
        [ "$texts" = sst2 ] && parts="$parts finetune inference attention" own=$sst2
        # shellcheck disable=SC2086
        $PY -m tinybert_lite bench $parts --size "$size" --tokens "$tokens" --device "$DEVICE" \
            --batch-size "$batch" --steps "${STEPS:-0}" $own --out "$OUT/speed-$texts-$tokens.json" \
            </dev/null
    done <<<"${forms//;/$'\n'}"
    $PY tests/benchmarks/bench_switches.py --device "$DEVICE" --steps "${SWITCH_STEPS:-100}" \
        --rounds "${ROUNDS:-3}" --out "$OUT/switches.json"
    ;;
sst2)
    task=$sst2
    keep="--keep-gib 40 --quiet"
    # shellcheck disable=SC2086
    $PY -m tinybert_lite finetune $task --lora-rank 0 --finetune-epochs 3 \
        --quiet --out "$OUT/sst2-teacher"
    for student in nano lite; do
        # shellcheck disable=SC2086
        $PY -m tinybert_lite distill $task --teacher "$OUT/sst2-teacher/teacher" \
            --student $student --intermediate-epochs 10 --prediction-epochs 5 $keep \
            --out "$OUT/sst2-$student"
    done
    ;;
*)
    echo "there is no $1" >&2
    exit 2
    ;;
esac

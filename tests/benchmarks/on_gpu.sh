#!/bin/bash
# What needs a GPU, in calls of ten minutes at most, on a machine without a network.
#
#   here:   python tests/benchmarks/pack_for_gpu.py      (.gpu, 50 MB, ignored by git)
#           64 MB may travel: set notebooks/ and the two lite students of data/checkpoints aside
#           meanwhile, and bring them back with `git checkout -- notebooks data/checkpoints`
#           (for "general": pack_for_gpu.py text)
#   there:  bash tests/benchmarks/on_gpu.sh correct      the same results as on a CPU, float32 and bf16
#           bash tests/benchmarks/on_gpu.sh speed        throughput, with the roofline
#           bash tests/benchmarks/on_gpu.sh sst2         SST-2: teacher, lite, nano
#           bash tests/benchmarks/on_gpu.sh reviews      the ablations, three seeds
#           bash tests/benchmarks/on_gpu.sh general      stage 1 at length, lite and nano
# FORMS, STEPS, SWITCH_STEPS, ROUNDS and DEVICE=cpu make `speed` a rehearsal. OUT names the folder for results (default runs/gpu); what is there already is continued.
set -eu
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/gpu}
mkdir -p "$OUT"
export TINYBERT_LITE_CACHE=${TINYBERT_LITE_CACHE:-$PWD/.gpu/cache} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TINYBERT_LITE_TEACHER=${TINYBERT_LITE_TEACHER:-$PWD/.gpu/minilm}
PY=${PY:-python3}
DEVICE=${DEVICE:-cuda}
sst2="--train .gpu/sst2/train.tsv --test .gpu/sst2/dev.tsv --text sentence --label label"

case "${1:?correct, speed, sst2, reviews or general}" in
correct)
    $PY -m pytest -q -p no:cacheprovider tests/test_cuda.py tests/test_losses.py
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
reviews)
    # without the rows that need word vectors, which do not travel
    $PY tests/benchmarks/bench_reviews.py --out "$OUT/reviews.json" --rows lite nano \
        "lite, hard labels" "nano, hard labels" "no intermediate step" "no prediction loss" \
        "no intermediate step, longer" "nano, three times the steps" \
        "no attention loss" "no hidden loss" "no embedding loss" "one joint step" \
        "temperature 2" "random start" "lite, random start" "lite, general start" \
        "no unlabeled text" "mapping top" "mapping bottom"
    ;;
general)
    $PY -c "import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)" \
        .gpu/text.txt.xz >"$OUT/text.txt"
    for student in lite nano; do
        $PY -m tinybert_lite general --student "$student" --init svd --text "$OUT/text.txt" \
            --epochs "${EPOCHS:-10}" --batch-size 128 --quiet --out "$OUT/general-$student"
        $PY -m tinybert_lite distill --task reviews --teacher reviews-teacher --student "$student" --quiet \
            --init "$OUT/general-$student/model" --out "$OUT/reviews-from-general-$student"
    done
    rm "$OUT/text.txt"
    ;;
*)
    echo "there is no $1" >&2
    exit 2
    ;;
esac

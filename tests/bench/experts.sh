#!/usr/bin/env bash
# The whole job on one device: a seed student, five experts (math, code, stem, chat, recall), merged, and measured against
# the teacher; once with window heads alone and once with the heads that a probe plan keeps.
#   tests/bench/experts.sh XHYBRID TEACHER DATA PLAN.json OUT [DEVICE]
# DATA holds DOMAIN.train.jsonl of the five domains and recall.test.jsonl; the other texts and tests are those of examples/data.
set -euo pipefail
xhybrid=$1 teacher=$2 data=$3 plan=$4 out=$5 device=${6:-cuda}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
domains=(math code stem chat recall)
common=(--context 512 --batch 64 --dtype bf16 --teacher "$teacher")
stories=(--data examples/data/stories.train.jsonl.gz:0.24 --data examples/data/wikitext.train.jsonl.gz:0.20)
run() { "$xhybrid" -q --device "$device" "$@"; }
mkdir -p "$out"

# Half of what an expert reads of domains is its own; without the others it forgets them, and averaging brings nothing back.
expert_data() {
  local domain share
  for domain in "${domains[@]}"; do
    if [[ $domain == "$1" ]]; then share=0.28; else share=0.07; fi
    printf -- '--data\n%s\n' "$data/$domain.train.jsonl:$share"
  done
}

merge_inputs() { for domain in "${domains[@]}"; do printf "%s\n" "$1-$domain/student.xhy"; done; }

train() { # NAME [--plan FILE]
  local name=$1 domain mix=() reads
  shift
  for domain in "${domains[@]}"; do mix+=(--data "$data/$domain.train.jsonl:0.112"); done
  run distill "${common[@]}" --stage align --steps 150 --set stages.0.learning_rate=0.01 --set stages.0.warmup=20 \
    --set stages.0.final_learning_rate=0.00001 --feature-map hedgehog --window 64 --sinks 4 "${mix[@]}" "${stories[@]}" \
    --seed 1 --output "$out/$name-seed" "$@"
  for domain in "${domains[@]}"; do
    mapfile -t reads < <(expert_data "$domain")
    run distill "${common[@]}" --student "$out/$name-seed/student.xhy" --stage distill --steps 250 --learning-rate 0.0002 \
      "${reads[@]}" "${stories[@]}" --seed 2 --output "$out/$name-$domain"
  done
  mapfile -t students < <(merge_inputs "$out/$name")
  run merge "${students[@]}" --weights 0.2,0.2,0.2,0.2,0.2 --output "$out/$name.xhy" --replace
}

started=$SECONDS
train window
train kept --plan "$plan"
printf 'trained in %d s\n' $((SECONDS - started))
tasks=()
for domain in math code stem chat; do tasks+=(--task "examples/data/$domain.test.jsonl"); done
run evaluate "$teacher" "$out/window.xhy" "$out/kept.xhy" --names teacher --names window --names kept "${tasks[@]}" \
  --task "$data/recall.test.jsonl" --limit 128 --output "$out/evaluation.json"

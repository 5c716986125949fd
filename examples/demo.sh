# shellcheck shell=bash
# The steps of `./bootstrap demo`, sourced by it in the root of the tree after the build: heading and elapsed are its.
xhybrid=build/release/bin/xhybrid
out=demo-out
domains=(math code stem chat recall)
questions=${XHYBRID_DEMO_QUESTIONS:-64} # of each domain in the evaluation

# step TITLE OUTPUT INPUT... -- COMMAND...: runs COMMAND, which makes OUTPUT, unless it stands there already, made by the
# same command from the same inputs. An interrupted run of the same command goes on where it was.
step() {
  local title=$1 output=$2 stamp inputs=() key
  shift 2
  while [[ $1 != -- ]]; do
    inputs+=("$1")
    shift
  done
  shift
  heading "$title"
  stamp=$out/.stamps/$(basename "$output")
  key=$({ cat "${inputs[@]}" && printf '%s\n' "$@"; } | sha256sum)
  if [[ -e $output && -e $stamp && $(<"$stamp") == "$key" ]]; then
    printf 'already there: %s\n' "$output"
    return
  fi
  if [[ ! -e $stamp.begun || $(<"$stamp.begun") != "$key" ]]; then
    rm -rf "$output"
  fi
  rm -f "$stamp"
  printf '%s\n' "$key" >"$stamp.begun"
  "$@"
  mv "$stamp.begun" "$stamp"
}

# ask MODEL QUESTION ANSWER
ask() {
  printf '\nQ: %s\nA: ' "$2"
  "$xhybrid" generate "$1" "$2" --max-tokens 64
  printf '   (right: %s)\n' "$3"
}

# The table goes to a file, so that a run with nothing left to do can show it too.
evaluate() { "$xhybrid" evaluate "$@" --output $out/evaluation.json >$out/evaluation.txt; }

demo() {
  local fresh=$1 stamps=$out/.stamps domain tasks=() domain_files=()
  ((!fresh)) || rm -rf "$out"
  mkdir -p "$stamps"
  for domain in "${domains[@]}"; do
    domain_files+=("examples/data/$domain.test.jsonl")
    tasks+=(--task "examples/data/$domain.test.jsonl")
  done

  step 'Importing the teacher' $out/teacher.xhy examples/teacher-llama-3m/model.safetensors -- \
    "$xhybrid" import examples/teacher-llama-3m $out/teacher.xhy --replace
  step 'Stage I: aligning a seed student' $out/seed $stamps/teacher.xhy examples/recipes/align-seed.json -- \
    "$xhybrid" distill --recipe examples/recipes/align-seed.json
  for domain in math chat; do
    step "Stage II: distilling the $domain expert" "$out/$domain" $stamps/seed "examples/recipes/$domain-expert.json" -- \
      "$xhybrid" distill --recipe "examples/recipes/$domain-expert.json"
  done
  step 'Stage III: merging the experts' $out/merged.xhy $stamps/math $stamps/chat -- \
    "$xhybrid" merge $out/math/student.xhy $out/chat/student.xhy --method linear --weights 0.5,0.5 \
    --output $out/merged.xhy --replace
  step 'Evaluating against the teacher' $out/evaluation.json $stamps/merged.xhy "${domain_files[@]}" -- \
    evaluate $out/teacher.xhy $out/seed/student.xhy $out/math/student.xhy $out/chat/student.xhy $out/merged.xhy \
    --names teacher,seed,math,chat,merged "${tasks[@]}" --limit "$questions"
  printf '\n'
  cat $out/evaluation.txt

  heading 'Asking the merged student'
  # The first row of three test files: not chosen by how they are answered.
  ask $out/merged.xhy 'What is 12 times 10?' '120'
  ask $out/merged.xhy 'Repeat after me in capital letters: road short green wind silver cat' 'ROAD SHORT GREEN WIND SILVER CAT'
  ask $out/merged.xhy 'Which element has the symbol Rh?' 'rhodium'
  heading "Done: everything lies in $out/"
}

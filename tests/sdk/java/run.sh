#!/usr/bin/env bash
# Builds the jar, installs it into a repository of its own, and tests it from an empty directory:
#   tests/sdk/java/run.sh PREBUILT [WORK] [-- options of mvn test, such as -Dtest=JobTest or -Dform=long]
# PREBUILT: a build of libxhybrid with bin/ and lib/. WORK is kept when it is given, so that a second run is quick.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
prebuilt=$(cd "${1:?usage: run.sh PREBUILT [WORK] [-- mvn options]}" && pwd)
shift
if [ $# -gt 0 ] && [ "$1" != -- ]; then
  mkdir -p "$1"
  work=$(cd "$1" && pwd)
  shift
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
[ "${1:-}" != -- ] || shift
# Nothing around may help the jar: it has to find its own library and plugins.
unset LD_LIBRARY_PATH XHYBRID_DIR XHYBRID_PLUGIN_PATH

fixtures=$work/fixtures
teacher=$root/examples/teacher-llama-3m
xhybrid=$prebuilt/bin/xhybrid
mkdir -p "$fixtures"

student() { # TEACHER OUTPUT STEPS
  [ ! -e "$2" ] || return 0
  "$xhybrid" --quiet distill --teacher "$1" --output "$2.run" --window 64 --stage align --steps "$3" --batch 2 --context 64 \
    --data "$root/examples/data/mix.train.jsonl.gz" >/dev/null
  mv "$2.run/student.xhy" "$2"
}

[ -e "$fixtures/teacher.xhy" ] || "$xhybrid" --quiet import "$teacher" "$fixtures/teacher.xhy" >/dev/null
student "$fixtures/teacher.xhy" "$fixtures/a.xhy" 2
student "$fixtures/teacher.xhy" "$fixtures/b.xhy" 3
[ -e "$fixtures/tiny" ] || java "$here/fixtures/TinyTeacher.java" "$teacher" "$fixtures/tiny"
student "$fixtures/tiny" "$fixtures/tiny.xhy" 2
mkdir -p "$fixtures/plugins"
cc -O2 -fPIC -shared -I "$root/abi" "$here/fixtures/shouting.c" -o "$fixtures/plugins/merge_shouting.so" -pthread
javac=$(readlink -f "$(command -v javac)")
jdk=${JAVA_HOME:-${javac%/bin/javac}}
cc -O2 -fPIC -shared -I "$root/abi" -I "$jdk/include" -I "$jdk/include/linux" "$here/fixtures/beside.c" \
  -o "$fixtures/libbeside.so" -L "$prebuilt/lib" -lxhybrid
if [ -e "$root/examples/tour/tour.c" ]; then # reads JSON by jansson
  # shellcheck disable=SC2046
  cc -O2 -I "$root/abi" "$root/examples/tour/tour.c" -o "$fixtures/tour" -L "$prebuilt/lib" -lxhybrid \
    -Wl,-rpath,"$prebuilt/lib" $(pkg-config --cflags --libs jansson) -lm
fi
ln -sfn "$teacher" "$fixtures/hf"
ln -sfn "$root/examples/data" "$fixtures/data"
ln -sfn "$prebuilt" "$fixtures/prebuilt"
ln -sfn "$root/docs/sdk" "$fixtures/docs"

repository=$work/repository
# A private repository that reads what the user's has, so that being offline suffices once it is filled.
maven=(mvn -B -q -Dmaven.repo.local="$repository")
if [ ! -e "$repository" ] && [ -d "$HOME/.m2/repository" ]; then cp -r "$HOME/.m2/repository" "$repository"; fi
rm -rf "$repository/org/xhybrid"
"${maven[@]}" -f "$root/sdk/java/pom.xml" -Dxhybrid.prebuilt="$prebuilt" install

project=$work/project
rm -rf "$project"
mkdir -p "$project/target/empty"
cp -r "$here/pom.xml" "$here/src" "$project"
cp "$root/examples/tour/Tour.java" "$project/src/test/java/"
cd "$project"
"${maven[@]}" -Dfixtures="$fixtures" test "$@"

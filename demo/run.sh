#!/bin/sh
# Indexes the gathered photos and texts, and searches in each direction; `make demo` runs it.
set -eu
BIN=$(cd "$BIN" && pwd)
cd "$DEMO"
MMSEARCH_HOME="$PWD/indexes"
MMSEARCH_INDEX=demo
export MMSEARCH_HOME MMSEARCH_INDEX

run() {
  printf '\n$ mmsearch'
  for word in "$@"; do
    case $word in
      *' '*) printf ' "%s"' "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
  "$BIN/mmsearch" "$@"
}

run index photos texts --captions captions.tsv
run status
run query --table -k 3 "a cat"
run query --table -k 3 "a cup of coffee on a table"
run query --table -k 3 "a motorcycle"
run query --table -k 2 --in text "ancient money"
run query --table -k 2 --image photos/chelsea.png --in text
run query --table -k 2 --image photos/china.jpg --in text
run query --table -k 2 --image photos/astronaut.png --text "2:a rocket launch"
run similar --table -k 3 photos/motorcycle_left.png

printf '\nTry it yourself:\n'
printf '  %s query -i %s/demo "an astronaut"\n' "$BIN/mmsearch" "$MMSEARCH_HOME"
printf '  %s index YOUR_PHOTOS\n' "$BIN/mmsearch"
printf '  %s query "a dog on a beach"\n' "$BIN/mmsearch"

printf '\nLook at it in a browser:\n'
printf '  make serve\n'

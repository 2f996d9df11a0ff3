#!/bin/sh
# Indexes the gathered photos and texts and asks in each direction; `make demo` runs it.
set -eu
MMSEARCH_HOME="$DEMO/indexes"
MMSEARCH_INDEX=demo
export MMSEARCH_HOME MMSEARCH_INDEX

run() {
  printf '\n$ mmsearch %s\n' "$*"
  "$BIN/mmsearch" "$@"
}

run index "$DEMO/photos" "$DEMO/texts" --captions "$DEMO/captions.tsv"
run status
run query -k 3 "a cat"
run query -k 3 "a cup of coffee on a table"
run query -k 3 "a rocket launch"
run query -k 3 --in text "ancient money"
run query -k 3 --image "$DEMO/photos/chelsea.png" --in text
run query -k 3 --image "$DEMO/photos/china.jpg" --in text
run similar -k 3 "$DEMO/photos/motorcycle_left.png"

printf '\nAsk for yourself:\n'
printf '  %s/mmsearch query -i %s/indexes/demo "an astronaut"\n' "$BIN" "$DEMO"
printf '  %s/mmsearch index YOUR_PHOTOS && %s/mmsearch query "a dog on a beach"\n' "$BIN" "$BIN"

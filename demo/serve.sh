#!/bin/sh
# Indexes the gathered photos and texts, and opens them to a browser; `make serve` runs it.
set -eu
BIN=$(cd "$BIN" && pwd)
cd "$DEMO"
MMSEARCH_HOME="$PWD/indexes"
export MMSEARCH_HOME
"$BIN/mmsearch" index -q -i demo photos texts --captions captions.tsv
exec "$BIN/mmsearch" serve -i demo "$@"

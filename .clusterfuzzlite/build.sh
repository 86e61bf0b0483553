#!/bin/bash -eu
# Called in the image of the Dockerfile: builds every target, and packs its kept inputs as its first corpus.
cd "$SRC/bulkhead"
cargo fuzz build -O --fuzz-dir integration/fuzz/targets
release=integration/fuzz/targets/target/x86_64-unknown-linux-gnu/release
for target in */fuzz/targets/*.rs */*/fuzz/targets/*.rs; do
    name=$(basename "$target" .rs)
    [ -x "$release/$name" ] || continue
    cp "$release/$name" "$OUT/"
    seeds=${target%/targets/*}/seeds/$name
    [ ! -d "$seeds" ] || zip -q -j "$OUT/${name}_seed_corpus.zip" "$seeds"/*
done

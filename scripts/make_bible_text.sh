#!/usr/bin/env bash
# Writes the text that the shipped model was trained on, from Debian's package bible-kjv: training.txt and, of every
# twentieth chapter, held_out.txt, which training never sees. The text itself is not part of this repository.
# Usage: scripts/make_bible_text.sh FOLDER
set -euo pipefail

folder=${1:?usage: scripts/make_bible_text.sh FOLDER}
command -v bible >/dev/null || {
  echo "the program bible is not here: apt-get install bible-kjv" >&2
  exit 1
}
mkdir -p "$folder"

# One verse a line, its reference before it: Ge1:1 In the beginning ...
bible -f 'ge1:1-rev22:21' >"$folder/bible.txt"
expected=347edc0f3658f7bfc979db479f2a3dcb
found=$(md5sum <"$folder/bible.txt" | cut -d' ' -f1)
if [ "$found" != "$expected" ]; then
  echo "the text has the MD5 sum $found, expected $expected: another edition than the one that the model card is about" >&2
  exit 1
fi

awk -v held="$folder/held_out.txt" -v training="$folder/training.txt" '
  { split($1, reference, ":") }
  reference[1] != chapter { chapter = reference[1]; ++chapters }
  { print > (chapters % 20 == 10 ? held : training) }
' "$folder/bible.txt"
wc -c "$folder/training.txt" "$folder/held_out.txt"

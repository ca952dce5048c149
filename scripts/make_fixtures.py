#!/usr/bin/python3
"""Makes the reference files under tests/data/torch and tests/data/families.

  Needs    python3-torch (1.13 was used) and python3-numpy; installs nothing.
  Usage    scripts/make_fixtures.py [--out DIR] [--check]
  Laws     seeded: run again on the same machine, it writes the same bytes.
           --check makes everything in a temporary folder and compares it with the folder named, byte by byte.

Everything random is rounded to the type it is stored in before it is used, and everything computed is computed in
float64 from those stored values. So a reader in double has nothing to round, and a reader in float rounds no weight.
Each attention is computed a second time, row by row in numpy over the visible keys only, and compared here.
"""
import argparse
import filecmp
import pathlib
import sys
import tempfile

try:
    import torch

    from fixtures.decoders import make_bloom, make_gated, make_gpt2, make_neox
    from fixtures.encoders import make_bert, make_distilbert
    from fixtures.torch_layers import make_torch
except ImportError as missing:
    sys.exit(f"{missing}: this script needs python3-torch and python3-numpy (Debian's packages; pip's do as well)")


def make_families(out):
    make_gated(out)
    make_gpt2(out)
    make_bloom(out)
    make_neox(out)
    make_bert(out, "bert", "F32", 24, "", ("weight", "bias"), "BertModel")
    make_bert(out, "bert_prefixed", "F16", 16, "bert.", ("gamma", "beta"), "BertForPreTraining")
    make_bert(out, "roberta", "F16", 16, "roberta.", ("weight", "bias"), "RobertaForMaskedLM", "roberta")
    make_distilbert(out)


def main():
    parser = argparse.ArgumentParser(description="Makes tests/data/torch and tests/data/families.")
    parser.add_argument("--out", default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "data",
                        type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="write nothing; compare with what is in --out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) if arguments.check else arguments.out
        make_torch(out)
        make_families(out)
        if arguments.check:
            made = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
            wrong = [str(path) for path in made if not (arguments.out / path).is_file()
                     or not filecmp.cmp(out / path, arguments.out / path, shallow=False)]
            if wrong:
                sys.exit("not the same bytes: " + ", ".join(wrong))
            print(f"{len(made)} files, the same bytes as in {arguments.out}")


if __name__ == "__main__":
    main()

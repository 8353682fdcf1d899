#!/usr/bin/env python3
"""Build the four-kind text mixture that trains examples/tiny-moe.

Sources (see README.md for packages and licences):
  --sotu           one address per line, plain text
  --wordnet        directory with data.noun, data.verb, ... (wordnet-base)
  --python-docs    directory of *.rst.txt pages (python3.11-doc)
  --postgres       source tree of PostgreSQL (apt-get source postgresql-15)

Every kind is split by document, never inside one, into train, place and
held.  The split depends on a document's name alone, so it is the same on
every machine.
"""
import argparse
import hashlib
import os
import re

KINDS = ("speech", "gloss", "manual", "code")
SPLITS = ("train", "place", "held")
SAMPLE_BYTES = 12 << 10

QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"',
                        "\u201d": '"', "\u2013": "-", "\u2014": "--",
                        "\u2026": "...", "\u00a0": " ", "\t": "    "})
PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective",
         "r": "adverb"}


def to_ascii(text):
    """Byte-level training is short: spend no capacity on rare bytes."""
    text = text.translate(QUOTES)
    return "".join(c for c in text if c == "\n" or " " <= c <= "~")


def read_text(path):
    with open(path, encoding="utf-8", errors="ignore") as f:
        return f.read()


def files_under(root, suffix):
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffix):
                yield os.path.join(folder, name)


def speeches(path):
    for number, line in enumerate(read_text(path).splitlines()):
        if len(line) > 1000:
            yield f"speech {number}", line.strip()


def gloss_line(line):
    head, _, gloss = line.partition("|")
    fields = head.split()
    count = int(fields[3], 16)
    words = fields[4:4 + 2 * count:2]
    names = ", ".join(re.sub(r"\(.*\)", "", w).replace("_", " ")
                      for w in words)
    return f"{names} ({PARTS[fields[2]]}): {gloss.strip()}"


def glosses(root, per_document=50):
    for part in ("adj", "adv", "noun", "verb"):
        text = read_text(os.path.join(root, "data." + part))
        lines = [gloss_line(x) for x in text.splitlines()
                 if x and not x.startswith(" ")]
        for i in range(0, len(lines), per_document):
            yield f"{part} {i}", "\n".join(lines[i:i + per_document])


def pages(root, suffix):
    for path in files_under(root, suffix):
        yield os.path.relpath(path, root), read_text(path).strip()


def code(root):
    for part in ("src/backend", "src/port", "src/common", "contrib"):
        for name, text in pages(os.path.join(root, part), ".c"):
            # Generated tables (Snowball stemmers, Unicode maps) teach nothing.
            if "snowball" not in name and len(text) < 400000:
                yield os.path.join(part, name), text


def split_of(name):
    bucket = hashlib.sha256(name.encode()).digest()[0]
    return SPLITS[1] if bucket < 10 else SPLITS[2] if bucket < 20 \
        else SPLITS[0]


def cut(text, size):
    """Whole lines (or sentences) of about `size` bytes from the front."""
    if len(text) <= size:
        return text
    end = max(text.rfind("\n", 0, size), text.rfind(". ", 0, size) + 1)
    return text[:end].rstrip() + "\n"


def sample(documents):
    """A few documents' openings: more variety than one long file."""
    chosen = [cut(t, SAMPLE_BYTES // 4) for t in documents if len(t) > 3000]
    return "\n".join(chosen[len(chosen) // 4:][:4])


def write(path, text):
    with open(path, "w", encoding="ascii", newline="\n") as f:
        f.write(text)


def build_kind(kind, documents, out, limit):
    parts = {s: [] for s in SPLITS}
    for name, text in documents:
        parts[split_of(f"{kind}/{name}")].append(to_ascii(text))
    for split in SPLITS:
        text = "\n\n".join(parts[split])[:limit]
        write(os.path.join(out, f"{kind}.{split}"), text)
        print(f"{kind}.{split}: {len(parts[split])} documents, "
              f"{len(text)} bytes")
    return parts


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--sotu", required=True)
    p.add_argument("--wordnet", default="/usr/share/wordnet")
    p.add_argument("--python-docs",
                   default="/usr/share/doc/python3.11/html/_sources")
    p.add_argument("--postgres", required=True)
    p.add_argument("--out", required=True, help="folder for the splits")
    p.add_argument("--text", help="also write the demo's sample files here")
    p.add_argument("--limit", type=int, default=12 << 20,
                   help="most bytes per kind and split")
    return p.parse_args()


def main():
    args = parse_args()
    sources = {"speech": speeches(args.sotu),
               "gloss": glosses(args.wordnet),
               "manual": pages(args.python_docs, ".rst.txt"),
               "code": code(args.postgres)}
    for folder in filter(None, (args.out, args.text)):
        os.makedirs(folder, exist_ok=True)
    for kind in KINDS:
        parts = build_kind(kind, sources[kind], args.out, args.limit)
        for split in SPLITS[1:] if args.text else ():
            write(os.path.join(args.text, f"{split}-{kind}.txt"),
                  sample(parts[split]))


if __name__ == "__main__":
    main()

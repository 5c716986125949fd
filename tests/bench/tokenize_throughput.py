"""Encodes the same documents with `xhybrid tokenize --dry-run` and with the `tokenizers` package, in turns, and prints
the ratio of the medians: python3 tokenize_throughput.py PROGRAM TOKENIZER.json TEXT.jsonl...

TEXT holds rows {"text": ...}; they are shuffled and repeated in pieces until there are 20 MB.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

BYTES = 20_000_000
ROUNDS = 5


def documents(paths):
    """20 MB of documents, no two alike: pieces of the rows at other places each time round."""
    rows = [json.loads(line)["text"] for path in paths for line in open(path, encoding="utf-8") if '"text"' in line]
    generator, chosen, size = random.Random(1), [], 0
    while size < BYTES:
        generator.shuffle(rows)
        for row in rows:
            start = generator.randrange(max(1, len(row) // 4))
            chosen.append(row[start:])
            size += len(row[start:].encode())
            if size >= BYTES:
                break
    return chosen, size


def ours(program, directory, data, cpus):
    """Bytes of the file a second, as the program says."""
    command = ["taskset", "-c", cpus, program, "--json", "tokenize", directory, "--data", data, "--dry-run"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)["seconds"]


def theirs(tokenizer_file, texts, cpus):
    """A process of its own, as the pool of threads is made once: the time of encode_batch alone."""
    script = (
        "import json,sys,time,os\nos.sched_setaffinity(0,{%s})\nfrom tokenizers import Tokenizer\n"
        "t=Tokenizer.from_file(sys.argv[1]); rows=json.load(open(sys.argv[2]))\n"
        "s=time.perf_counter()\n"
        "for i in range(0,len(rows),4096): t.encode_batch(rows[i:i+4096])\n"
        "print(time.perf_counter()-s)" % cpus
    )
    result = subprocess.run([sys.executable, "-c", script, tokenizer_file, texts], check=True, capture_output=True,
                            text=True)
    return float(result.stdout)


def main(program, tokenizer_file, paths):
    texts, size = documents(paths)
    with tempfile.TemporaryDirectory() as directory:
        os.symlink(os.path.abspath(tokenizer_file), os.path.join(directory, "tokenizer.json"))
        data, plain = os.path.join(directory, "data.jsonl"), os.path.join(directory, "texts.json")
        with open(data, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        with open(plain, "w", encoding="utf-8") as file:
            json.dump(texts, file)
        everyone = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
        for name, cpus in (("all cores", everyone), ("one core", everyone.split(",")[0])):
            pairs = [(ours(program, directory, data, cpus), theirs(tokenizer_file, plain, cpus)) for _ in range(ROUNDS)]
            mine, other = (statistics.median(times) for times in zip(*pairs))
            print(f"{name}: xhybrid {size / mine / 1e6:.2f} MB/s, tokenizers {size / other / 1e6:.2f} MB/s, "
                  f"ratio {other / mine:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

"""What the oracles share: a quiet process on some threads, rows of files, and a list of checks that ends it."""
import json
import os
import sys
import tempfile
import warnings


def before_imports(threads):
    """To be called before torch, transformers, datasets or trl are imported."""
    os.environ.update(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
                      HF_DATASETS_CACHE=tempfile.mkdtemp(), HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    warnings.filterwarnings("ignore")


def after_imports(threads):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)


def read_rows(path, keys):
    with open(path, encoding="utf-8") as lines:
        return [{key: row[key] for key in keys} for row in map(json.loads, lines)]


class Checks:
    """Says each check as it is made; `end` exits with 1 if one failed."""

    def __init__(self):
        self.failures = []

    def __call__(self, ok, what):
        print(("ok    " if ok else "FAIL  ") + what)
        if not ok:
            self.failures.append(what)

    def end(self):
        if self.failures:
            sys.exit(f"{len(self.failures)} of the checks failed")

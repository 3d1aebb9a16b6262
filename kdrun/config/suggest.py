"""Suggestions for a key or an option that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

SYNONYMS = {
    "T": ("temperature",),
    "tau": ("temperature",),
    "temp": ("temperature",),
    "lr": ("lr", "optimizer.lr"),
    "learning_rate": ("lr", "optimizer.lr"),
    "wd": ("weight_decay", "optimizer.weight_decay"),
    "momentum": ("optimizer.momentum",),
    "bs": ("batch_size",),
    "batch": ("batch_size",),
    "ckpt": ("checkpoint", "teacher.checkpoint", "resume"),
    "weights": ("checkpoint", "teacher.checkpoint"),
    "data": ("dataset",),
    "data_dir": ("root", "dataset.root"),
    "data_root": ("root", "dataset.root"),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "n_epochs": ("epochs",),
    "num_classes": ("classes", "dataset.classes"),
    "alpha": ("kd_weight", "method.kd_weight"),
    "scheduler": ("schedule",),
    "lr_scheduler": ("schedule",),
    "optim": ("optimizer",),
    "model": ("student",),
    "amp": ("precision",),
    "output": ("out",),
    "output_dir": ("out",),
    "num_threads": ("threads",),
    "run_name": ("name",),
}
"""Other names -> names in kdrun, in the same group or from the root; the first that exists is suggested."""

FIELD = frozenset(
    "ab abkd aekd afd aid at ban bann blkd byot camkd catkd cc cgan ckd cmi crcd crd crld cskd ctkd cwd dafl "
    "datafree dcd ddgsd deepinversion deepkd dekd dfad dfq diffkd dist dkd dlb dml dot ebkd fastdfkd fcfd fitnets "
    "fsp ft gkd gskd icd ickd ifvd irg itrd kd kdsvd ldrld logit_std logits lsr lwm mean_teacher mgd mlkd mlld nkd "
    "nst ofa ofd okddip pefd pkd pkt pskd rco rekd reviewkd rkd rld rrd semckd simkd skd sld sobolev sp srd srrl "
    "sskd takd tfkd ttm uskd vid vitkd vkd wkd wkd_f wkd_l wskd wsld wttm zskd zskt".split()
)
"""Names by which papers call their methods: none is a slip for another, whether kdrun has it or not."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the dotted key or option in ``words`` nearest to ``word``, or nothing."""
    key = nearest(word, sorted(words))
    return f"; did you mean {key!r}?" if key else ""


def nearest(word: str, words: list[str]) -> str | None:
    """Returns the one of ``words`` that ``word`` probably means: a synonym, a typing error or another place."""
    if word in words:
        return word
    if (spelled := word.lower().replace("-", "_")) in words:  # as papers write it: ReviewKD, DKD
        return spelled
    parent, _, last = word.rpartition(".")
    parents = {key.rpartition(".")[0] for key in words}
    if parent not in parents and (key := by_parts(word, words)):
        return key
    renamed = SYNONYMS.get(last, ())
    for other in [*(f"{parent}.{name}" if parent else name for name in renamed), *renamed]:
        if other in words:
            return other
    beside = {key.rpartition(".")[2]: key for key in words if key.rpartition(".")[0] == parent}
    anywhere = {key.rpartition(".")[2]: key for key in reversed(words)}
    for names, slip in ((beside, last), ({key: key for key in words}, word), (anywhere, last)):
        # Last names are compared first: a common start of dotted keys is no evidence.
        for name in get_close_matches(slip, names, n=1, cutoff=0.6 if names is beside else 0.8):
            return names[name]
    return None


def by_parts(word: str, words: list[str]) -> str | None:
    """Returns the nearest of those ``words`` with as many parts as ``word``, each of them nearly the same; or None."""
    parts = word.split(".")
    likeness = {}
    for key in words:
        others = key.split(".")
        if len(others) == len(parts):
            each = [SequenceMatcher(None, *pair).ratio() for pair in zip(parts, others, strict=True)]
            likeness[key] = sum(each) if min(each) >= 0.6 else 0.0
    best = max(likeness, key=lambda key: likeness[key], default=None)
    return best if best is not None and likeness[best] else None

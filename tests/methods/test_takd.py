from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.store import files
from kdrun.train.taps import Tapped

CHAIN = "method.assistants=[mlp_100,mlp_32]"


def distilled(out: Path, *overrides: str) -> tuple[Experiment, dict[str, Tensor], Memory]:
    exp, memory = experiment(out, *overrides), Memory()
    exp.follow(exp.method(config(out, *overrides)["method"]), memory.journal)
    return exp, copied(exp.student), memory


def stored(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests in the store by the name of the model."""
    paths = out.glob("models/*/manifest.json")
    return {path.parent.name.rpartition("-")[0]: files.read_json(path) for path in paths}


def test_each_model_of_the_chain_is_taught_by_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = []
    taught_by = Experiment.taught_by
    exp = experiment(tmp_path, "method=takd", CHAIN)
    monkeypatch.setattr(Experiment, "taught_by", lambda self, teacher: last.append(teacher) or taught_by(self, teacher))
    exp.follow(exp.method(config(tmp_path, "method=takd", CHAIN)["method"]), Memory().journal)
    manifests = stored(tmp_path)
    assert manifests["mlp_16"]["key"] == exp.teacher.key
    assert manifests["mlp_100"]["fields"]["teacher"] == exp.teacher.key
    assert manifests["mlp_32"]["fields"]["teacher"] == manifests["mlp_100"]["key"]
    assert [link.key for link in last] == [manifests["mlp_32"]["key"]]


def test_assistants_use_the_base_method_and_the_teachers_recipe(tmp_path: Path) -> None:
    distilled(tmp_path, "method=takd", CHAIN, "method.base=kd_soft", "teacher.seed=3", "seed=5")
    for name in ("mlp_100", "mlp_32"):
        fields = stored(tmp_path)[name]["fields"]
        assert (fields["method"]["ce_weight"], fields["method"]["kd_weight"]) == (0.0, 1.0)
        assert (fields["seed"], fields["recipe"]["epochs"]) == (3, 1)


def test_an_assistant_is_trained_once_for_chains_that_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    train = Experiment._train

    def watched(self: Experiment, folder: Path, net: Tapped, model: dict[str, Any], *rest: Any) -> dict[str, Any]:
        begun.append(model["name"])
        return train(self, folder, net, model, *rest)

    monkeypatch.setattr(Experiment, "_train", watched)
    distilled(tmp_path, "method=takd", CHAIN)
    assert begun == ["mlp_16", "mlp_100", "mlp_32"]
    distilled(tmp_path, "method=takd", CHAIN, "seed=1")
    distilled(tmp_path, "method=takd", "method.assistants=[mlp_100]")
    assert begun == ["mlp_16", "mlp_100", "mlp_32"]
    distilled(tmp_path, "method=takd", "method.assistants=[mlp_32]")  # taught by another
    assert begun == ["mlp_16", "mlp_100", "mlp_32", "mlp_32"]


@pytest.mark.parametrize("base", ["kd", "fitnets", "gan"])
def test_an_empty_chain_is_the_base_method_to_the_last_bit(base: str, tmp_path: Path) -> None:
    more = ["method.hint_epochs=2"] if base == "fitnets" else []
    _, expected, plain = distilled(tmp_path, f"method={base}", *more)
    more = [override.replace("method.", "method.base.") for override in more]
    _, weights, chained = distilled(tmp_path, "method=takd", "method.assistants=[]", f"method.base={base}", *more)
    assert same(weights, expected)
    timeless = [[{**row, "seconds": 0} for row in memory.rows] for memory in (plain, chained)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("chain", ["method=takd method.assistants=[resnet8]", "method=gskd method.students=[resnet8]"])
def test_no_link_is_moved_by_those_that_it_teaches(chain: str, tmp_path: Path) -> None:
    exp, _, _ = distilled(tmp_path, *chain.split(), "teacher=resnet14", "student=resnet14", "dataset.train_count=64")
    assert [link.name for link in exp.chain] == ["resnet14", "resnet8"]
    for link in exp.chain:
        assert link.folder is not None
        assert same(dict(link.model.model.state_dict()), load_file(link.folder / "model.safetensors"))


def test_a_stored_assistant_gives_the_same_bits_as_a_new_one(tmp_path: Path) -> None:
    overrides = ["method=takd", CHAIN, "method.base=fitnets", "method.base.hint_epochs=1"]
    _, trained_now, _ = distilled(tmp_path, *overrides)
    _, from_store, _ = distilled(tmp_path, *overrides)
    assert same(trained_now, from_store)


def test_a_link_whose_method_trains_models_asks_for_its_own(tmp_path: Path) -> None:
    words = ["method=takd", "method.assistants=[mlp_32]", "method.base=adv_basic", "student=mlp_100"]
    exp, _, _ = distilled(tmp_path, *words, "method.base.discriminator_epochs=1")
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("models/*-*/"))
    assert names == ["mlp_100", "mlp_16", "mlp_32", "mlp_32"]  # assistant and student, each alone at first
    assert [link.name for link in exp.chain] == ["mlp_16", "mlp_32", "mlp_100"]  # what a link asked for is its own


def test_a_longer_chain_is_another_training(tmp_path: Path) -> None:
    chains = ("[]", "[mlp_32]", "[mlp_32,mlp_100]")
    none, one, two = (distilled(tmp_path, "method=takd", f"method.assistants={chain}")[1] for chain in chains)
    assert not same(none, one)
    assert not same(one, two)

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdrun.config.compose import Composer
from kdrun.config.places import CONF
from kdrun.config.root import GROUPS
from kdrun.config.tree import dotted
from kdrun.errors import ConfigError

CASES = {
    "epoch=3": "epoch: unknown key; did you mean 'epochs'?",
    "method.T=3": "method.T: unknown key; did you mean 'method.temperature'?",
    "lr=3": "lr: unknown key; did you mean 'optimizer.lr'?",
    "learning_rate=3": "learning_rate: unknown key; did you mean 'optimizer.lr'?",
    "optimizer.learning_rate=3": "optimizer.learning_rate: unknown key; did you mean 'optimizer.lr'?",
    "bs=3": "bs: unknown key; did you mean 'batch_size'?",
    "teacher.ckpt=x": "teacher.ckpt: unknown key; did you mean 'teacher.checkpoint'?",
    "temperature=3": "temperature: unknown key; did you mean 'method.temperature'?",
    "+epochz=3": "epochz: unknown key; did you mean 'epochs'?",
    "+new=1": "new: unknown key",
    "+method.typo=3": "method.typo: unknown key",
    "method={temperatur: 3}": "method.temperatur: unknown key; did you mean 'method.temperature'?",
    "+teacher.recipe.epoch=3": "teacher.recipe.epoch: unknown key; did you mean 'teacher.recipe.epochs'?",
    "optimizer.foreach=true": "optimizer.foreach: unknown key; +optimizer.foreach= adds one",
    "epochs=3.7": "epochs: 3.7 is not a whole number",
    "epochs=1e2": "epochs: 100.0 is not a whole number",
    "epochs=true": "epochs: true is not a whole number",
    "epochs=null": "epochs: null is not a whole number",
    "epochs=0": "epochs: 0 is out of range [1, 100000]",
    "epochs=-1": "epochs: -1 is out of range [1, 100000]",
    "seed=-1": "seed: -1 is out of range [0, 4294967295]",
    "seed=1180591620717411303424": "seed: 1180591620717411303424 is out of range [0, 4294967295]",
    "batch_size=0": "batch_size: 0 is out of range [1, 1000000]",
    "batch_size=99999999999999999999": "batch_size: 99999999999999999999 is out of range [1, 1000000]",
    "threads=0": "threads: 0 is out of range [1, 1024]",
    "teacher.recipe.epochs=0": "teacher.recipe.epochs: 0 is out of range [1, 100000]",
    "teacher.seed=-3": "teacher.seed: -3 is out of range [0, 4294967295]",
    "teacher.recipe.stop_at=nan": "teacher.recipe.stop_at: nan is not a finite number",
    "baseline=maybe": "baseline: 'maybe' is not true or false",
    "precision=fp16": "precision: 'fp16' is not one of fp32, bf16, auto; did you mean 'bf16'?",
    "figures=maybe": "figures: 'maybe' is not one of auto, true, false",
    "figures=1": "figures: 1 is not one of auto, true, false",
    "device=gpu": "device: 'gpu' is not cpu, cuda, cuda:N or auto",
    "epochs=1,2": "epochs: several values need -m",
    "method=kd,fitnets": "method: several values need -m",
    "method=choice(kd,fitnets)": "method: several values need -m",
    "method=[kd,fitnets]": "method: takes one option, not a list",
    "~method": "method: cannot be taken away",
    "~teacher": "teacher: cannot be taken away; choose teacher=none",
    "~epochs": "epochs: cannot be taken away",
    "name=a=b": "name: cannot parse 'name=a=b'; in quotes: \"name='a=b'\"",
    "name='x": """name: cannot parse "name='x\"""",
    "=3": "command line: cannot parse '=3'",
    "name": "name: cannot parse 'name'",
    "name=${": "name: cannot parse 'name=${'",
    "name=${foo}": "name: no value for ${foo}",
    "name=${oc.env:KDRUN_NOT_SET}": "name: no environment variable gets into the name of a folder; write it out",
    "threads=${oc.env:KDRUN_NOT_SET}": "threads: no value for ${oc.env:KDRUN_NOT_SET}",
    "method.temperature=${foo.bar}": "method.temperature: no value for ${foo.bar}",
    "teacher.recipe.optimizer={lr: x": "teacher.recipe.optimizer: cannot parse 'teacher.recipe.optimizer={lr: x'",
    "teacher.recipe={epoch: 3}": "teacher.recipe.epoch: unknown key; did you mean 'teacher.recipe.epochs'?",
    "hydra.run.dir=/tmp": "hydra.run.dir: is set by kdrun; use out= and name=",
    "hydra.sweep.dir=/tmp": "hydra.sweep.dir: is set by kdrun; use out= and name=",
}


@pytest.mark.parametrize("override", CASES)
def test_a_faulty_override_is_refused_in_one_line_with_its_key(compose, override):
    with pytest.raises(ConfigError) as refused:
        compose(override)
    assert str(refused.value) == CASES[override]
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("overrides", "start", "end"),
    [
        (["schedule=cosin"], "schedule: no option 'cosin' (have: ", "); did you mean 'cosine'?"),
        (["method=fitnet"], "method: no option 'fitnet' (kdrun ls method lists all ", "); did you mean 'fitnets'?"),
        (["teacher=null"], "teacher: no option null (kdrun ls teacher lists all ", "); did you mean 'none'?"),
        (["schedule=null"], "schedule: no option null (have: ", "?"),
        (["teacher.recipe=3"], "teacher.recipe: no option 3 (have: ", "yuan200)"),
        (["teacher.recipe.optimizer=sgdd"], "teacher.recipe.optimizer: no option 'sgdd'", "did you mean 'sgd'?"),
        (["method=takd", "method.base=fitnet"], "method.base: no option 'fitnet'", "did you mean 'fitnets'?"),
        (["method=takd", "method.assistants=[mlp_3]"], "method.assistants: no option 'mlp_3'", "'mlp_32'?"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(compose, overrides, start, end):
    with pytest.raises(ConfigError) as refused:
        compose(*overrides)
    assert str(refused.value).startswith(start)
    assert str(refused.value).endswith(end)


@pytest.mark.parametrize("name", ["../../etc", "-a", ".a", "a/b", "a..b", "", "x" * 101, "a\nb", " ", " a", "a "])
def test_a_name_that_could_leave_the_folder_of_runs_is_refused(compose, name):
    with pytest.raises(ConfigError, match=r"^name: .* may only hold letters"):
        compose(f"name='{name}'")


@pytest.mark.parametrize(
    ("override", "name"),
    [("name=a b", "a b"), ("name=007", "007"), ("name=1e3", "1e3"), ("name=été", "été"), ("name='a=b'", "a=b")],
)
def test_letters_of_any_language_spaces_and_digits_make_a_name(compose, override, name):
    assert compose(override)["name"] == name


def test_two_spellings_of_one_letter_are_one_name(compose):
    assert compose("name=e\u0301")["name"] == compose("name=\u00e9")["name"] == "\u00e9"


def test_an_experiment_named_twice_is_refused_at_once(compose):
    with pytest.raises(ConfigError) as refused:
        compose("experiment=takd_mnist", "experiment=gskd_mnist")
    assert str(refused.value) == "experiment: given 2 times: takd_mnist, gskd_mnist; give one"


@pytest.mark.parametrize("key", ["resume", "teacher.checkpoint", "out"])
def test_the_folder_of_a_sweeps_job_is_taken_as_it_is_printed(compose, key):
    config = compose(f"{key}=outputs/my sweep/1_kd_seed=1,students=[a,b]")
    for part in key.split("."):
        config = config[part]
    assert str(config) == "outputs/my sweep/1_kd_seed=1,students=[a,b]"


def test_a_path_may_hold_spaces_and_any_letters(compose):
    assert compose("out=/tmp/mes données/x")["out"] == "/tmp/mes données/x"


def test_every_node_carries_the_name_of_its_option(compose):
    config = compose("method=takd", "method.base=fitnets", "optimizer=sgd", "teacher.recipe.schedule=cosine")
    nodes = [config["dataset"], config["teacher"], config["student"], config["method"], config["method"]["base"]]
    assert [node["name"] for node in nodes] == ["digits", "cnn", "mlp_32", "takd", "fitnets"]
    recipe = config["teacher"]["recipe"]
    assert (config["optimizer"]["name"], config["schedule"]["name"]) == ("sgd", "constant")
    assert (recipe["optimizer"]["name"], recipe["schedule"]["name"]) == ("adam", "cosine")


def test_the_teachers_recipe_does_not_follow_that_of_the_run(compose):
    before = compose()["teacher"]
    after = compose("epochs=3", "seed=9", "batch_size=8", "optimizer=sgd", "schedule=cosine")["teacher"]
    assert before == after


def test_a_nested_option_replaces_all_keys_of_the_previous_one(compose):
    config = compose("teacher.recipe.optimizer=sgd", "teacher.recipe.optimizer.lr=0.5")
    optimizer = config["teacher"]["recipe"]["optimizer"]
    assert optimizer["_target_"] == "torch.optim.SGD"
    assert optimizer["lr"] == 0.5
    assert "betas" not in optimizer


def test_assistants_named_in_a_list_become_models(compose):
    assistants = compose("method=takd", "method.assistants=[mlp_100,mlp_30]")["method"]["assistants"]
    assert [model["name"] for model in assistants] == ["mlp_100", "mlp_30"]
    assert assistants[1] == compose("student=mlp_30")["student"]


def test_a_foreign_class_takes_keys_that_its_file_does_not_list(compose):
    assert compose("+optimizer.foreach=true")["optimizer"]["foreach"] is True
    assert compose("+optimizer.weight_decay=1e-4")["optimizer"]["weight_decay"] == 1e-4


def test_a_whole_number_for_a_real_one_is_the_same_config(compose):
    assert type(compose("method.temperature=4")["method"]["temperature"]) is float


def test_an_interpolation_is_resolved(compose):
    assert compose("threads=${batch_size}", "batch_size=8")["threads"] == 8


def test_a_run_may_be_named_after_its_options_and_keys(compose):
    assert compose("name=${method.name}")["name"] == "kd"
    assert compose("name=${seed}", "seed=3")["name"] == "3"


def test_no_teacher_is_an_option(compose):
    assert compose("method=scratch", "teacher=none")["teacher"] is None


def test_a_config_is_built_of_plain_containers(compose):
    def plain(value):
        if isinstance(value, dict):
            return type(value) is dict and all(plain(item) for item in value.values())
        if isinstance(value, list):
            return type(value) is list and all(map(plain, value))
        return value is None or type(value) in (int, float, str, bool)

    assert plain(compose("method=takd"))


def test_composing_one_run_leaves_no_trace_in_the_next(compose):
    before = compose()
    compose("method={temperature: 9}", "dataset.mean=[0.5]", "+optimizer.foreach=true", "teacher=none")
    assert compose() == before


def own(folder: Path, name: str, text: str) -> Composer:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return Composer(folder)


def test_an_experiment_sets_options_and_keys_and_keeps_its_name(tmp_path):
    text = "# @package _global_\ndefaults:\n  - override /method: scratch\nepochs: 3\nclaims: {top1: 0.9}\n"
    config = own(tmp_path, "experiment/mine", text).compose(["experiment=mine"])
    assert (config["experiment"], config["method"]["name"], config["epochs"]) == ("mine", "scratch", 3)
    assert config["claims"] == {"top1": 0.9}


def test_the_command_line_overrides_the_recipe_of_a_teacher_file(tmp_path):
    text = (
        "defaults:\n  - /model@_here_: cnn\n  - override /optimizer@recipe.optimizer: sgd\n  - _self_\n"
        "recipe: {epochs: 7}\n"
    )
    composer = own(tmp_path, "teacher/mine", text)
    teacher = composer.compose(["teacher=mine"])["teacher"]
    assert (teacher["name"], teacher["recipe"]["epochs"], teacher["recipe"]["batch_size"]) == ("mine", 7, 64)
    assert teacher["recipe"]["optimizer"]["name"] == "sgd"
    assert composer.compose(["teacher=mine", "teacher.recipe.epochs=2"])["teacher"]["recipe"]["epochs"] == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# @package _global_\nepoch: 3\n", "epoch: unknown key; did you mean 'epochs'?"),
        ("# @package _global_\nepochs: many\n", "epochs: 'many' is not a whole number"),
        ("# @package _global_\ntrust: [mine]\n", "trust: is taken from the command line only, not from a file"),
    ],
)
def test_a_fault_in_a_file_is_refused_like_a_faulty_override(tmp_path, text, fault):
    with pytest.raises(ConfigError) as refused:
        own(tmp_path, "experiment/mine", text).compose(["experiment=mine"])
    assert str(refused.value) == fault


def test_a_file_that_is_no_yaml_is_named_with_the_line(tmp_path):
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: cannot be read as YAML"):
        own(tmp_path, "experiment/mine", "a: 1\n\tb: 2\n").compose(["experiment=mine"])


def test_a_folder_of_files_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^--config-dir: no folder"):
        Composer(tmp_path / "nowhere")


def test_a_local_conf_is_read_and_replaces_no_shipped_file(tmp_path, monkeypatch):
    for name in ("mine", "adam"):
        own(tmp_path / "conf", f"optimizer/{name}", "_target_: torch.optim.SGD\nlr: 7.0\n")
    monkeypatch.chdir(tmp_path)
    composer = Composer()
    assert composer.compose(["optimizer=mine"])["optimizer"]["lr"] == 7.0
    assert composer.compose(["optimizer=adam"])["optimizer"]["_target_"] == "torch.optim.Adam"


def typos(word: str) -> list[str]:
    """Every single slip in a word: a letter left out, doubled, swapped with the next, or taken for x."""
    slips = {word[:i] + word[i + 1 :] for i in range(len(word))}
    slips |= {word[: i + 1] + word[i:] for i in range(len(word))}
    slips |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    slips |= {word[:i] + "x" + word[i + 1 :] for i in range(len(word))}
    return sorted(slips - {word, ""})


def test_a_typo_in_a_key_is_refused_and_mostly_corrected():
    composer = Composer()
    base = composer.merge([])[0]
    keys = [key for key in dotted(base) if key.partition(".")[0] not in ("dataset", "student", "teacher")]
    keys += [f"teacher.{key}" for key in ("seed", "checkpoint", "recipe", "recipe.epochs", "recipe.optimizer.lr")]
    understood = count = 0
    for key in keys:
        parent, dot, last = key.rpartition(".")
        for typo in typos(last):
            if f"{parent}{dot}{typo}" in keys:
                continue
            with pytest.raises(ConfigError) as refused:
                composer.compose([f"{parent}{dot}{typo}=1"])
            count += 1
            understood += str(refused.value).endswith(f"did you mean {key!r}?")
    assert count > 500
    assert understood >= 0.95 * count


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_begins_with_what_it_is_and_how_to_run_it(path):
    lines = path.read_text("utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#") and "@package" not in line]
    assert len(comments[0]) > 10
    assert any(line.startswith("#   kdrun ") for line in comments)


@pytest.mark.parametrize("group", ["dataset", "method", "optimizer", "schedule", "experiment"])
def test_every_option_of_every_group_composes(compose, group):
    for name in Composer().options.names(group):
        config = compose(f"{group}={name}")
        assert name == (config[group] if group == "experiment" else config[group]["name"])


def test_every_model_composes_as_teacher_and_as_student(compose):
    for path in sorted((CONF / "model").glob("*.yaml")):
        config = compose(f"teacher={path.stem}", f"student={path.stem}")
        assert config["teacher"]["name"] == config["student"]["name"] == path.stem
        assert config["student"].items() <= config["teacher"].items()


def test_the_files_default_keys_are_those_of_the_root():
    from dataclasses import fields

    from kdrun.config.root import Root

    keys = set(OmegaConf.load(CONF / "train.yaml")) - {"defaults", "hydra"}
    assert keys | set(GROUPS) - {"recipe"} == {field.name for field in fields(Root)}


def test_composing_and_its_errors_do_not_wait_for_torch():
    code = (
        "import sys\nfrom kdrun.config.compose import compose\nfrom kdrun.errors import ConfigError\n"
        "compose(['method=takd'])\n"
        "try: compose(['epochs=0'])\nexcept ConfigError: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=CONF.parent).returncode == 0


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("teacher.recipe.optimizr.lr", "teacher.recipe.optimizer.lr"),
        ("teacher.recip.optimizer.lr", "teacher.recipe.optimizer.lr"),
        ("teachr.recipe.epochs", "teacher.recipe.epochs"),
        ("methd.temperature", "method.temperature"),
        ("optimzer.lr", "optimizer.lr"),
        ("datset.batch", None),
        ("teacher.recipe.schedul", "teacher.recipe.schedule"),
    ],
)
def test_a_slip_in_a_group_leads_to_its_own_place(compose, slip, meant):
    with pytest.raises(ConfigError) as refused:
        compose(f"{slip}=1")
    assert (f"did you mean {meant!r}?" in str(refused.value)) == (meant is not None)


def test_the_name_of_an_option_is_no_key(compose):
    with pytest.raises(ConfigError) as refused:
        compose("method.name=fitnets")
    what = "is no key: it is the name of the option that was chosen, set with method=NAME"
    assert str(refused.value) == f"method.name: {what}"
    with pytest.raises(ConfigError) as refused:
        compose("teacher.nmae=cnn")
    assert "did you mean 'teacher.name'? it is the name of the option" in str(refused.value)


COMPOSITIONS = [
    [],
    ["method=takd", "dataset=cifar10", "student=resnet20", "teacher=wrn_40_2"],
    ["optimizer=sgd", "schedule=steps", "teacher.recipe.optimizer=sgd", "method=gskd"],
    ["experiment=ae_exp1_cityscapes"],
]


@pytest.mark.parametrize("words", COMPOSITIONS)
def test_a_slip_anywhere_in_a_printed_key_is_corrected(words):
    composer = Composer()
    keys = dotted(composer.merge(words)[0])
    draw = random.Random(len(words))
    right = count = 0
    for key in keys:
        last = key.rpartition(".")[2]
        parts, place = key.split("."), draw.randrange(key.count(".") + 1)
        slips = typos(parts[place])
        for slip in draw.sample(slips, min(2, len(slips))):
            wrong = ".".join([*parts[:place], slip, *parts[place + 1 :]])
            if wrong in keys or last.isdigit():
                continue
            with pytest.raises(ConfigError) as refused:
                composer.compose([*words, f"{wrong}=1"])
            count += 1
            right += f"did you mean {key!r}?" in str(refused.value)
    assert count > 50
    assert right >= 0.95 * count


def test_a_printed_config_says_which_names_are_no_keys(capsys):
    from kdrun.cli import main

    assert main(["train", "--cfg", "job", "method=takd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line for line in lines if line.strip().startswith("name:")]
    assert len(names) > 6
    assert [line for line in names if not line.endswith("  # the option that was chosen, not a key")] == ["name: null"]

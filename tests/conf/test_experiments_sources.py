"""What reports, papers and the code of their authors fix, whatever else an experiment chooses."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import COMPOSER, setting

from kdrun.config.build import Builder
from kdrun.config.nodes import architecture
from kdrun.config.sweep import jobs

Settings = dict[str, Any]

RESNETS = ("resnet3", "resnet4", "resnet5", "resnet6")
DATASETS = ("mnist", "cifar10", "cifar100")
ADAM = {"optimizer.name": "adam", "optimizer.lr": 1e-3, "schedule.name": "constant"}


def pair(teacher: str, student: str, **more: Any) -> Settings:
    """Nets, and keys with two underscores for each dot."""
    keys = {key.replace("__", "."): value for key, value in more.items()}
    return {"teacher.name": teacher, "student.name": student, **keys}


def both(**recipe: Any) -> Settings:
    """A recipe of the teacher as of the student."""
    keys = {key.replace("__", "."): value for key, value in recipe.items()}
    return {**keys, **{f"teacher.recipe.{key}": value for key, value in keys.items()}}


MIRZADEH = both(optimizer__name="sgd", optimizer__lr=0.1, optimizer__momentum=0.9, optimizer__weight_decay=1e-4)
MIRZADEH |= both(batch_size=128, schedule__milestones=[0.5, 0.75], schedule__factor=0.1)
SLIP = both(optimizer__lr=0.01, optimizer__momentum=0.9, optimizer__weight_decay=1e-4, batch_size=128)
SLIP |= both(schedule__milestones=[0.75], schedule__factor=0.1)
YUAN = {"optimizer.lr": 0.1, "optimizer.momentum": 0.9, "optimizer.weight_decay": 5e-4, "batch_size": 128}
YUAN |= {"epochs": 200, "schedule.milestones": [0.3, 0.6, 0.8], "schedule.factor": 0.2, "schedule.warmup": 1 / 200}
AUTO_ENCODERS = {
    "optimizer.name": "rmsprop",
    "optimizer.lr": 1e-4,
    "batch_size": 100,
    "epochs": 500,
    "student.width": 64,
}
AUTO_ENCODERS |= {"method.distance": "epe", "dataset.size": 64, "schedule.name": "constant"}
TUTORIAL = pair("deep_cnn", "light_cnn", epochs=10, batch_size=128, seed=42, dataset__mean=[0.485, 0.456, 0.406])
GROWING = {
    "method.students": ["resnet8", "resnet14", "resnet20"],
    "teacher.name": "resnet26",
    "student.name": "resnet26",
}

GAMES: dict[str, Settings] = {
    f"{method}_{dataset}": pair(*nets, **{"batch_size": 128, "epochs": 20}, **ADAM)
    for method in ("kd", "adv_basic", "gan", "wgan")
    for dataset, nets in (
        ("mnist", ("mlp_1200", "mlp_800")),
        ("notmnist", ("mlp_1200", "mlp_800")),
        ("svhn", ("deep_cnn", "light_cnn")),
    )
}

REPORT_5: dict[str, Settings] = {
    f"{method}_{dataset}": {**pair("resnet26", "resnet8"), **MIRZADEH, **more}
    for method, more in (
        ("blkd", {"method.ce_weight": 0.9, "method.kd_weight": 0.1, "method.temperature": 3.0}),
        ("takd", {"method.assistants": ["resnet14"], "method.base.name": "blkd"}),
        (
            "wskd",
            {"method.rule": "shift", "method.margin": 0.05, "method.ce_weight": 0.5, "method.kd_weight": 0.5},
        ),
        ("gskd", {**GROWING, "method.previous_weight": 0.05, "method.temperature": 3.0}),
        ("rekd", {**pair("resnet8", "resnet26"), "method.temperature": 20.0, "method.kd_weight": 0.6}),
    )
    for dataset in DATASETS
}
for name, settings in REPORT_5.items():
    settings |= both(epochs=12 if name.endswith("_mnist") else 80)

FIXED: dict[str, Settings] = {
    **GAMES,
    **REPORT_5,
    "kd_mnist": {**GAMES["kd_mnist"], "method.name": "kd_sum", "method.temperature": 4.0, "method.kd_weight": 4.0},
    "adv_basic_mnist": {
        **GAMES["adv_basic_mnist"],
        **{"method.form": "non_saturating", "method.init_from_s0": False, "method.discriminator_epochs": 5},
    },
    "gan_mnist": {
        **GAMES["gan_mnist"],
        "method.gan_weight": 0.1,
        "method.discriminator_lr": 1e-3,
        "method.discriminator_steps": 1,
    },
    "wgan_mnist": {**GAMES["wgan_mnist"], "method.lipschitz": "clip", "method.clip": 0.05, "method.critic_steps": 1},
    "wgan_gp_mnist": pair("mlp_1200", "mlp_800", method__lipschitz="gp", method__penalty=10.0, method__critic_steps=1),
    "fitnets_mnist": {
        **pair("maxout3", "maxout6", batch_size=128, optimizer__name="rmsprop_fitnets", optimizer__lr=5e-4),
        **{"method.hint": 1, "method.guided": 3, "method.regressor": "maxout", "method.temperature": 3.0},
        **{"method.kd_weight": 4.0, "method.kd_weight_end": 0.0, "method.decay_start": 5, "optimizer.alpha": 0.9},
        **{"teacher.dropout": 0.5, "teacher.input_dropout": 0.2},
    },
    **{
        f"{student}_kd_cifar10": {
            **pair("resnet10", student, dataset__val_fraction=0.2, seed=42, epochs=30, batch_size=128, **ADAM),
            **{"method.ce_weight": 0.75, "method.kd_weight": 0.25, "method.temperature": 2.0, "dataset.crop": 0},
        }
        for student in RESNETS
    },
    "hard_cifar10": {"method.name": "scratch", "student.name": "light_cnn"},
    "hard_teacher_cifar10": pair("deep_cnn", "light_cnn", method__name="kd_hard"),
    "soft_cifar10": {
        **pair("deep_cnn", "light_cnn"),
        **{"method.ce_weight": 0.1, "method.kd_weight": 0.9, "method.temperature": 4.0},
    },
    "selfdistill_cifar10": {
        **{"method.ce_weight": 0.8, "method.kd_weight": 0.2, "method.temperature": 3.0, "method.feature_weight": 0.5},
        **{"method.detach_deepest": True, "optimizer.name": "adamax", "optimizer.lr": 7e-4, "batch_size": 100},
        **{"student.name": "selfdistill4", "student.width": 64, "epochs": 50},
        **{"dataset.crop": 4, "dataset.flip": True},  # as in the paper; not in the report's code, see its header
    },
    "byot_resnet18_cifar100": {
        **{"method.ce_weight": 0.9, "method.kd_weight": 0.1, "method.temperature": 3.0, "method.feature_weight": 1e-6},
        **{"method.feature_reduction": "sum", "optimizer.lr": 0.1, "optimizer.weight_decay": 5e-4, "epochs": 200},
        **{"schedule.milestones": [0.375, 0.65, 0.9], "batch_size": 128, "dataset.crop": 4, "dataset.flip": True},
    },
    "ae_exp0_cityscapes": {**AUTO_ENCODERS, "method.link_weight": 0.0},
    "ae_exp1_cityscapes": {
        **AUTO_ENCODERS,
        **{"method.pairs": [[0, 8]], "method.bridge": "maxpool", "method.link_weight": 0.2, "method.image_weight": 0.8},
    },
    "ae_exp2_cityscapes": {**AUTO_ENCODERS, "method.pairs": [[0, 8], [1, 7]], "method.bridge": "maxpool"},
    "ae_exp2_only23_cityscapes": {**AUTO_ENCODERS, "method.pairs": [[1, 7]], "method.bridge": "maxpool"},
    "ae_exp3_cityscapes": {**AUTO_ENCODERS, "method.pairs": [[0, 8]], "method.bridge": "conv"},
    "ae_exp1_asrun": {**AUTO_ENCODERS, "dataset.mean": [0.1307] * 3, "dataset.std": [0.3081] * 3},
    "temperature_mnist": {
        **{"student.name": "mnist_cnn", "optimizer.name": "adadelta", "optimizer.lr": 1.0, "batch_size": 64},
        **{"epochs": 14, "schedule.factor": 0.7, "method.temperatures": [1, 5, 10, 15, 20, 40, 60]},
        **{"method.sample_label": 8},
    },
    "fmnist_kd_t10": pair("mnist_cnn", "mlp_32", method__temperature=10.0, dataset__name="fashionmnist"),
    "fmnist_kd_t10_asrun": pair("mnist_cnn", "mlp_32", method__name="kd_softened_hard", method__temperature=10.0),
    "lenet_cifar10": {"student.name": "lenet5", "epochs": 30, "dataset.crop": 0, **ADAM},
    "lenet_kd_cifar10": pair("lenet5", "lenet5_half", epochs=30, dataset__crop=0, **ADAM),
    **{
        f"zskd_{dataset}": {
            **pair("lenet5", "lenet5_half", dataset__name=name, dataset__pad_to=32),
            **{"method.temperature": 20.0, "method.count": 4000, "method.impression_epochs": 300, "method.lr": 0.1},
            **{"method.constraint": "clamp", "method.scales": [1.0, 0.1], "method.within": "row"},
            **{"method.noise": "uniform", "optimizer.name": optimizer, "optimizer.lr": 1e-3, "epochs": 100},
            **{"teacher.recipe.optimizer.name": "adam"},
        }
        for dataset, name, optimizer in (("mnist", "mnist", "sgd"), ("fmnist", "fashionmnist", "adam"))
    },
    "zskd_mnist_asrun": {
        **pair("lenet5", "lenet5_half", epochs=20, batch_size=256, optimizer__lr=0.01, optimizer__weight_decay=1e-4),
        **{"method.student_loss": "bce", "method.within": "column", "method.constraint": "none", "method.lr": 0.01},
        **{"method.count": 12000, "method.impression_epochs": 1500, "method.noise": "normal"},
    },
    **{
        f"dekd_{dataset}": {
            **pair("resnet26", "resnet8", method__kd_weight=0.95, method__temperature=20.0),
            **{"teacher.recipe.epochs": 1, "schedule.milestones": [0.5, 0.75]},
        }
        for dataset in DATASETS
    },
    "takd_asrun_cifar10": {
        **pair("resnet26", "resnet8", epochs=160, dataset__crop=0, dataset__flip=False),
        **SLIP,
        **{"method.base.reduction": "mean", "dataset.mean": [0.507, 0.487, 0.441], "method.assistants": ["resnet14"]},
        **{"method.base.temperature": 5.0, "method.base.ce_weight": 0.5, "method.base.kd_weight": 0.5},
    },
    "gskd_asrun_cifar10": {
        **GROWING,
        **SLIP,
        **{"epochs": 80, "seed": 20, "dataset.crop": 4, "dataset.flip": True, "method.previous_weight": 0.05},
        **{"method.reduction": "mean", "method.base.reduction": "mean", "method.temperature": 3.0},
        **{"method.base.kd_weight": 0.1, "method.base.ce_weight": 0.9, "method.base.temperature": 3.0},
    },
    "gskd_newteacher_cifar10": {**GROWING, "method.new_teacher.name": "resnet26"},
    "tfkd_self_cifar100": {
        **both(**{key.replace(".", "__"): value for key, value in YUAN.items()}),
        **{"method.kd_weight": 0.95, "method.temperature": 6.0, "student.net": "resnet18", "teacher.net": "resnet18"},
    },
    "tfkd_reg_cifar100": {
        **{**YUAN, "method.confidence": 0.99, "method.temperature": 20.0, "student.net": "resnet18"},
        **{"method.ce_weight": 0.9, "method.kd_weight": 0.1},
    },
    "tutorial_kd_cifar10": {**TUTORIAL, **ADAM, "method.ce_weight": 0.75, "method.temperature": 2.0},
    "tutorial_cosine_cifar10": {**TUTORIAL, **ADAM, "method.ce_weight": 0.75, "method.cosine_weight": 0.25},
    "tutorial_hint_cifar10": {**TUTORIAL, **ADAM, "method.ce_weight": 0.75, "method.hint_weight": 0.25},
    **{
        f"compare_{dataset}": {**pair("resnet26", "resnet14"), **MIRZADEH, "method.kd_weight": 0.1}
        for dataset in DATASETS
    },
    "lowdata_kd_mnist": {
        **pair("mlp_400", "mlp_100", dataset__train_size=2000, epochs=60, batch_size=64, method__temperature=20.0),
        **{"teacher.recipe.epochs": 5, "teacher.recipe.batch_size": 128, "method.kd_weight": 0.9},
    },
}


@pytest.mark.parametrize(("name", "fixed"), FIXED.items(), ids=FIXED.keys())
def test_an_experiment_has_the_settings_of_its_source(name: str, fixed: Settings) -> None:
    config = COMPOSER.compose(next(iter(jobs(COMPOSER, [f"experiment={name}"]))))
    assert {key: named(setting(config, key)) for key in fixed} == fixed


def named(value: Any) -> Any:
    """Models in a list by their names."""
    return [one["name"] if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_teacher_of_reversed_distillation_is_the_smaller_net(dataset: str) -> None:
    config = COMPOSER.compose([f"experiment=rekd_{dataset}"])
    nets = [Builder().build(architecture(config[role]), 3, 10, 32, where=role) for role in ("teacher", "student")]
    teacher, student = (sum(weight.numel() for weight in net.parameters()) for net in nets)
    assert teacher < student

"""The library without the command line: ``import kdrun``, own modules, own tensors."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import torch.nn.functional as F
from tiny import copied, same
from torch import Tensor, nn

import kdrun
from kdrun import KD, FitNets, Method, Renormalized, Scratch, Tapped, Tensors, distill
from kdrun.data.synthetic import Synthetic, SyntheticPairs
from kdrun.errors import ConfigError, InputError, Interrupted, KdrunError
from kdrun.models import loading
from kdrun.store.files import read_json
from kdrun.train.schedules import Cosine
from kdrun.train.stage import Batch, Outputs, Terms

DATA = Synthetic(train_count=100, test_count=40)
TINY: dict[str, Any] = {"epochs": 1, "batch_size": 32, "device": "cpu", "progress": False}


def net(width: int = 8, classes: int = 10, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.ReLU(), nn.Linear(width, classes))


def pictures(count: int = 60, classes: int = 3, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % classes


def test_importing_kdrun_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, kdrun; sys.exit(bool({'torch', 'hydra', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_name_of_the_library_is_there_and_no_other() -> None:
    assert {name for names in kdrun.HOMES.values() for name in names} == set(kdrun.__all__)
    assert all(callable(getattr(kdrun, name)) for name in kdrun.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'destill'"):
        _ = kdrun.destill


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: KD(temperature=-1), "temperature: -1 is out of range [0.01, 1000]"),
        (lambda: KD(0.1, -5), "kd_weight: -5 is out of range [0, inf)"),
        (
            lambda: KD(temperature="4"),  # type: ignore[arg-type]
            "temperature: '4' is not a number",
        ),
        (
            lambda: KD(form="backward"),  # type: ignore[arg-type]
            "form: 'backward' is not one of forward, reverse, cross_entropy",
        ),
        (lambda: FitNets(hint=-1), "hint: "),
    ],
)
def test_a_method_in_python_takes_exactly_what_a_config_takes(make: Callable[[], Method], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(line)


def test_a_users_method_is_checked_by_its_own_annotations() -> None:
    class Mine(Method):
        def __init__(self, weight: Annotated[float, "[0, 1]"], *rest: int, **more: int) -> None:
            super().__init__()
            self.weight, self.rest, self.more = weight, rest, more

    mine = Mine(0.5, 1, 2, other=3)
    assert (mine.weight, mine.rest, mine.more) == (0.5, (1, 2), {"other": 3})
    assert list(inspect.signature(Mine).parameters) == ["weight", "rest", "more"]
    with pytest.raises(ConfigError, match=r"^weight: 2 is out of range \[0, 1\]$"):
        Mine(2)


def test_the_student_trains_in_place_and_the_teacher_stays() -> None:
    student, teacher = net(), nn.Sequential(net(16), nn.BatchNorm1d(10))
    before, weights = copied(student), copied(teacher)
    done = distill(student, teacher, KD(), DATA, **TINY)
    assert done.student is student
    assert not same(before, copied(student))
    assert same(weights, copied(teacher))
    assert set(done.summary["models"]) == {"teacher", "student"}
    assert done.test == done.summary["models"]["student"]["test"]


def test_one_step_is_that_of_torch_by_hand() -> None:
    student, whole = net(classes=3), Tensors(*pictures(), val_fraction=0.2, test_fraction=0.2)
    expected = deepcopy(student)
    distill(student, None, Scratch(), whole, **{**TINY, "batch_size": 38}, optimizer=partial(torch.optim.SGD, lr=0.1))
    train, _ = whole.read()
    held = torch.randperm(48, generator=torch.Generator().manual_seed(derived(0, "validation")))[:10]
    kept = [place for place in range(48) if place not in held]
    images = (train.images[kept] / 255 - whole.mean[0]) / whole.std[0]
    loss = F.cross_entropy(expected(images), train.targets[kept])
    loss.backward()  # type: ignore[no-untyped-call]
    for weight, other in zip(expected.parameters(), student.parameters(), strict=True):
        assert weight.grad is not None
        assert torch.allclose(other, weight - 0.1 * weight.grad, atol=1e-6)


def derived(seed: int, *words: str) -> int:
    from kdrun.train.runtime import derive

    return derive(seed, *words)


def test_the_scores_are_the_trained_students_on_the_test_split() -> None:
    student, test = net(classes=3), pictures(30)
    data = Tensors(*pictures(), test=test, mean=[0.5], std=[0.25])
    done = distill(student, None, Scratch(), data, **TINY)
    logits = student((test[0] / 255 - 0.5) / 0.25)
    assert done.test["top1"] == pytest.approx((logits.argmax(1) == test[1]).float().mean().item())
    assert not student.training


def test_the_global_generator_and_threads_stay_what_they_were() -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    distill(net(), None, Scratch(), DATA, **TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    weights = []
    for seed in (0, 0, 1):
        student = net()
        distill(student, None, Scratch(), DATA, seed=seed, **TINY)
        weights.append(copied(student))
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_a_method_gets_the_features_of_what_is_tapped() -> None:
    class Halves(Method):
        reads = frozenset({"logits", "features"})

        def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
            assert [feature.shape[1] for feature in student.features + teacher.features] == [8, 8, 16]
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

    distill(Tapped(net(), ["1", "2"]), Tapped(net(16), ["2"]), Halves(), DATA, **TINY)


def test_a_teacher_may_see_images_as_it_was_trained_to() -> None:
    seen: list[Tensor] = []

    class Ear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images

    teacher = Renormalized(Tapped(nn.Sequential(Ear(), net(16))), (DATA.mean, DATA.std), ([0.0], [1.0]))
    distill(net(), teacher, KD(), DATA, **TINY)
    assert all(images.min() >= 0 and images.max() <= 1.00001 for images in seen)


def test_stages_and_schedule_are_those_of_any_run() -> None:
    student, teacher = Tapped(net(), ["2"]), Tapped(net(16), ["2"])
    done = distill(student, teacher, FitNets(hint_epochs=1), DATA, **{**TINY, "epochs": 2}, schedule=Cosine())
    assert [(row["stage"], row["epoch"]) for row in done.rows] == [("hint", 1), ("distill", 1), ("distill", 2)]
    assert done.rows[-1]["lr/0"] < done.rows[-2]["lr/0"] < 1e-3


def test_a_folder_holds_the_record_of_a_run(tmp_path: Path) -> None:
    done = distill(net(), net(16), KD(), DATA, folder=tmp_path / "mine", **TINY)
    files = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "summary.json", "student.safetensors", "figures"} <= files
    assert read_json(tmp_path / "mine/summary.json") == done.summary
    assert "temperature: 4.0" in (tmp_path / "mine/config.yaml").read_text()


def test_the_same_call_goes_on_with_more_epochs_to_the_same_bits(tmp_path: Path) -> None:
    whole, part = net(), net()
    distill(whole, net(16), KD(), DATA, **{**TINY, "epochs": 3})
    for epochs in (1, 3):
        part = net()
        done = distill(part, net(16), KD(), DATA, folder=tmp_path, **{**TINY, "epochs": epochs})
    assert [row["epoch"] for row in done.rows] == [1, 2, 3]
    assert same(copied(whole), copied(part))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method": KD(temperature=2.0)}, "method.temperature was 4.0, now 2.0"),
        ({"method": Scratch()}, "method.name was 'KD', now 'Scratch'"),
        ({"student": net(9)}, "model.digest was "),
        ({"teacher": net(16, seed=1)}, "another teacher"),
        ({"seed": 1}, "another seed"),
        ({"data": Synthetic(train_count=100, test_count=40, seed=1)}, "another data"),
        ({"batch_size": 16}, "recipe.batch_size was 32, now 16"),
        ({"optimizer": partial(torch.optim.Adam, lr=0.1)}, "recipe.optimizer was "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_of_another_training_is_refused(finished: Path, changes: dict[str, Any], what: str) -> None:
    pieces = {"student": net(), "teacher": net(16), "method": KD(), "data": DATA, **TINY, **changes}
    with pytest.raises(InputError) as caught:
        distill(**pieces, folder=finished)
    assert f"holds another training ({what}" in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    distill(net(), net(16), KD(), DATA, folder=folder, **TINY)
    return folder


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"teacher": None}, "teacher: KD needs one"),
        ({"student": net(classes=9)}, "student: gives (2, 9) for 2 images of 10 classes"),
        ({"teacher": net(classes=9)}, "teacher: gives (2, 9) for 2 images of 10 classes"),
        ({"student": net().requires_grad_(False)}, "student: 1.weight is frozen; call requires_grad_(True) on a"),
        ({"student": nn.Linear(3, 10)}, "student: does not take images (2, 1, 12, 12): "),
        ({"data": SyntheticPairs()}, "method: KD is for classification, the data are for translation"),
        ({"method": FitNets()}, "student.taps: the method needs a tap in the student"),
        ({"method": KD}, "method: <class 'kdrun.methods.kd.KD'> is no method; use one such as KD()"),
        ({"epochs": 0}, "epochs: 0 is out of range [1, 100000]"),
        ({"precision": "auto"}, "precision: 'auto' is not one of fp32, bf16"),
        ({"batch_size": 91}, "batch_size: 91 exceeds the 90 training images"),
        ({"device": "gpu"}, "device: 'gpu' is not cpu, cuda, cuda:N or auto"),
        ({"data": pictures(classes=1)}, "dataset.classes: 1 is out of range [2, inf)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pieces_that_do_not_fit_are_refused_before_training(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    student = changes.get("student", net())
    before = copied(student)
    pieces = {"student": student, "teacher": net(16), "method": KD(), "data": DATA, **TINY, **changes}
    with pytest.raises(ConfigError) as caught:
        distill(**pieces, folder=tmp_path / "mine")
    assert str(caught.value).startswith(line)
    assert same(before, copied(student))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("images", "labels", "what"),
    [
        (torch.rand(6, 1, 4, 4), torch.arange(6), "images are float32, not uint8; convert pixels in [0, 1] with"),
        (pictures()[0][0], torch.arange(1), "images are (1, 12, 12), not (N, C, H, H)"),
        (pictures()[0][:, :, 1:], torch.arange(60), "images are (60, 1, 11, 12), not (N, C, H, H)"),
        (pictures()[0], torch.arange(59), "labels are (59,) int64, not (60,) class ids"),
        (pictures()[0], torch.zeros(60), "labels are (60,) float32, not (60,) class ids"),
        (pictures()[0], torch.arange(60) - 1, "label -1 at row 0"),
    ],
)
def test_tensors_that_are_no_images_and_labels_are_refused(images: Tensor, labels: Tensor, what: str) -> None:
    with pytest.raises(InputError) as caught:
        Tensors(images, labels).read()
    assert str(caught.value).startswith(f"data: {what}")


def test_tensors_are_normalized_by_their_own_mean_and_deviation() -> None:
    images, labels = pictures(size=9)
    source = Tensors(torch.cat([images, images // 3], 1), labels)
    pixels = torch.cat([images, images // 3], 1).double() / 255
    assert source.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert source.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    assert (source.channels, source.size, source.classes) == (2, 9, 3)


def test_a_stopped_call_repeated_ends_in_the_same_bits(tmp_path: Path) -> None:
    class Stopped(Scratch):
        def loss(self, student: Outputs, batch: Batch) -> Terms:
            if batch.epoch == 2 and not (tmp_path / "told").exists():
                (tmp_path / "told").touch()
                signal.raise_signal(signal.SIGINT)
            return super().loss(student, batch)

    (tmp_path / "told").touch()
    whole, part = net(), net()
    distill(whole, None, Stopped(), DATA, **{**TINY, "epochs": 2})
    (tmp_path / "told").unlink()
    with pytest.raises(Interrupted, match="stage distill, epoch 2: interrupted"):
        distill(part, None, Stopped(), DATA, folder=tmp_path / "mine", **{**TINY, "epochs": 2})
    part = net()
    distill(part, None, Stopped(), DATA, folder=tmp_path / "mine", **{**TINY, "epochs": 2})
    assert same(copied(whole), copied(part))


def test_it_runs_outside_the_main_thread_too() -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(distill(net(), None, Scratch(), DATA, **TINY)))
    thread.start()
    thread.join()
    assert 0 <= done[0].test["top1"] <= 1


def test_a_student_with_tied_weights_is_kept_too(tmp_path: Path) -> None:
    shared = nn.Linear(144, 144)
    student = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(144, 10))
    distill(student, None, Scratch(), DATA, folder=tmp_path, **TINY)
    kept = loading.read(tmp_path / "student.safetensors")
    assert same(kept, copied(student))


def test_all_errors_are_of_one_kind() -> None:
    assert issubclass(ConfigError, KdrunError)
    assert issubclass(InputError, KdrunError)

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdrun.methods.tfkd import VirtualTeacher
from kdrun.train.stage import Batch, Outputs

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def test_the_virtual_teacher_is_softened_as_a_real_one_is() -> None:
    soft = VirtualTeacher(temperature=5.0, confidence=0.8).virtual(LABELS, 100).double().numpy()
    powers = np.full(100, (0.2 / 99) ** (1 / 5))
    powers[4] = 0.8 ** (1 / 5)
    assert soft[1] == pytest.approx(powers / powers.sum(), rel=1e-5)


def test_softened_probabilities_are_nearly_uniform() -> None:
    soft = VirtualTeacher(temperature=20.0, confidence=0.99, softens="probabilities").virtual(LABELS, 100)
    assert soft[0, 0].item() == pytest.approx(0.0105, abs=5e-5)
    assert soft[0, 1].item() == pytest.approx(0.00999, abs=5e-6)


def test_the_loss_is_labels_plus_virtual_teacher_divergence() -> None:
    method = VirtualTeacher(ce_weight=0.8, kd_weight=0.3)
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    terms = method.loss(Outputs(logits, []), Batch(logits, LABELS, LABELS, LABELS, 1))
    log = logits.numpy() - np.log(np.exp(logits.numpy()).sum(1, keepdims=True))
    soft = method.virtual(LABELS, 5).double().numpy()
    assert float(terms["ce"]) == pytest.approx(-0.8 * log[range(6), LABELS.tolist()].mean())
    assert float(terms["virtual"]) == pytest.approx(0.3 * (soft * (np.log(soft) - log)).sum() / 6, rel=1e-5)


def test_it_needs_no_teacher() -> None:
    assert not VirtualTeacher.needs_teacher

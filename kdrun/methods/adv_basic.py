"""Distillation with a frozen discriminator that has learned to distinguish the teacher from a first student."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import TrainingError
from kdrun.methods.arguments import Epochs, Positive, Weight, Width
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Step, Terms, Update
from kdrun.methods.gan import Discriminator, share

Objective = Literal["non_saturating", "minimax", "minimax_clamped"]

RUNAWAY = 100.0
"""Training is stopped when the standard deviation of the student's logits exceeds the teacher's by this factor."""

FLOOR = -5.0
"""The lower bound of log P(student) in the clamped minimax form."""


class AdvBasic(Method):
    """Four phases: a teacher, a first student, a discriminator of their logits, a final student trained against it.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Basic adversarial knowledge
    distillation":
        L_student = ce_weight CE(labels, student) - adversarial_weight H(student, P_D),
    where P_D is the discriminator's softmax over teacher and student. The second term is minus a cross-entropy, so it
    has no lower bound: a student can minimize it by logits far beyond the teacher's, whatever happens to its accuracy.
    ``minimax`` is exactly that form; training is stopped if the logits run away. ``minimax_clamped`` has no further
    gain below log P(student) = -5. ``non_saturating``, the default, has -log P(teacher) instead; it is bounded by 0,
    and its gradient fades as the discriminator takes the student for the teacher. The two-way softmax is written as the
    sigmoid of one number, which is the same. The first student is the student trained alone, from the same initial
    weights as the final one. Sizes, weights and epochs are ours: the source gives none.
    """

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels, their alpha."""
    adversarial_weight: Weight = 0.1
    """Weight of the adversarial term, their beta."""
    form: Objective = "non_saturating"
    """Form of the adversarial term."""
    init_from_s0: bool = False
    """Whether the final student starts from the first student's weights instead of the initial ones."""
    discriminator_width: Width = 128
    """Units in each of the discriminator's two hidden layers."""
    discriminator_lr: Positive = 1e-3
    """Learning rate of the discriminator's Adam; the schedule changes it too."""
    discriminator_epochs: Epochs = 5
    """Epochs of the discriminator's stage."""

    def stages(self, exp: Experiment) -> Stages:
        if self.form == "minimax":
            exp.notice("method.form=minimax has no lower bound: training is stopped where the logits run away")
        self.first = exp.trained(exp.student_node, plan=exp.plan)
        self.discriminator = Discriminator(exp.data.source.classes, self.discriminator_width)
        yield self.discriminator_stage(exp)
        self.discriminator.requires_grad_(False)
        if self.init_from_s0:
            exp.student.load_state_dict(self.first.model.state_dict())
        yield self.final_stage(exp)

    def discriminator_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the discriminator, on the logits of both models for each image."""

        def loss(step: Step) -> Terms:
            real, fake = (self.discriminator(step(model).logits) for model in (exp.teacher, self.first))
            return {"ce": (F.softplus(-real) + F.softplus(fake)).mean() / 2}

        adam = partial(torch.optim.Adam, lr=self.discriminator_lr)
        update = Update(self.discriminator.parameters(), loss, adam, player="discriminator")
        scored = {"evaluate": lambda: {"accuracy": self.accuracy(exp, "val")}, "select": "accuracy"}
        stream = exp.stream("judge", exp.recipe.batch_size)  # another name changes its order, and all results
        players, epochs = {"discriminator": self.discriminator}, self.discriminator_epochs
        return exp.stage("discriminator", [update], players, stream=stream, epochs=epochs, **scored)

    def final_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the student, without the teacher; an error stops it if the logits run away."""
        update = Update(exp.student.parameters(), lambda step: self.terms(step(exp.student), step.batch))
        stage = exp.stage("distill", [update], {"student": exp.student})
        usual, teacher = stage.until, logit_std(exp, exp.teacher.model, "val")

        def until(scores: Scores) -> bool:
            if scores["logit_std"] > RUNAWAY * teacher:
                std = f"std {scores['logit_std']:.3g}, the teacher's {teacher:.3g}"
                what = f"the student's logits run away ({std}); use another form, or less adversarial_weight"
                raise TrainingError(f"method.form={self.form}", what)
            return usual(scores)

        stage.evaluate = lambda: {**exp.scores(exp.student), "logit_std": logit_std(exp, exp.student, "val")}
        stage.until = until
        return stage

    def terms(self, student: Outputs, batch: Batch) -> Terms:
        """Returns the weighted terms of the final student."""
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "adversarial": self.adversarial_weight * self.adversarial(self.discriminator(student.logits)).mean(),
        }

    def adversarial(self, score: Tensor) -> Tensor:
        """Returns the adversarial term (N,) for the discriminator's scores (N,), whose sigmoid is P(teacher)."""
        if self.form == "non_saturating":
            return F.softplus(-score)  # -log P(teacher)
        log_p_student = -F.softplus(score)
        return log_p_student.clamp(min=FLOOR) if self.form == "minimax_clamped" else log_p_student

    def scored(self, exp: Experiment, model: nn.Module, split: str = "test") -> Tensor:
        """Returns the discriminator's score (N,) of the model's logits on every image of a split."""
        with torch.no_grad():
            scores: Tensor = self.discriminator.eval()(exp.predict(model, split)[0])
        return scores

    def accuracy(self, exp: Experiment, split: str) -> float:
        """Returns the discriminator's accuracy on the teacher and on the first student, in [0, 1]."""
        real, fake = (self.scored(exp, model, split) for model in (exp.teacher.model, self.first.model))
        return (share(real > 0) + share(fake <= 0)) / 2

    def metrics(self, exp: Experiment) -> Scores:
        """Returns the discriminator's accuracy, how often it takes a student for the teacher, and the std of logits."""
        return {
            "discriminator_accuracy": self.accuracy(exp, "test"),
            "fooling_rate_first": share(self.scored(exp, self.first.model) > 0),
            "fooling_rate": share(self.scored(exp, exp.student) > 0),
            "logit_std": logit_std(exp, exp.student, "test"),
        }


def logit_std(exp: Experiment, model: nn.Module, split: str) -> float:
    """Returns the standard deviation of all logits of ``model`` on a split."""
    return exp.predict(model, split)[0].std().item()

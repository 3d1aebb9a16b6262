"""Distillation before a judge whose mind is made up: he has learned to tell the teacher from a first student."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import TrainingError
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Terms, Update
from kdrun.methods.gan import Judge, share

Form = Literal["non_saturating", "minimax", "minimax_clamped"]

RUNAWAY = 100.0
"""The spread of the student's logits, in those of the teacher, at which training is stopped."""

FLOOR = -5.0
"""Of log P(student), where the minimax form is clamped."""


class AdvBasic(Method):
    """Four phases: a teacher, a first student, a judge of their logits, a final student before the frozen judge.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Basic adversarial knowledge
    distillation":
        L_student = ce_weight CE(labels, student) - adversarial_weight H(student, P_D),
    where P_D is the judge's softmax over teacher and student. Written as minus a cross-entropy, the second term has
    no lower bound: a student who drives its logits far beyond the teacher's wins it, whatever becomes of its
    accuracy. ``minimax`` is that form to the letter, ended by a guard; ``minimax_clamped`` gives nothing more below
    log P(student) = -5; ``non_saturating``, the default, has -log P(teacher) in its place, bounded by 0, whose
    gradient fades as the student passes for the teacher. The judge's two-way softmax is written as the sigmoid of one
    number, which is the same. The first student is the student trained alone, from the same initial weights as the
    final one. Sizes, weights and epochs are ours: they give none.

    Args:
        ce_weight: their alpha.
        adversarial_weight: their beta.
        form: of the second term.
        init_from_s0: go on with the first student, in place of a fresh one.
        judge_width: units in each of the judge's two hidden layers.
        judge_lr: learning rate of the judge's Adam; the schedule moves it too.
        judge_epochs: of the judge's stage.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 1.0,
        adversarial_weight: Annotated[float, "[0, inf)"] = 0.1,
        form: Form = "non_saturating",
        init_from_s0: bool = False,
        judge_width: Annotated[int, "[1, 100000]"] = 128,
        judge_lr: Annotated[float, "(0, inf)"] = 1e-3,
        judge_epochs: Annotated[int, "[1, 100000]"] = 5,
    ) -> None:
        super().__init__()
        self.ce_weight, self.adversarial_weight, self.init_from_s0 = ce_weight, adversarial_weight, init_from_s0
        self.form: Form = form
        self.judge_width, self.judge_lr, self.judge_epochs = judge_width, judge_lr, judge_epochs

    def stages(self, exp: Experiment) -> Stages:
        if self.form == "minimax":
            exp.notice("method.form=minimax has no lower bound: training is stopped where the logits run away")
        self.first = exp.trained(exp.student_node, plan=exp.plan)
        self.judge = Judge(exp.data.source.classes, self.judge_width)
        yield self.judge_stage(exp, self.first)
        self.judge.requires_grad_(False)
        if self.init_from_s0:
            exp.student.load_state_dict(self.first.model.state_dict())
        yield self.guarded(exp, self.final_stage(exp))

    def judge_stage(self, exp: Experiment, first: Trained) -> Stage:
        """Returns the stage that trains the judge; both sides of every image make its batches balanced."""
        teacher = exp.teacher
        assert teacher is not None

        def given(batch: Batch) -> tuple[Tensor, Tensor]:
            return teacher(batch.images).logits, first(batch.images).logits

        def loss(batch: Batch, sides: tuple[Tensor, Tensor]) -> Terms:
            real, fake = sides
            return {"judge": (F.softplus(-self.judge(real)) + F.softplus(self.judge(fake))).mean() / 2}

        adam = partial(torch.optim.Adam, lr=self.judge_lr)
        changes = {"given": given, "evaluate": lambda: {"judge": self.accuracy(exp, "val")}, "select": "judge"}
        update = Update(self.judge.parameters(), loss, adam)
        return exp.stage(
            "judge", [update], {"method": self}, epochs=self.judge_epochs, until=lambda scores: False, **changes
        )

    def final_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the student before the frozen judge; the teacher is not asked again."""

        def evaluate() -> Scores:
            return {**exp.scores(exp.student), "logit_std": spread(exp, exp.student, "val")}

        def loss(batch: Batch, given: None) -> Terms:
            return self.loss(exp.student(batch.images), None, batch)

        update = Update(exp.student.parameters(), loss)
        return exp.stage("distill", [update], {"student": exp.student}, evaluate=evaluate)

    def guarded(self, exp: Experiment, stage: Stage) -> Stage:
        """Returns ``stage`` ended where the student's logits run away.

        Raises:
            TrainingError: out of the stage's training, if their standard deviation is 100 times the teacher's.
        """
        assert exp.teacher is not None
        usual, teacher = stage.until, spread(exp, exp.teacher.model, "val")

        def until(scores: Scores) -> bool:
            if scores["logit_std"] > RUNAWAY * teacher:
                found = f"std {scores['logit_std']:.3g}, the teacher's {teacher:.3g}"
                what = f"the student's logits run away ({found}); use another form, or less adversarial_weight"
                raise TrainingError(f"method.form={self.form}", what)
            return usual(scores)

        stage.until = until
        return stage

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "adversarial": self.adversarial_weight * self.adversarial(self.judge(student.logits)).mean(),
        }

    def adversarial(self, score: Tensor) -> Tensor:
        """Returns the second term (N,) of the judge's scores (N,), whose sigmoid is P(teacher)."""
        if self.form == "non_saturating":
            return F.softplus(-score)  # -log P(teacher)
        log_p_student = -F.softplus(score)
        return log_p_student.clamp(min=FLOOR) if self.form == "minimax_clamped" else log_p_student

    def accuracy(self, exp: Experiment, split: str) -> float:
        """Returns how often the judge is right about the teacher and about the first student."""
        assert exp.teacher is not None
        real, fake = (judged(self.judge, exp, model, split) for model in (exp.teacher.model, self.first.model))
        return (share(real > 0) + share(fake <= 0)) / 2

    def findings(self, exp: Experiment) -> Scores:
        """Returns the judge's accuracy, and how often the first and the final student pass for the teacher."""
        first, final = (judged(self.judge, exp, model) for model in (self.first.model, exp.student))
        return {
            "judge_accuracy": self.accuracy(exp, "test"),
            "fooling_rate_first": share(first > 0),
            "fooling_rate": share(final > 0),
            "logit_std": spread(exp, exp.student, "test"),
        }


def judged(judge: nn.Module, exp: Experiment, model: nn.Module, split: str = "test") -> Tensor:
    """Returns the judge's score (N,) of the model's logits on every image of a split."""
    with torch.no_grad():
        scores: Tensor = judge.eval()(exp.predict(model, split)[0])
    return scores


def spread(exp: Experiment, model: nn.Module, split: str) -> float:
    """Returns the standard deviation of all logits of ``model`` on a split."""
    return exp.predict(model, split)[0].std().item()

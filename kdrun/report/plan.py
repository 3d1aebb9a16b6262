"""The output of a dry run: models, taps, costs and stages."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kdrun.core.experiment import Experiment
from kdrun.core.rehearsal import StageSummary
from kdrun.report.cost import flops, parameters, short
from kdrun.report.markup import plain
from kdrun.train.taps import Tapped


def show_plan(console: Console, exp: Experiment, models: dict[str, Tapped], stages: list[StageSummary]) -> None:
    """Prints the shapes, taps, parameters and FLOPs of ``models`` by role, and the stages of all trainings."""
    source = exp.data.source
    shape = f"{source.channels}x{source.size}x{source.size}"
    console.print(f"images {shape}, {source.classes} classes, task {source.task}", markup=False)
    table = Table("model", "parameters", "FLOPs", "taps (shape of one image)")
    image = exp.data.val.images[:1].float()
    for role, model in models.items():
        taps = zip(model.taps, exp.shapes(model), strict=True)
        listed = ", ".join(f"{tap} {'x'.join(map(str, size[1:]))}" for tap, size in taps)
        table.add_row(role, short(parameters(model)), short(flops(model, image)), plain(listed))
    console.print(table)
    table = Table("trains", "stage", "epochs", "losses", "moved parameters")
    for stage in stages:
        losses = " | ".join(" + ".join(names) for names in stage.terms)
        names = map(plain, (stage.model, stage.stage, str(stage.epochs), losses))
        table.add_row(*names, " | ".join(map(short, stage.parameters)))
    console.print(table)

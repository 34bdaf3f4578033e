"""The learning rate of every step, against timm's scheduler and by hand."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from allmlp.recipes.schema import ScheduleGroup
from allmlp.tasks.optim import Schedule

STEPS, PEAK = 50, 1e-3  # steps an epoch, and the highest rate


def rates(epochs: int, **settings) -> list[float]:
    schedule = Schedule(ScheduleGroup(**settings), PEAK, STEPS, epochs)
    return [schedule.rate(step) for step in range(schedule.steps)]


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("overlaps", [False, True])
def test_cosine_is_timms(by_epoch, overlaps):
    epochs, cooldown, warmup = 30, 4, 5
    unit = 1 if by_epoch else STEPS
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=(epochs - cooldown - (0 if overlaps else warmup)) * unit,
        lr_min=1e-5,
        warmup_t=warmup * unit,
        warmup_lr_init=1e-6,
        warmup_prefix=not overlaps,
        t_in_epochs=by_epoch,
    )
    mine = rates(
        epochs,
        warmup_epochs=warmup,
        warmup_lr=1e-6,
        warmup_overlaps=overlaps,
        cooldown_epochs=cooldown,
        by_epoch=by_epoch,
        min_lr=1e-5,
    )
    wanted = [theirs._get_lr(step // STEPS if by_epoch else step)[0] for step in range(len(mine))]
    assert mine[: warmup * STEPS] == pytest.approx(wanted[: warmup * STEPS], rel=1e-12)
    # Ours arrives at the least rate with its last step, timm's a step later.
    assert mine == pytest.approx(wanted, abs=PEAK * 2 / len(mine))
    assert mine[-cooldown * STEPS :] == [1e-5] * (cooldown * STEPS)


def test_the_default_warm_up_begins_a_step_above_nothing():
    found = rates(10, warmup_epochs=2)
    assert found[:2] == [PEAK / 101, PEAK * 2 / 101]
    assert (found[100], found[-1]) == (PEAK, 0)


def test_short_runs_shorten_warm_up_and_cooldown():
    found = rates(5, warmup_epochs=20, cooldown_epochs=10, min_lr=1e-5)
    assert found.index(PEAK) == STEPS
    assert found.index(1e-5) == 4 * STEPS - 1

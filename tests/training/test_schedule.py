import pytest
import torch
from transformers import get_scheduler

from tunesmith.training.schedule import Scheduler, learning_rate


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("total_steps", "warmup"), [(40, 0.1), (7, 0.05), (12, 0.0), (1, 0.05)])
def test_the_learning_rate_is_that_of_transformers(scheduler: Scheduler, total_steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if scheduler == "constant" else scheduler
    warmup_steps = -(-total_steps * warmup // 1)
    reference = get_scheduler(name, optimizer, num_warmup_steps=int(warmup_steps), num_training_steps=total_steps)
    for step in range(total_steps):
        ours = learning_rate(step, total_steps=total_steps, peak=3e-4, warmup=warmup, scheduler=scheduler)
        assert ours == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()

"""One optimiser step on a toy, by as many processes as there are: run by test_processes.py.

python two_processes.py TEACHER PHASE ACCUMULATE OUT
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from tinybert_lite import distillation, students, teacher_cache
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.models import loading
from tinybert_lite.training import TrainingConfig

TEXTS = [
    "the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3 4 5 6",
    "good", "the play and the book and the film", "awful plain film",
]  # fmt: skip


def main(folder: str, phase: str, accumulate: str, out: str) -> None:
    accelerator = Accelerator(cpu=True)
    teacher, tokenizer = loading.load_classifier(folder)
    student = students.build_student(teacher.config, students.Preset(3, 24, 48), 0)
    data = tokenize(tokenizer, TEXTS, None, np.arange(len(TEXTS)) % 3)
    settings = TrainingConfig(
        epochs=1, batch_size=len(TEXTS), clip=0.0, accumulate=int(accumulate), save_seconds=1e9
    )
    gradients: dict[str, torch.Tensor] = {}

    def keep(optimizer, *args, **options):
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            gradients[str(i)] = p.grad.clone()

    work = Path(out).parent
    with mock.patch.object(torch.optim.AdamW, "step", keep):
        if phase == "intermediate":
            projection = students.Projection(24, teacher.config.hidden_size, "paper", 0)
            module = distillation.IntermediateLoss(student, projection, [0, 2, 4, 6])
            answers = teacher_cache.TeacherCache(teacher, data, [0, 2, 4, 6])
            history = distillation.distill_intermediate(
                module, answers, data, settings, work, accelerator, progress=False
            )
        else:
            history = distillation.finetune(
                student, data, settings, work, accelerator, progress=False
            )
    losses = [r["losses"] for r in history.records if "losses" in r][-1]
    if accelerator.is_main_process:
        facts = {f"loss.{k}": torch.tensor(v) for k, v in losses.items()}
        save_file(gradients | facts | {"world": torch.tensor(accelerator.num_processes)}, out)
    accelerator.end_training()  # without it a process may abort as it exits


if __name__ == "__main__":
    main(*sys.argv[1:])

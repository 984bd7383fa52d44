"""The checks behind the exercises of the notebooks, each naming the mistake that was made."""

from tinybert_lite.course.exercises.attention_maps import (
    check_attention_loss,
    check_design,
    check_gram_loss,
    check_mask_repair,
)
from tinybert_lite.course.exercises.augmentation import (
    check_candidates,
    check_filter,
    check_pair_rows,
)
from tinybert_lite.course.exercises.checking import Result
from tinybert_lite.course.exercises.general_distillation import (
    check_control,
    check_diagnosis,
    check_training_step,
    real_logs,
)
from tinybert_lite.course.exercises.hidden_states import (
    check_effects,
    check_hidden_loss,
    check_share_reached,
    check_teacher_hidden,
)
from tinybert_lite.course.exercises.ship_it import (
    check_choose,
    check_limits,
    check_quantize,
    check_time_by_operator,
)
from tinybert_lite.course.exercises.soft_labels import (
    check_best_logits,
    check_hard_and_soft,
    check_regression_target,
    check_shuffled,
    check_soft_cross_entropy,
)
from tinybert_lite.course.exercises.start_here import (
    check_disagreement,
    check_only_one_right,
    check_retained,
)
from tinybert_lite.course.exercises.task_distillation import (
    check_checkpoint,
    check_intermediate_loss,
    check_rate,
    check_suspect,
)
from tinybert_lite.course.exercises.the_teacher import (
    check_flops,
    check_head_scores,
    check_repeated_head,
    check_sizes,
)
from tinybert_lite.course.exercises.what_mattered import (
    check_bootstrap,
    check_comparison,
    check_new_row,
    check_ranking,
    check_surplus,
)
from tinybert_lite.course.exercises.what_transferred import (
    check_caption,
    check_errors_alike,
    check_flips,
    check_moved,
)
from tinybert_lite.course.exercises.your_own import (
    check_hours,
    check_leaks,
    check_macro_f1,
    check_paired_error,
)

__all__ = [
    "Result",
    "check_attention_loss",
    "check_best_logits",
    "check_bootstrap",
    "check_candidates",
    "check_caption",
    "check_checkpoint",
    "check_choose",
    "check_comparison",
    "check_design",
    "check_diagnosis",
    "check_disagreement",
    "check_control",
    "check_effects",
    "check_errors_alike",
    "check_filter",
    "check_flips",
    "check_flops",
    "check_gram_loss",
    "check_hard_and_soft",
    "check_head_scores",
    "check_hidden_loss",
    "check_hours",
    "check_intermediate_loss",
    "check_leaks",
    "check_limits",
    "check_macro_f1",
    "check_mask_repair",
    "check_moved",
    "check_new_row",
    "check_pair_rows",
    "check_paired_error",
    "check_only_one_right",
    "check_repeated_head",
    "check_quantize",
    "check_ranking",
    "check_rate",
    "check_regression_target",
    "check_retained",
    "check_share_reached",
    "check_shuffled",
    "check_sizes",
    "check_soft_cross_entropy",
    "check_surplus",
    "check_suspect",
    "check_teacher_hidden",
    "check_time_by_operator",
    "check_training_step",
    "real_logs",
]

"""Which way each metric's figures are better. Records do not say; a test compares this with the metrics themselves.

Why it exists: a report is made without torch, which loading the metrics would need.
"""

from __future__ import annotations

from typing import Literal

HEADLINE_METRIC = "rfd_v1"
# The figures with a direction, as `bench list metrics` gives them: a report does not import the metrics, which need
# torch. A test compares the two.
BETTER: dict[str, Literal["lower", "higher"]] = {
    **dict.fromkeys(
        (
            "rfd_v1",
            "rfd_v1_biased",
            "digit_kl",
            "fd_dinov2_50k",
            "fd_dinov2_biased",
            "fd_dinov2_infinity",
            "fid_50k",
            "fid_biased",
            "fid_infinity",
            "kid_50k",
            "kid_fewer",
            "mode_kl",
            "factor_drift",
        ),
        "lower",
    ),
    **dict.fromkeys(
        (
            "digit_modes_covered",
            "inception_score_50k",
            "inception_score_fewer",
            "validity",
            "modes_covered",
            "pair_consistency",
            "precision_50k",
            "recall_50k",
            "precision_fewer",
            "recall_fewer",
        ),
        "higher",
    ),
}
# Figures of cost, and which way is cheaper. Parameters and MACs are no merit by themselves, but of two generators that
# give the same the smaller is the cheaper one.
BETTER_COST: dict[str, Literal["lower", "higher"]] = {
    "num_params_generator": "lower",
    "num_params_discriminator": "lower",
    "macs_generator": "lower",
    "macs_discriminator": "lower",
    "generate_images_per_s": "higher",
    "generate_latency_ms_p50": "lower",
    "train_images_per_s": "higher",
    "peak_memory_bytes": "lower",
    "generate_peak_memory_bytes": "lower",
    "generate_energy_j_per_image": "lower",
    "train_step_energy_j_per_image": "lower",
}
DIRECTIONS = {**BETTER_COST, **BETTER}

"""Figures are ranked only where their protocols agree, and the report says which field differs where they do not."""

import numpy as np
import pytest
from test_report import figure, make_machine, make_phases, make_record

from bench.compare import comparable_groups, disagreement, leaders, quality_protocol
from bench.datasets._spec import OpenDataset
from bench.metrics import rfd_v1
from bench.phases._scoring import Scoring
from bench.records import DatasetFacts
from bench.report.markdown import report_markdown

HASH = "ab" * 32


def protocol(**changes):
    """As the quality phase stores it; a change is `metric__field=value`."""
    found = {
        "generated": {"precision": "fp32", "quantisation": "round to uint8"},
        "real": {"split": "train", "count": 10000},
        "Random-feature distance": {
            "metric": "rfd_v1",
            "num_images": 5000,
            "resize": "none",
            "reference_sha256": HASH,
            "figures": ["rfd_v1"],
        },
        "Modes of scenes": {
            "metric": "mode_coverage",
            "num_images": 10000,
            "reference_sha256": HASH,
            "figures": ["modes_covered", "mode_kl"],
        },
        "scored": {"weights_sha256": HASH, "sampling_seeds": [1, 2, 3], "num_sampling_seeds": 3},
        "backend": {"num_threads": 2},
        "meters": {},
        "score_duration_s": 3.0,
    }
    titles = {"rfd": "Random-feature distance", "modes": "Modes of scenes"}
    for path, value in changes.items():
        part, field = path.split("__")
        key = titles.get(part, part)
        found[key] = found[key] | {field: value}
    return found


def record(run_id, stored=None, *, value=0.06, half_width=0.003, **facts):
    phases = make_phases()
    quality = phases["quality"]
    quantities = quality.quantities | {"rfd_v1": figure(value, half_width)}
    found = protocol() if stored is None else stored
    phases["quality"] = quality.model_copy(update={"protocol": found, "quantities": quantities})
    return make_record(run_id, phases=phases, **facts)


def data(**changes):
    facts = {"version": "scenes-v1", "preparation": "rendered"} | changes
    return DatasetFacts(title="Scenes", source="procedural", licence="MIT", protocol=facts)


def test_equal_protocols_agree_whatever_was_scored_and_whoever_scored_it():
    other = protocol(
        scored__weights_sha256="cd", scored__num_sampling_seeds=1, backend__num_threads=64, meters__nvml="mW"
    ) | {"score_duration_s": 900.0}
    machine = make_machine(cpu="Another CPU", hostname="elsewhere")
    for metric in ("rfd_v1", "modes_covered", "rfd_v1_real", "rfd_v1_seed_spread"):
        assert disagreement(record("a"), record("b", other, machine=machine, model="sagan", seed=7), metric) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rfd__num_images": 500}, "num_images"),
        ({"rfd__resize": "bilinear"}, "resize"),
        ({"rfd__weights_sha256": "ef"}, "weights_sha256"),
        ({"generated__quantisation": "none"}, "generated.quantisation"),
    ],
)
def test_the_field_that_differs_is_named(change, field):
    found = disagreement(record("a"), record("b", protocol(**change)), "rfd_v1")
    assert len(found) == 1
    assert found[0].endswith(field)


def test_the_data_set_and_its_preparation_are_part_of_the_protocol():
    same = record("a").model_copy(update={"dataset": data()})
    crop = same.model_copy(update={"dataset": data(preparation="crop 178")})
    assert disagreement(same, crop, "rfd_v1") == ["data.preparation"]
    larger = same.model_copy(update={"spec": same.spec.model_copy(update={"resolution": 64})})
    assert disagreement(same, larger, "rfd_v1") == ["data.resolution"]
    prepared = same.model_copy(update={"dataset": data(pixels_sha256="ab", num_corrupt_entries=0)})
    assert disagreement(same, prepared, "rfd_v1") == [], "the same pixels, decoded before"
    holed = same.model_copy(update={"dataset": data(pixels_sha256="ab", num_corrupt_entries=2)})
    assert disagreement(same, holed, "rfd_v1") == ["data.num_corrupt_entries"]


def test_the_place_of_a_folder_is_no_part_of_the_protocol():
    first, second = (record(name, dataset=f"folder:/{name}") for name in "ab")
    assert disagreement(first, second, "rfd_v1") == []


def test_a_metric_whose_protocol_differs_leaves_the_other_comparable():
    first, second = record("a"), record("b", protocol(modes__num_images=500))
    assert disagreement(first, second, "rfd_v1") == []
    assert disagreement(first, second, "modes_covered") == ["metrics.Modes of scenes.num_images"]


def test_the_floor_depends_on_how_many_real_images_were_scored_and_the_figure_does_not():
    first, second = record("a"), record("b", protocol(real__count=5000))
    assert disagreement(first, second, "rfd_v1") == []
    assert disagreement(first, second, "rfd_v1_real") == ["real.count"]


def test_older_records_do_not_say_whose_protocol_is_whose_so_all_must_agree():
    def old(**changes):
        found = protocol(**changes)
        return {key: {k: v for k, v in fact.items() if k != "figures"} if isinstance(fact, dict) else fact
                for key, fact in found.items()}  # fmt: skip

    assert disagreement(record("a", old()), record("b", old()), "rfd_v1") == []
    assert disagreement(record("a", old()), record("b", old(modes__num_images=5)), "rfd_v1") != []
    assert quality_protocol(record("a", old())) == quality_protocol(record("b"))


def test_a_record_without_a_protocol_is_compared_with_nothing():
    phases = make_phases()
    phases["quality"] = phases["quality"].model_copy(update={"protocol": {}, "quantities": {}})
    phases["train"] = phases["train"].model_copy(update={"quantities": {"rfd_v1": figure(0.01)}})
    bare = make_record("bare", phases=phases)
    assert disagreement(record("a"), bare, "rfd_v1") == ["protocol (not recorded in bare)"]
    assert len(comparable_groups([record("a"), bare], "rfd_v1")) == 2
    assert leaders([record("a"), bare], "rfd_v1", "lower") == set()


def test_the_best_is_the_best_of_one_protocol_only():
    few = protocol(rfd__num_images=500)
    records = [record("a", value=0.06), record("b", value=0.09), record("c", few, value=0.001)]
    assert leaders(records, "rfd_v1", "lower") == {"a"}
    assert leaders(records, "rfd_v1", "higher") == {"b"}
    assert leaders(records[::2], "rfd_v1", "lower") == set(), "alone in its protocol there is no best"


def test_figures_whose_intervals_overlap_share_the_first_place():
    records = [record("a", value=0.06), record("b", value=0.064), record("c", value=0.07)]
    assert leaders(records, "rfd_v1", "lower") == {"a", "b"}


def test_an_estimate_ranks_nothing():
    assert leaders([record("a"), make_record("b")], "mode_kl", "lower") == set()
    phases = [make_phases(), make_phases(2.0)]
    assert leaders([make_record(n, phases=p) for n, p in zip("ab", phases, strict=True)], "mode_kl", "lower") == set()


def quality_rows(markdown):
    """The rows of the table of quality, by run."""
    table = markdown.split("## Runs")[1].split("## Energy")[0].split("| run | model | protocol |")[1]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return {row.split("|")[1].strip(): row for row in rows}


def test_the_report_marks_what_cannot_be_compared_and_names_the_field():
    few = protocol(rfd__num_images=500)
    markdown = report_markdown(
        [record("aa", value=0.06), record("bb", value=0.09), record("cc", few, value=0.01)], [], []
    )
    rows = quality_rows(markdown)
    assert "**0.060(3)" in rows["aa"]
    assert "** {a}" in rows["aa"]
    assert "**0.090(3)" not in rows["bb"]
    assert "**0.010(3)" not in rows["cc"], "the smallest number of all, of another protocol"
    assert "{b}" in rows["cc"]
    explanation = markdown.split("Not comparable:")[1].split("\n\n")[1]
    assert "rfd_v1 of aa, bb {a} and of cc {b} differ in" in explanation
    assert "num_images" in explanation
    assert "modes_covered" not in explanation, "its protocol agrees in all three"


def test_one_protocol_needs_no_letters_and_smoke_is_never_the_best():
    markdown = report_markdown([record("aa", value=0.06), record("bb", value=0.09)], [], [])
    assert "Not comparable" not in markdown
    assert "{a}" not in "".join(quality_rows(markdown).values())
    smoke = report_markdown([record("aa", value=0.06, preset="smoke"), record("bb", value=0.09)], [], [])
    assert "**0.060(3)" not in smoke
    assert "**0.090(3)" not in smoke


def test_the_spread_stands_in_its_figure_s_cell():
    found = record("aa")
    quality = found.phases["quality"]
    spread = figure(0.0007, kind="computed")
    quantities = quality.quantities | {"rfd_v1_seed_spread": spread}
    phases = found.phases | {"quality": quality.model_copy(update={"quantities": quantities})}
    markdown = report_markdown([found.model_copy(update={"phases": phases})], [], [])
    assert "spread 0.0007" in quality_rows(markdown)["aa"]
    assert "rfd_v1_seed_spread" not in markdown


def test_what_the_scoring_stores_is_what_the_comparison_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))

    class Few:
        def __len__(self):
            return 20

        def read(self, indices):
            return np.zeros((len(indices), 3, 32, 32), np.uint8)

    dataset = OpenDataset(train=Few(), reference=Few(), protocol={"version": "few"})
    stored = Scoring([rfd_v1.METRIC], dataset).protocol
    assert stored[rfd_v1.METRIC.title]["figures"] == [*rfd_v1.METRIC.figures]
    other = stored | {"another metric": {"num_images": 1, "figures": ["another"]}}
    assert disagreement(record("a", stored), record("b", other), "rfd_v1") == []
    assert disagreement(record("a", stored), record("b", other), "another") != []


def test_speed_is_compared_within_one_machine_and_setting_and_latency_across_batch_sizes():
    phases = make_phases()
    one, other = make_record("a", phases=phases), make_record("b", phases=phases, batch_size=64)
    assert disagreement(one, other, "train_images_per_s") == ["batch_size"]
    assert disagreement(one, other, "generate_latency_ms_p50") == []
    assert disagreement(one, other, "macs_generator") == []
    machine = one.machine.model_copy(update={"torch": "2.99.0"})
    moved = one.model_copy(update={"run_id": "c", "machine": machine})
    assert disagreement(one, moved, "train_images_per_s") == ["machine.torch"]
    assert disagreement(one, moved, "macs_generator") == []
    assert leaders([one, moved], "train_images_per_s", "higher") == set()
    assert leaders([one, one.model_copy(update={"run_id": "d"})], "train_images_per_s", "higher") == {"a", "d"}

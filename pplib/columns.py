"""The columns of `summary.csv`, each once: its words, its unit and what it means; tables, charts and docs say it so."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pplib.config import PARAMETERS, Configuration

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}
"""What a front is about where nothing else is asked for: column -> the better direction."""

PREDICTABLE, ENERGY = ("latency_s", "response_s", "throughput_img_s"), "energy_per_image_j"  # by the pipeline model
PREDICTED = (*PREDICTABLE, ENERGY)  # of cuts that nobody has measured; energy where the powers of devices are known
"""Columns that are predicted of cuts which nobody has measured."""

INDIFFERENCE = Configuration().indifference
"""What difference between two points does not matter, as a share, where a reader says nothing else."""

OF_ALL_TRIALS = {"partition_points", "repeats", "max_repeats", "max_minutes", "indifference", "objectives", "limits"}
OF_ALL_TRIALS |= {"min_agreement", "output_dir", "variant"}
"""Parameters of a configuration that are no column: a row has its own point and repeat, and lies where it lies."""


class Column(NamedTuple):
    """One column, or one per stage or hop where its name has `{i}`.

    Attributes:
        name: in `summary.csv`; its unit is its suffix.
        meaning: how it is made.
        words: how a reader sees it, where that is not its name.
    """

    name: str
    meaning: str
    words: str = ""


# Quantities of a trial are over its measured microbatches, warm-up and cool-down left out, unless they say otherwise.
COLUMNS = (
    *[Column(name, "what was asked for, see params/default.yaml") for name in PARAMETERS if name not in OF_ALL_TRIALS],
    Column("setup", "in words, what differs between trials that were merged and no other column tells"),
    Column("device_names", "the devices, in pipeline order"),
    Column("cpu", "their processors"),
    Column("gpu", "their accelerators"),
    Column("torch", "their versions of PyTorch"),
    Column("congestion_control", "by what TCP of each finds its pace: cubic, bbr, ..."),
    Column("device_torch_devices", "what each computes on"),
    Column("device_threads", "threads inside one operation, on each"),
    Column("device_slowdowns", "how much slower each was made; above 1 the row is `emulated`"),
    Column("git_commit", "the version of this code; `+` where it had been changed"),
    Column("weights_sha256", "the content of the weights"),
    Column("images_sha256", "the content of the images, as the first stage gets them"),
    Column("labels_sha256", "the content of their labels, where they have such"),
    Column("model_sha256", "the content of the model's description"),
    Column("partition_point", "the cut, or the cuts, by number"),
    Column("partition_label", "P and the cut's number"),
    Column("partition_name", "the module after which it cuts"),
    Column("repeat", "which repetition of the point, from 0"),
    Column("order", "which trial of its configuration it was, from 0"),
    Column("status", "ok, or failed: then there are no figures"),
    Column("error", "why it failed"),
    Column("emulated", "whether a device's speed is pretended"),
    Column("started_at", "when, in UTC"),
    Column("duration_s", "the whole trial, building and checking included"),
    Column("link_engine", "what shaped the link: none, tc or userspace"),
    Column("link_tunnel", "what activations went through: none or ssh"),
    Column("link_requested_rtt_s", "round trip that was asked for"),
    Column("link_requested_forward_bit_s", "rate that was asked for, towards the last device"),
    Column("link_requested_backward_bit_s", "rate that was asked for, towards the first device"),
    Column("link_requested_loss", "share of packets lost that was asked for, towards the last device"),
    Column("link_requested_backward_loss", "share of packets lost that was asked for, towards the first device"),
    Column("link_requested_rtt_spread_s", "10th to 90th percentile of round trips that the jitter asked for gives"),
    *[
        Column(f"hop{{i}}_{name}_{when}{unit}", f"{meaning} of the hop {when} the trial, alone")
        for when in ("before", "after")
        for name, unit, meaning in (
            ("rtt", "_s", "median round trip"),
            ("rtt_p99", "_s", "99th percentile of the round trip"),
            ("rtt_spread", "_s", "jitter: from the 10th to the 90th percentile of the round trip"),
            ("forward", "_bit_s", "goodput towards the last device"),
            ("backward", "_bit_s", "goodput towards the first device"),
            ("forward_loss", "", "share of segments lost towards the last device"),
            ("backward_loss", "", "share of segments lost towards the first device"),
            ("forward_segments", "", "segments sent towards the last device, of which that share is,"),
            ("backward_segments", "", "segments sent towards the first device, of which that share is,"),
        )
    ],
    *[
        Column(f"predicted_{name}{end}", f"what was predicted of {name}, before the cut was measured{meaning}")
        for name in PREDICTED
        for end, meaning in (("", ""), ("_low", ": lower end of 95 %"), ("_high", ": upper end of 95 %"))
    ],
    Column("predicted_cuts", "of how many cuts of its configuration that was done"),
    Column("plan_round", "in which round a plan chose the cut; empty where none did"),
    Column("latency_s", "median, from a microbatch's start on the first device until the last stage has its output"),
    Column("latency_mean_s", "mean of the same; the parts add up to it", "mean latency"),
    Column("latency_max_s", "the largest of the same", "latency, largest of a trial"),
    Column("latency_p90_s", "90th percentile of the same; empty below 64 microbatches", "latency, 90th percentile"),
    Column("latency_p99_s", "99th percentile of the same; empty below 662 microbatches", "latency, 99th percentile"),
    Column("response_s", "median, from the same start until the output is back at the first device; one clock"),
    Column("response_p90_s", "90th percentile of the same; empty below 64 microbatches", "response, 90th percentile"),
    Column("throughput_img_s", "images per second at the end of the last stage, over whole bunches of in_flight"),
    Column("bound_img_s", "what the busiest stage, hop or way back allows: batch_size over its mean busy time"),
    Column("efficiency", "throughput_img_s / bound_img_s"),
    Column("bottleneck", "which that is: stage i, hop i or return"),
    Column("num_microbatches", "how many were measured", "microbatches"),
    Column("compute_s", "mean, sum over all stages"),
    Column("transfer_s", "mean, sum over all hops"),
    Column("queue_s", "mean, sum of all waiting for a busy stage or link"),
    Column("stage{i}_compute_s", "mean time in the stage"),
    Column("stage{i}_speed", "how fast its device was, against its usual speed in this folder; 0.8 is a fifth slower"),
    Column("stage{i}_queue_s", "mean wait for the stage to be free"),
    Column("stage{i}_copy_s", "mean copying to and from an accelerator, part of compute"),
    Column("hop{i}_transfer_s", "mean, from the hop's being free to carry it until the whole is there"),
    Column("hop{i}_queue_s", "mean wait for the link, or for room behind it"),
    Column("hop{i}_encode_s", "mean time to encode the activation for its wire type, before it is sent"),
    Column("hop{i}_decode_s", "mean time to decode it on the next device, before it may be computed with"),
    Column("hop{i}_clock_error_s", "bound on the error that the clocks of both ends bring into it"),
    Column("return_transfer_s", "mean way of the output back to the first device"),
    Column("return_clock_error_s", "bound on the clocks' error in it"),
    Column("clock_error_s", "bound on the clocks' error in the latency"),
    Column("max_abs_err", "largest difference of an output from the whole model's", "largest error"),
    Column("outputs_checked", "how many outputs were compared with the whole model's"),
    Column("cosine_similarity", "of an output and the whole model's, the smallest of all images"),
    Column("top1_agreement", "share of images of whose class all outputs say what the float32 model says"),
    Column("accuracy", "share of images whose label is the class that all outputs say; where there are labels"),
    Column("accuracy_top5", "share whose label is among the first five; of more than five classes", "accuracy, top 5"),
    Column("reference_accuracy", "accuracy of the float32 model on the same images", "accuracy of the float32 model"),
    Column("images_compared", "how many different images that is of; max_trial_s may leave some out"),
    Column("activation_bytes", "what crosses the cuts per microbatch: elements times their size", "activation"),
    Column("payload_bytes", "what our framing or rpc's pickle made of it; the mean where that differs", "payload"),
    Column("hop{i}_payload_bytes", "the same, of one hop"),
    Column("hop{i}_compression_ratio", "activation over payload, of one hop: above 1 the wire carried fewer bytes"),
    Column("stage{i}_param_bytes", "parameters and buffers of the stage"),
    Column("stage{i}_build_s", "to build the stage and load its weights, before the clock starts"),
    Column("stage{i}_cpu_fraction", "processor time of its worker over the trial's time; 1 is one core"),
    Column("stage{i}_resident_peak_bytes", "the largest resident memory of its worker that was seen"),
    Column(
        "peak_memory_bytes", "the largest of these over the stages: what the fullest device has to hold", "peak memory"
    ),
    Column("stage{i}_received_bytes", "what its interface received, whoever sent it"),
    Column("stage{i}_sent_bytes", "what its interface sent, whoever to"),
    Column("stage{i}_temperature_c", "the warmest that its device was"),
    Column("stage{i}_throttled", "1 where its device held its clock down for heat or for lack of power"),
    Column("stage{i}_steal_fraction", "share of the time that other guests of its host had its cores"),
    Column("stage{i}_swapped_bytes", "what its machine read from swap or wrote to it"),
    Column("stage{i}_suspended_s", "how long its machine was suspended"),
    Column("disturbed", "what disturbed a device so that its times are not the usual ones; empty where nothing did"),
    Column("stage{i}_monitor_cost", "share of a core that watching cost"),
    Column("stage{i}_energy_per_image_j", "energy of its device per image, over the whole trial"),
    Column("stage{i}_energy_scope", "of what: device (the board), package, gpu"),
    Column("energy_per_image_j", "of all devices, where their meters see like things, over the whole trial"),
    Column("energy_scope", "of what"),
    Column("energy_estimated", "1 where idle_w and busy_w stand in for a meter"),
    Column("overhead_s", "what the trial took beside running: building, checking, asking"),
)

# What analyses add.
_DERIVED = (
    Column("front_probability", "share of resamples in which the point is on the front", "on the front in"),
    Column("worst_regret", "the largest of a point's regrets over the links"),
    Column("mean_regret", "the mean of a point's regrets over the links"),
    Column("param_bytes", "parameters and buffers", "parameters"),
)
_SPECIAL_WORDS = {one.name: one.words for one in (*COLUMNS, *_DERIVED) if one.words}


def column(name: str) -> Column | None:
    """What `summary.csv` has under a name; None where it is not one of its columns.

    >>> column("stage2_queue_s").meaning
    'mean wait for the stage to be free'
    """
    return _BY_NAME.get(re.sub(r"^(stage|hop)\d+_", r"\1{i}_", name))


_BY_NAME = {one.name: one for one in COLUMNS}

# Suffix, display unit, factor from the stored unit; the longer suffix first.
_UNITS = (
    ("_img_s", "img/s", 1.0),
    ("_bit_s", "Mbit/s", 1e-6),
    ("_bytes", "MB", 1e-6),
    ("_flops", "GFLOP", 1e-9),
    ("_s", "ms", 1e3),
    ("_j", "J", 1.0),
    ("_w", "W", 1.0),
)

# Stored as shares, read as percentages.
_RIGHT = ("top1_agreement", "accuracy", "accuracy_top5", "reference_accuracy")
_SHARES = (*_RIGHT, "front_probability", "regret", "worst_regret", "mean_regret", "latency_noise", "throughput_noise")

_ENDS = (
    ("_min", "smallest"),
    ("_max", "largest"),
    ("_low", "low end"),
    ("_high", "high end"),
    ("_raw", "median as measured"),
)

_LARGER_IS_BETTER = ("throughput_img_s", "bound_img_s", "efficiency", "front_probability", "stage{i}_speed")
_MORE_IS_RIGHT = re.compile(r"accuracy|agreement|similarity|compression_ratio")


@dataclass(frozen=True)
class Quantity:
    """A column as a reader sees it: `shown = stored * factor`, in `unit`."""

    column: str
    name: str
    unit: str
    factor: float

    @property
    def title(self) -> str:
        """Name and unit, for an axis or a table's head."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, values: pd.Series[float]) -> pd.Series[float]:
        """Stored values in the display unit."""
        return values * self.factor


def quantity(name: str) -> Quantity:
    """How a column is shown; its unit is told by its suffix.

    >>> quantity("latency_s").title
    'latency (ms)'
    >>> quantity("throughput_img_s").title
    'throughput (img/s)'
    >>> quantity("stage0_compute_s").title
    'stage 0 compute (ms)'
    >>> quantity("latency_s_min").title
    'latency, smallest (ms)'
    >>> quantity("throughput_img_s_low").title
    'throughput, low end (img/s)'
    >>> quantity("regret_on_wifi-poor").title
    'regret on wifi-poor (%)'
    """
    if name in _SHARES or name.startswith("regret_on_"):
        return Quantity(name, _words(name), "%", 100.0)
    for ending, word in _ENDS:
        if name.endswith(ending):
            base = quantity(name.removesuffix(ending))
            return Quantity(name, f"{base.name}, {word}", base.unit, base.factor)
    for suffix, unit, factor in _UNITS:
        if name.endswith(suffix):
            return Quantity(name, _words(name, suffix), unit, factor)
    return Quantity(name, _words(name), "", 1.0)


def direction(name: str) -> str:
    """Whether less ("min") or more ("max") of this column is better.

    >>> direction("latency_s"), direction("throughput_img_s")
    ('min', 'max')
    """
    base = re.sub(r"^(stage|hop)\d+_", r"\1{i}_", name.removeprefix("predicted_"))
    return "max" if base in _LARGER_IS_BETTER or _MORE_IS_RIGHT.search(base) else "min"


def _words(name: str, suffix: str = "") -> str:
    if name in _SPECIAL_WORDS:
        return _SPECIAL_WORDS[name]
    return re.sub(r"^(stage|hop)(\d)", r"\1 \2", name.removesuffix(suffix)).replace("_", " ")


def page() -> str:
    """The documentation of all columns, in Markdown: `python -m pplib.columns > docs/columns.md` renews it."""
    lines = [f"| `{one.name}` | {quantity(one.name).unit or '-'} | {one.meaning} |" for one in COLUMNS]
    return "\n".join(
        [
            "# The columns of summary.csv",
            "",
            "One row per trial. Quantities are stored in s, bytes, bit/s, J; tables and charts show them in the unit",
            "given here. `{i}` is the number of a stage or of a hop, from 0. Quantities of a trial are over its",
            "measured microbatches, warm-up and cool-down left out, unless they say otherwise. More is told in",
            "[how the numbers are made](measuring.md).",
            "",
            "| column | shown in | what it is |",
            "| --- | --- | --- |",
            *lines,
            "",
            "[Back to the README](../README.md)",
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())

"""Plans: targets and programs read, arithmetic by hand, what the commands say and refuse."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import config
from cnn_jax.errors import UserError
from cnn_jax.inspection import (
    chips,
    cpu_rates,
    footprint,
    plan,
    planned_data,
    program_text,
    roofline,
    scaling,
    targets,
)
from cnn_jax.inspection.program_text import Moved
from cnn_jax.inspection.roofline import Product, Times
from tests import commands

command = commands.load("plan")
page = commands.load("scale")

RATES = cpu_rates.Rates(((10.0, 1e10), (1000.0, 1e11)), ((10.0, 1e10), (1000.0, 1e11)), 1e10, 1e-6)
FACTS = planned_data.Facts((28, 28, 1), 10, 600, 100, "here")


def settings(**values):
    base = config.Config(
        dataset=config.DatasetConfig(name="synthetic:train=600,test=100"),
        model=config.ModelConfig("lenet"),
        batch_size=40,
        eval_batch_size=40,
        epochs=2,
    )
    return config.resolve(config.with_values(base, {"optimizer.momentum": 0.9, **values}))


def make(target, chosen=None, **options):
    chosen = chosen or settings()
    dataset, _ = planned_data.stand_in(chosen.dataset, options.pop("facts", None))
    return plan.make(chosen, targets.parse(target), dataset, rates=RATES, **options)


@pytest.fixture
def no_compilers(monkeypatch):
    """A machine without the plugins."""

    def refuse(target):
        if target.chip:
            raise targets.MissingCompilerError("not installed: pip install it")
        return jax.devices("cpu")[:1]

    monkeypatch.setattr(targets, "devices", refuse)


# Targets


@pytest.mark.parametrize(
    ("name", "read", "count"),
    [
        ("h100", "h100:1", 1),
        ("H100:8", "h100:8", 8),
        ("a100:64", "a100:64", 64),
        ("v5e:2x4", "v5e:2x4", 8),
        ("v5e:8", "v5e:2x4", 8),
        ("v6e:256", "v6e:16x16", 256),
        ("v4:16", "v4:2x2x4", 16),
        ("v5p:1", "v5p:1x1x1", 1),
        ("cpu", "cpu", 1),
    ],
)
def test_a_target_is_a_chip_and_how_many(name, read, count):
    target = targets.parse(name)
    assert (target.name, target.count) == (read, count)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h101", "did you mean 'h100'"),
        ("tpu", "choose from h100"),
        ("h100:", "1 to 4096"),
        ("h100:0", "1 to 4096"),
        ("h100:-2", "1 to 4096"),
        ("h100:2x4", "h100:8"),
        ("h100:12", "a multiple of 8"),
        ("v5e:3x5", "v5e:2x4"),
        ("v5e:2", "v5e:2x2"),
        ("v5e:32x16", "at most 256"),
        ("v4:2x2", "v4:2x2x1"),
        ("cpu:4", "give cpu"),
        ("h100:9999999", "1 to 4096"),
    ],
)
def test_a_target_that_does_not_exist_is_refused_in_a_sentence(name, says):
    with pytest.raises(UserError, match=says) as error:
        targets.parse(name)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_every_chip_says_where_its_numbers_are_from_and_they_are_plausible():
    for name, chip in chips.CHIPS.items():
        assert chip.source.startswith("https://"), name
        assert 1e12 < chip.float32 <= chip.bfloat16 < 2e15, name
        assert 1e11 < chip.bandwidth < 1e13, name
        assert 2**33 < chip.memory < 2**38, name
        assert chip.network < chip.link <= 1e12, name
        assert (chip.platform == "tpu") == bool(chip.topology), name
        assert bool(chip.device) == (chip.platform == "gpu"), name


def test_the_compiler_is_told_of_a_gpu_what_the_table_says():
    text = targets.target_config(chips.CHIPS["a100"])
    assert "cuda_compute_capability { major: 8 minor: 0 }" in text
    assert "core_count: 108" in text
    assert f"memory_bandwidth: {2_039_000_000_000}" in text


# Programs


PROGRAM = """
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %s = f32[] add(%a, %a)
}

%taken (p0: u8[1000,10], p1: s32[4]) -> u8[4,10] {
  %p0 = u8[1000,10]{1,0} parameter(0)
  %p1 = s32[4]{0} parameter(1)
  %seen = u8[1000,10]{1,0} bitcast(%p0)
  ROOT %g = u8[4,10]{1,0} gather(%seen, %p1), offset_dims={1}
}

%written (p0: f32[100,10], p1: f32[1,10], p2: s32[]) -> f32[100,10] {
  %p0 = f32[100,10]{1,0} parameter(0)
  %p1 = f32[1,10]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[100,10]{1,0} dynamic-update-slice(%p0, %p1, %p2)
}

%inner (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %v = f32[8]{0} get-tuple-element(%t), index=1
  %w = f32[8]{0} negate(%v)
  ROOT %r = (s32[], f32[8]{0}) tuple(%v, %w)
}

%body (state: (u8[1000,10], s32[4], f32[100,10], f32[1,10], s32[])) -> (f32[8]) {
  %state = (u8[1000,10], s32[4], /*index=2*/f32[100,10], f32[1,10]{1,0}, s32[]) parameter(0)
  %images = u8[1000,10]{1,0} get-tuple-element(%state), index=0
  %order = s32[4]{0} get-tuple-element(%state), index=1
  %kept = f32[100,10]{1,0} get-tuple-element(%state), index=2
  %row = f32[1,10]{1,0} get-tuple-element(%state), index=3
  %i = s32[] get-tuple-element(%state), index=4
  %batch = u8[4,10]{1,0} fusion(%images, %order), kind=kLoop, calls=%taken
  %next = f32[100,10]{1,0} fusion(%kept, %row, %i), kind=kLoop, calls=%written
  %start = bf16[64]{0} all-reduce-start(%row), channel_id=1, to_apply=%add
  %done = bf16[64]{0} all-reduce-done(%start)
  %near = f32[8]{0:T(128)S(1)} copy(%row)
  %both = (f32[2]{0}, f32[3]{0}) all-reduce(%row, %i), channel_id=2, to_apply=%add
  %loop = (s32[], f32[8]{0}) while(%both), body=%inner, backend={"known_trip_count":{"n":"3"}}
  ROOT %result = (f32[8]{0}) tuple(%near)
}

ENTRY %main (x: f32[4096]) -> f32[4096] {
  %x = f32[4096]{0} parameter(0)
  %before = f32[4096]{0} negate(%x)
  %all = (u8[1000,10]{1,0}) while(%before), condition=%cond, body=%body
  ROOT %y = f32[4096]{0} get-tuple-element(%all), index=0
}
"""


def test_a_round_of_the_loop_is_read_with_what_it_only_takes_a_part_of():
    moved = program_text.read(PROGRAM)
    # batch, next, all-reduce-start, copy, all-reduce, and three times a negate
    assert moved.kernels == 8
    batch = 40 + 16 + 40  # the pictures taken, their order, and the batch
    following = 40 + 40 + 4 + 40  # of the array kept, only the row
    start, near, both = 2 * 40, 40, 44 + 20
    assert moved.bytes == batch + following + start + near + both + 3 * 64
    assert moved.collectives == {"all-reduce": (2, 40 + 44)}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[]", 4),
        ("bf16[3,5]{1,0}", 30),
        ("(pred[7], s4[8])", 11),
        ("token[]", 0),
        ("f8e4m3[3]", 3),
    ],
)
def test_sizes_of_shapes(shape, size):
    assert program_text.size_of(shape) == size


def test_a_compiled_program_is_read_as_it_runs():
    size = 1 << 12

    @jax.jit
    def loop(x):
        return jax.lax.fori_loop(0, 10, lambda i, x: jnp.flip(x) + 1.0, x)

    moved = program_text.read(loop.lower(jnp.ones(size)).compile().as_text())
    assert moved.collectives == {}
    assert 2 * 4 * size <= moved.bytes <= 5 * 4 * size
    assert 1 <= moved.kernels <= 4


# Arithmetic


def test_products_fill_a_part_of_the_units():
    product = Product(1, 2, inputs=27, channels=3, outputs=96, is_dense=False)
    assert roofline.utilization(product, (32, 64)) == 27 / 32 * 96 / 128
    assert roofline.utilization(product, (32, 64), windowed=False) == 3 / 32 * 96 / 128
    assert roofline.utilization(product._replace(inputs=256, outputs=64), (128, 64)) == 1


def test_rings_take_the_time_of_their_bytes():
    chip = chips.CHIPS["h100"]
    assert roofline.seconds_on_links("all-reduce", 450_000_000, chip, 1) == 0
    assert roofline.seconds_on_links("all-reduce", 450_000_000, chip, 8) == pytest.approx(
        2 * 7 / 8 * 1e-3
    )
    # Between two machines each of eight GPUs sends an eighth of the sum.
    assert roofline.seconds_on_links("all-reduce", 450_000_000, chip, 16) == pytest.approx(
        2 * 7 / 8 * 1e-3 + 2 * 1 / 2 * 450e6 / 8 / 50e9
    )
    assert roofline.seconds_on_links("all-gather", 450_000_000, chip, 8) == pytest.approx(7e-3 / 8)


def test_a_step_lasts_from_its_longest_part_to_the_sum_of_all():
    times = Times((3.0, 6.0), (1.0, 2.0), (0.5, 1.0), (2.0, 4.0))
    assert times.step == (3.0, 13.0)
    assert times.limit == "arithmetic"
    assert times.middle == math.sqrt(39)
    waiting = dataclasses.replace(times, input=(20.0, 20.0))
    assert waiting.step == (20.0, 20.0)
    assert waiting.limit == "input"


def test_an_accelerator_takes_what_its_sheet_says():
    chip = chips.CHIPS["v5e"]
    product = Product(1e12, 2e12, inputs=256, channels=256, outputs=128, is_dense=True)
    times = roofline.accelerator_times(chip, 4, 10, [product], "bfloat16", Moved(7, 819, {}))
    high, low = roofline.SHARES["tpu"].arithmetic
    assert times.arithmetic == pytest.approx((30e12 / 197e12 / high, 30e12 / 197e12 / low))
    assert times.memory == pytest.approx((1e-9 / 0.95, 1e-9 / 0.6))
    assert times.launches == pytest.approx((7 * 2e-7, 7e-6))
    assert times.communication == (0, 0)
    moved = Moved(7, 819, {"all-reduce": (3, 200_000)})
    talk = roofline.accelerator_times(chip, 4, 10, [product], "bfloat16", moved).communication
    assert talk == pytest.approx((3 * 2e-6 + 1.5e-6 / 0.9, 3 * 10e-6 + 1.5e-6 / 0.5))
    alone = roofline.accelerator_times(chip, 1, 10, [product], "bfloat16", moved)
    assert alone.communication == (0, 0)


def test_a_rate_lies_between_those_of_the_sizes_measured():
    product = Product(1, 2, inputs=100, channels=100, outputs=100, is_dense=False)
    assert cpu_rates.rate(RATES, product) == pytest.approx(math.sqrt(1e10 * 1e11))
    assert cpu_rates.rate(RATES, product._replace(inputs=1, outputs=1)) == pytest.approx(1e10)
    assert cpu_rates.rate(RATES, product._replace(inputs=10**5, outputs=10**5)) == pytest.approx(
        1e11
    )


def test_decoding_takes_cores_by_the_pixel():
    assert roofline.decoding_cores(1000, 375, 500) == 2
    assert roofline.decoding_cores(1000, 375, 250) == 1


# Data


def test_data_that_are_not_here_are_known_by_their_numbers():
    dataset, origin = planned_data.stand_in(config.DatasetConfig(name="cifar100"))
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert (len(dataset.test_labels), len(dataset.class_names)) == (10_000, 100)
    assert origin == "as published"
    large, origin = planned_data.stand_in(config.DatasetConfig(name="data/imagenet:size=176"))
    assert large.train_images.shape == (1_281_167, 176, 176, 3)
    assert large.test_images.nbytes == 50_000 * 176 * 176 * 3
    assert "176×176" in origin


def test_a_part_of_the_data_is_planned_as_it_is_trained():
    def counts(**values):
        dataset, _ = planned_data.stand_in(config.DatasetConfig(name="mnist", **values))
        return len(dataset.train_labels), len(dataset.test_labels), len(dataset.class_names)

    assert counts() == (60_000, 10_000, 10)
    assert counts(train_examples=512) == (512, 10_000, 10)
    assert counts(holdout=0.1) == (54_000, 6_000, 10)
    assert counts(classes=(0, 1)) == (12_000, 2_000, 2)
    with pytest.raises(config.ConfigError, match="60,000 that there are"):
        counts(train_examples=60_001)


def test_own_data_are_loaded_or_told_in_numbers(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 1), np.uint8)
    labels = np.arange(12, dtype=np.int32) % 3
    file = tmp_path / "own.npz"
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    dataset, origin = planned_data.stand_in(config.DatasetConfig(name=str(file)))
    assert (dataset.train_images.shape, origin) == ((12, 8, 8, 1), "as loaded")
    facts = planned_data.read_facts("64,48,3,5,1_000,100")
    given, origin = planned_data.stand_in(config.DatasetConfig(name="own/pictures"), facts)
    assert given.train_images.shape == (1000, 64, 48, 3)
    assert len(given.class_names) == 5
    with pytest.raises(UserError, match=r"none\.npz"):
        planned_data.stand_in(config.DatasetConfig(name=str(tmp_path / "none.npz")))


@pytest.mark.parametrize("given", ["", "28,28,1,10,600", "28,28,1,10,600,0", "a,b,c,d,e,f"])
def test_numbers_of_data_that_are_none_are_refused(given):
    with pytest.raises(UserError, match=r"--data=.* must be height,width"):
        planned_data.read_facts(given)


# Plans


def test_a_plan_for_this_cpu_is_what_its_compiler_says(no_compilers):
    made = make("cpu", search=False)
    ready = case_of(settings())
    state = jax.eval_shape(ready.init_state)
    compiled = footprint.compile_for(ready, "cpu")
    assert made.not_compiled is None
    assert made.parameter_count == 61_706
    assert made.memory.parameters == 4 * 61_706
    # momentum, and the step's and the seed's few bytes
    assert 0 <= made.memory.optimizer - 4 * 61_706 < 100
    assert made.memory.temporary == compiled.temporary > 0
    test = 100 * (784 + 4)
    assert made.memory.total == compiled.total + test
    assert 600 * 788 + test <= made.memory.data <= 600 * 788 + test + 15 * 40 * 8 + 1000
    assert made.multiply_adds == 40 * (416_520 + 715_440)
    assert made.steps == 30
    assert made.memory.fits
    assert made.resident
    assert made.decoding_cores is None
    low, high = made.run_seconds
    share = 416_520 / (416_520 + 715_440)
    assert low == pytest.approx(made.times.step[0] * (30 + 2 * 100 / 40 * share))
    assert low < high
    assert footprint.bytes_of(state.params) == made.memory.parameters


def case_of(chosen):
    dataset, _ = planned_data.stand_in(chosen.dataset)
    return plan._settle(chosen, targets.parse("cpu"), dataset).build(chosen.batch_size)


def test_on_paper_the_same_questions_are_answered(no_compilers):
    made = make("h100:8", price=3.0)
    assert made.not_compiled == "not installed: pip install it"
    assert made.images_per_chip == 5
    assert made.collectives == {"all-reduce": (2, 4 * 61_706)}
    table = made.memory.activations
    assert made.memory.temporary == table + made.memory.parameters
    assert made.largest_batch == 600
    low, high = made.cost
    assert low == pytest.approx(made.run_seconds[0] / 3600 * 24)
    assert low < high
    assert "config.parallel=jit" in made.notes[0]
    alone = make("h100")
    assert alone.collectives == {}
    assert alone.cost is None


def test_paper_and_compiler_agree_on_memory(no_compilers):
    for network in ("lenet", "mlp"):
        chosen = settings(**{"model.name": network})
        ready = case_of(chosen)
        table = plan.layer_table.analyze(ready.model, ready.input_shape)
        paper = footprint.on_paper(ready, table, 1).temporary
        compiled = footprint.compile_for(ready, "cpu").temporary
        assert 0.5 < compiled / paper < 2, network


def test_the_largest_batch_is_the_largest_that_fits():
    def total(batch):
        tried.append(batch)
        return 1000 + 10 * batch

    tried = []
    assert plan._largest_batch(total, 8, 4, 1500, 10**6) == 48
    assert total(48) <= 1500 < total(52)
    assert plan._largest_batch(total, 8, 4, 10**9, 600) == 600
    assert plan._largest_batch(total, 8, 4, 1039, 600) is None
    # A program may need more than the line through two says.
    assert plan._largest_batch(lambda n: total(n) + (n > 40) * 100, 8, 4, 1500, 600) == 40


def test_what_does_not_fit_is_said_and_what_is_too_large_is_streamed(no_compilers):
    facts = planned_data.Facts((256, 256, 3), 1000, 1_281_167, 50_000, "here")
    chosen = settings(**{"dataset.image_size": 224, "model.name": "vgg16", "batch_size": 4096})
    made = make("t4", chosen, facts=facts, cores=8.0)
    assert not made.resident
    assert not made.memory.fits
    assert made.memory.available == int(15_843_721_216 * 0.75)
    assert made.largest_batch < 4096
    assert made.times.input == pytest.approx((4096 * 65536 / roofline.DECODED_PIXELS / 8,) * 2)
    slow, fast = made.images_per_second
    assert made.decoding_cores == pytest.approx(
        (slow * 65536 / roofline.DECODED_PIXELS, fast * 65536 / roofline.DECODED_PIXELS)
    )
    text = command.write([made], "here", "text")
    assert "TOO MUCH" in text
    assert "streamed" in text


def test_a_batch_that_chips_cannot_share_is_refused(no_compilers):
    with pytest.raises(config.ConfigError, match=r"batch_size=40 .* 16 chips .* such as 32"):
        make("h100:16")
    with pytest.raises(config.ConfigError, match="eval_batch_size=40"):
        make("h100:16", settings(batch_size=32))


def test_a_plan_is_written_in_three_styles(no_compilers):
    plans = [make("h100:8", price=2.0), make("v5e:2x4")]
    text = command.write(plans, "here", "text").split("\n")
    assert text[0].startswith("lenet on synthetic:train=600,test=100 (600 training images, 28×28×1")
    assert "h100:8: 8 × NVIDIA H100 SXM 80 GB" in text
    assert sum(line.startswith("  step") for line in text) == 2
    assert any("not installed" in line for line in text)
    table = [x for x in command.write(plans, "here", "markdown").split("\n") if x.startswith("|")]
    assert table[0] == "|  | h100:8 | v5e:2x4 |"
    assert {row.count("|") for row in table} == {4}
    first, second = json.loads(command.write(plans, "here", "json"))
    assert (first["target"], second["target"]) == ("h100:8", "v5e:2x4")
    assert first["fits"] is True
    assert first["limited_by"] in roofline.PARTS
    assert first["step_seconds"][0] < first["step_seconds"][1]
    assert first["cost"] == pytest.approx(plans[0].cost)
    assert second["cost"] is None


# Scale


@pytest.fixture
def recorded(no_compilers, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(command.write([make("h100:8")], "here", "json"))
    (made,) = scaling.read(file)
    return made


def test_a_plan_scales_by_arithmetic(recorded):
    alone, eight, many = (scaling.scale(recorded, n, 5) for n in (1, 8, 256))
    planned = make("h100:8")
    assert eight.times == planned.times
    assert eight.images_per_second == pytest.approx(planned.images_per_second)
    assert alone.efficiency == 1
    assert alone.share == 0
    assert 1 > eight.efficiency > many.efficiency > 0
    assert many.share > eight.share
    # Twice the images move more, and take twice the arithmetic.
    double = scaling.scale(recorded, 8, 10)
    assert double.times.arithmetic == pytest.approx(tuple(2 * t for t in eight.times.arithmetic))
    assert double.times.memory[0] > eight.times.memory[0]


def test_the_page_says_where_scaling_stops(recorded):
    text = page.write([recorded])
    (row,) = [line for line in text.split("\n") if line.startswith("| lenet |")]
    stop = page.find_stop(recorded)
    assert f"| {stop.chips} chips |" in row
    assert page.strong(recorded, stop.chips).efficiency < 0.5
    assert page.strong(recorded, stop.chips // 2).efficiency >= 0.5 or stop.chips == 2
    assert len([x for x in text.split("\n") if x.startswith(("| 1 ", "| 256 "))]) == 2


def test_advice_names_batch_norm_where_it_waits():
    chip = {"all-reduce": (100, 10**6)}
    times = Times((1e-6, 1e-6), (0, 0), (0, 0), (1.0, 1.0))
    scaled = scaling.Scaled(8, 1, times, (1, 1), 0.1, 0.9, None)
    assert "fixed groups" in scaling.advise(scaled, chip)
    assert "fixed groups" not in scaling.advise(scaled, {"all-reduce": (2, 10**6)})


def test_what_cannot_be_scaled_is_refused(no_compilers, tmp_path):
    file = tmp_path / "plan.json"
    for target, search, says in (
        ("h100", True, "at least two"),
        ("h100:8", False, "--nosearch"),
    ):
        file.write_text(command.write([make(target, search=search)], "here", "json"))
        with pytest.raises(UserError, match=says):
            scaling.read(file)
    file.write_text("[{}]")
    with pytest.raises(UserError, match=r"can't be read: .* is missing"):
        scaling.read(file)


# The commands


LENET = "--config=experiments/configs/lenet.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([LENET], "--target=h100:8"),
        (["--target=h100"], "give a configuration"),
        ([LENET, "--target=h99"], "there is no chip"),
        ([LENET, "--target=h100:8", "--batch_size=30"], "can't be shared equally"),
        ([LENET, "--target=h100", "--measure"], "--target=cpu"),
        ([LENET, "--target=h100", "--data=1,2"], "must be height,width"),
        ([LENET, "--target=h100", "--price=-1"], "price"),
        ([LENET, "--target=h100", "--output=none/plan.md"], "none"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, says):
    result = commands.run("experiments.plan", *arguments, JAX_PLATFORMS="cpu")
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


@pytest.mark.slow
def test_a_cpus_plan_is_compared_with_what_is_trained(tmp_path):
    arguments = ["--target=cpu", "--measure", "--nosearch", f"--output={tmp_path}/plan.json"]
    result = commands.run("experiments.plan", LENET, *arguments, "--format=json")
    assert result.returncode == 0, result.stderr
    (made,) = json.loads((tmp_path / "plan.json").read_text())
    assert made["measured"]["step_seconds"] > 0
    assert made["measured"]["memory"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100:8", "v5e:2x4"])
def test_a_plan_is_compiled_for_chips_that_are_not_here(target):
    try:
        targets.devices(targets.parse(target))
    except targets.MissingCompilerError as error:
        pytest.skip(str(error))
    made = make(target, search=False)
    assert made.not_compiled is None
    ((kind, (count, size)),) = made.collectives.items()
    assert kind == "all-reduce"
    assert 1 <= count <= 4
    assert size >= 2 * 61_706  # bytes of the gradients, in bfloat16 at least
    assert made.memory.fits
    assert made.memory.total > 600 * 784


def test_measuring_takes_what_training_takes():
    found = command.plan_measured
    made = make("cpu", search=False)
    rows = dict(found.rows(made, found.Measured(2 * made.times.middle, made.memory.total)))
    assert rows["measured step"].endswith("0.50 times that")
    assert rows["measured memory"].endswith("1.00 times that")

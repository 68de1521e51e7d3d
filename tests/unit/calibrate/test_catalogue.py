"""The catalogue holds the published figures, and engine files say what is wrong with them."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import llmq.calibrate
from llmq.calibrate._geometry import geometry
from llmq.calibrate.catalogue import engines, load_engine, read_engine, write_engine
from llmq.calibrate.catalogue.gpus import SERVER, gpu, server_defaults
from llmq.calibrate.fit import calibrate
from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime

FOLDER = Path(llmq.calibrate.__file__).parent / "catalogue"
# calibration table 3c: m, s, o, b, e_dec, e_mix, f, in and out of sample MAPE %.
ROOFLINES = {
    ("llama-3.1-8b/a100", 1): (
        0.011,
        1.02e-5,
        0.00858,
        4.73e-5,
        8.51e-8,
        8.11e-8,
        5.29e-9,
        2.4,
        2.4,
    ),
    ("qwen3-32b/a100", 2): (0.0243, 3.2e-5, 0.0191, 1.26e-4, 9.01e-8, 9.28e-8, 3.65e-9, 2.7, 2.7),
    ("llama-3.1-70b/a100", 4): (0.0277, 8.23e-5, 0.0212, 1.65e-4, 5.93e-8, 6.26e-8, 0.0, 1.4, 1.5),
    ("llama-3.1-8b/h100", 1): (
        0.00603,
        9.51e-6,
        0.00113,
        1.82e-5,
        4.12e-8,
        4.36e-8,
        7.31e-10,
        2.4,
        2.4,
    ),
    ("qwen3-32b/h100", 2): (0.0132, 2.54e-5, 0.0046, 5.03e-5, 4.19e-8, 4.61e-8, 2.2e-9, 2.2, 2.2),
    ("llama-3.1-70b/h100", 4): (
        0.0147,
        4.07e-5,
        0.00834,
        6.48e-5,
        2.64e-8,
        2.87e-8,
        1.91e-9,
        1.4,
        1.4,
    ),
    ("llama-3.1-8b/rtxpro6000", 1): (
        0.0111,
        2.02e-5,
        0.00583,
        3.74e-5,
        8.99e-8,
        1.74e-7,
        1.53e-9,
        3.3,
        3.3,
    ),
}
COEFFICIENTS = (
    "floor",
    "floor_per_token",
    "base",
    "per_token",
    "per_kv",
    "per_kv_mixed",
    "per_work",
)


def test_a10_the_catalogue_has_the_defaults_of_the_server():
    """As vLLM 0.32's API server sets them: vllm/engine/arg_utils.py, get_batch_defaults."""
    wanted = {
        "b200": (16_384, 1024),
        "gb200": (16_384, 1024),
        "h100": (8192, 1024),
        "h200": (8192, 1024),
        "rtxpro6000": (8192, 1024),
        "a100": (2048, 256),
        "l40s": (2048, 256),
    }
    # Settings of a paper, which their files say.
    own = {"mistral-7b/rtx6000ada": (512, 128), "deepseek-r1-distill-qwen-32b/h100": (2048, 256)}
    seen = set()
    for entry in engines():
        engine, kind = load_engine(entry.name, entry.tp), entry.name.partition("/")[2]
        have = engine.token_budget, engine.max_seqs
        assert have == own.get(entry.name, wanted.get(kind)), entry.name
        if entry.name not in own:
            assert have == server_defaults(gpu(kind))
            seen.add(kind)
    assert seen == set(wanted)
    for path in FOLDER.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        name = re.search('name = "(.*)"', text).group(1)
        assert (f"# Defaults of the server on this GPU: {SERVER}." in text) == (name not in own)
        assert "default (max_num" not in text


@pytest.mark.parametrize(("name", "tp"), ROOFLINES)
def test_entries_are_the_calibrated_rooflines(name: str, tp: int) -> None:
    engine = load_engine(name, tp)
    *values, inside, outside = ROOFLINES[name, tp]
    assert engine == load_engine(name)
    assert engine.law.form == "roofline"
    if tp > 1:  # the table takes messages for twice their size: docs/decisions/0020
        table = BatchTime.roofline(**dict(zip(COEFFICIENTS, values, strict=True)))
        assert engine.law(16, 10_000) == pytest.approx(table(16, 10_000), rel=0.03)
        assert 0.8 < engine.law(2048, 10_000) / table(2048, 10_000) < 0.99
        return
    assert tuple(getattr(engine.law, c) for c in COEFFICIENTS) == tuple(values)
    assert (engine.gpus, engine.kv_block) == (tp, 16)
    assert f"MAPE {inside:.1f} % in sample, {outside:.1f} % out of sample" in engine.source
    assert "2026" in engine.source
    entry = next(e for e in engines() if (e.name, e.tp) == (name, tp))
    assert entry.error == pytest.approx(outside / 100)


# Memory by hand: GPU bytes, model, and 16-bit weights as the sum of the model's matrices.
MEMORY = {
    ("llama-3.1-8b/a100", 1): 80e9,
    ("llama-3.1-8b/h100", 1): 80e9,
    ("qwen3-32b/a100", 2): 80e9,
    ("qwen3-32b/h100", 2): 80e9,
    ("llama-3.1-70b/a100", 4): 80e9,
    ("llama-3.1-70b/h100", 4): 80e9,
    ("llama-3.1-8b/rtxpro6000", 1): 96e9,
}


@pytest.mark.parametrize(("name", "tp"), MEMORY)
def test_kv_capacity_is_what_the_weights_leave(name: str, tp: int) -> None:
    shape = geometry(name.split("/")[0])
    room = 0.9 * tp * MEMORY[name, tp] - 2 * shape.parameters
    kv_token = 2 * 2 * shape.layers * shape.kv_heads * 128  # keys and values, 2 bytes each
    tokens = load_engine(name, tp).kv_tokens
    assert tokens is not None
    assert tokens % 16 == 0
    assert 0 <= room / kv_token - tokens < 16


def test_stated_engines() -> None:
    slai = load_engine("mistral-7b/rtx6000ada")
    assert (slai.kv_tokens, slai.token_budget, slai.max_seqs) == (14_733 * 16, 512, 128)
    # T = max(22.5 ms, 7.35 ms + 0.0869 ms n); KV read at 70 % of 960 GB/s; 147 TFLOP/s attention.
    assert slai.law(100) == 0.0225
    assert slai.law(512) == pytest.approx(7.35e-3 + 0.0869e-3 * 512)
    assert slai.law.per_kv == pytest.approx(131_072 / (0.7 * 960e9), rel=1e-3)
    assert slai.law.per_work == pytest.approx(524_288 / 147e12, rel=2e-3)
    pascal = load_engine("deepseek-r1-distill-qwen-32b/h100")
    assert (pascal.kv_tokens, pascal.max_seqs) == (90_000, 256)
    # C0 + C1 B + C2 KV at B = 88 and a full cache: 46.4 ms in the source.
    assert pascal.law(88, 90_000) == pytest.approx(0.0464, abs=5e-5)
    assert pascal.law.per_kv == pytest.approx(262_144 / (0.8 * 3.35e12), rel=1e-3)
    assert {e.name for e in engines() if e.error is None} == {slai.name, pascal.name}


def test_the_slai_law_is_near_the_published_sweep() -> None:
    # Steps of prefill alone at 256 to 1024 tokens (TTFT / chunks of a 2048-token prompt), ms.
    law = load_engine("mistral-7b/rtx6000ada").law
    for chunk, measured in ((256, 29.86), (512, 53.04), (1024, 100.76)):
        starts = np.arange(0, 2048, chunk)
        steps = law(chunk, 0.0, chunk * (starts + chunk / 2))
        assert steps.mean() * 1e3 == pytest.approx(measured, rel=0.05)


def test_budgets_may_be_overridden() -> None:
    engine = load_engine("qwen3-32b/h100", token_budget=512, max_seqs=64)
    assert (engine.token_budget, engine.max_seqs) == (512, 64)
    assert engine.law == load_engine("qwen3-32b/h100").law


def test_unknown_names_and_degrees_say_what_is_known() -> None:
    with pytest.raises(InputError, match=r"no engine 'llama-3\.1-8b/h20' .*did you mean 'llama"):
        load_engine("llama-3.1-8b/h20")
    with pytest.raises(InputError, match=r"qwen3-32b/a100 is known with tp .*2.*, not with tp=3"):
        load_engine("qwen3-32b/a100", tp=3)
    with pytest.raises(InputError, match="source must be 'catalogue' or 'profiles', got 'web'"):
        load_engine("qwen3-32b/a100", source="web")


def test_a_degree_may_have_its_own_source_and_default(tmp_path: Path) -> None:
    text = GOOD.replace('source = "s"', 'source = "s"\nassumptions = ["a"]\ndefault_tp = 2')
    text += '[tp.2]\nsource = "two"\nassumptions = ["b"]\n'
    text += '[tp.2.law]\nform = "affine"\nbase = 0.02\nper_token = 1e-5\n'
    path = tmp_path / "two.toml"
    path.write_text(text, encoding="utf-8")
    engine = read_engine(path)
    assert (engine.gpus, engine.source, engine.assumptions) == (2, "two", ("a", "b"))
    one = read_engine(path, 1)
    assert (one.gpus, one.source, one.assumptions) == (1, "s", ("a",))
    path.write_text(text.replace("default_tp = 2", "default_tp = 4"), encoding="utf-8")
    with pytest.raises(InputError, match="x is known with tp 1, 2, not with tp=4"):
        read_engine(path)


LAWS = [
    BatchTime.affine(base=0.1, per_token=1 / 3, per_kv=1e-9, per_kv_mixed=2e-9, per_work=3e-12),
    BatchTime.tiled(base=0.1, per_tile=0.2, tile=128, per_token=1e-5),
    BatchTime.roofline(floor=0.1, base=0.0, per_token=1e-5, tile=64, floor_per_token=1e-6),
    BatchTime.table(tokens=[1, 64, 65], seconds=[0.1, 0.2, 0.30000000000000004], per_kv=1e-300),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.form)
def test_engine_files_round_trip(law: BatchTime, tmp_path: Path) -> None:
    engine = Engine(
        law,
        token_budget=77,
        kv_tokens=12345,
        kv_block=8,
        prefill_chunk=32,
        conventions=THEORY,
        name='odd "name" \\ \n µ',
        gpus=3,
        source="here",
        assumptions=("one", "two, and three"),
    )
    path = write_engine(engine, tmp_path / "own.toml", gpu="g", model="m")
    assert read_engine(path) == load_engine(str(path)) == load_engine(path, tp=3) == engine
    assert [p.name for p in tmp_path.iterdir()] == ["own.toml"]


def test_fractions_and_numpy_numbers_are_written_as_toml(tmp_path: Path) -> None:
    law = BatchTime.affine(base=Fraction(1, 64), per_token=np.float64(0.25))
    engine = Engine(law, max_seqs=np.int64(64), name="exact")
    path = write_engine(engine, tmp_path / "exact.toml")
    assert "base = 0.015625\nper_token = 0.25\n" in path.read_text(encoding="utf-8")
    assert read_engine(path) == engine


def test_a_fit_becomes_an_engine_file(tmp_path: Path) -> None:
    n = np.arange(1, 100) * 8
    law = BatchTime.roofline(floor=6e-3, base=1e-3, per_token=2e-5)
    fit = calibrate(Profile(tokens=n, seconds=law(n), gpu="G", tp=2, missing=("LM head",)))
    path = write_engine(fit, tmp_path / "fit.toml", kv_tokens=4096, max_seqs=8)
    engine = load_engine(path)
    assert (engine.name, engine.gpus, engine.kv_tokens, engine.max_seqs) == ("fit", 2, 4096, 8)
    assert engine.law == fit.law
    assert "not in the profile and counted as 0 s: LM head" in engine.assumptions
    assert "MAPE 0.0 % in sample" in engine.source
    assert not any("memory does not limit" in line for line in engine.assumptions)
    unlimited = load_engine(write_engine(fit, tmp_path / "more.toml"))
    assert unlimited.kv_tokens is None
    assert "KV capacity was not given: memory does not limit this engine" in unlimited.assumptions


GOOD = """name = "x"
gpu = "g"
model = "m"
source = "s"
[tp.1]
kv_tokens = 1600
[tp.1.law]
form = "affine"
base = 0.01
per_token = 1e-5
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpu =", "gpus =", "has no key 'gpus'; did you mean 'gpu'?"),
        ('gpu = "g"\n', "", "needs gpu = a text in quotes, but it is missing"),
        ('gpu = "g"', "gpu = 80", "needs gpu = a text in quotes, found 80"),
        ("per_token", "per_tokn", "[tp.1.law] has no key 'per_tokn'; did you mean 'per_token'?"),
        ('"affine"', '"linear"', "[tp.1.law] needs form = one of affine, tiled, roofline, table"),
        ("base = 0.01", "base = -0.01", "[tp.1.law] needs base = a finite number >= 0, found -0"),
        ("base = 0.01", 'base = "fast"', "[tp.1.law] needs base = a finite number >= 0, found 'f"),
        ("base = 0.01\n", "", "[tp.1.law] needs base = a finite number >= 0, but it is missing"),
        ("[tp.1]", "[tp.one]", "[tp]: 'one' is no number of GPUs: write tables [tp.1], [tp.2]"),
        ("kv_tokens", "kv_token", "[tp.1] has no key 'kv_token'; did you mean 'kv_tokens'?"),
        ("= 0.01", "=", "not TOML"),
        ("[tp.1]", "[memory]\ngpu_bytes = 1\n[tp.1]", "[memory] needs utilisation = "),
        ('source = "s"', 'source = "s"\nconventions = "vllm"', "unknown conventions 'vllm'"),
        ("[tp.1.law]", '[tp.1.fit]\nin_sample="a"\nout_of_sample=1\n[tp.1.law]', "a finite number"),
        ("[tp.1]\nkv_tokens = 1600\n", "", ""),
    ],
)
def test_bad_engine_files(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    if not message:  # the one change that is allowed: without kv_tokens there is no limit
        assert read_engine(path).kv_tokens is None
        return
    with pytest.raises(InputError) as caught:
        read_engine(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    engine = Engine(LAWS[0])
    with pytest.raises(InputError, match=r"an engine file ends in \.toml"):
        write_engine(engine, tmp_path / "x.json")
    with pytest.raises(InputError, match="there is no folder"):
        write_engine(engine, tmp_path / "no" / "x.toml")
    with pytest.raises(InputError, match="no such file"):
        load_engine(tmp_path / "x.toml")
    heavy = GOOD.replace("kv_tokens = 1600\n", "").replace(
        "[tp.1]", "[memory]\ngpu_bytes=8\nutilisation=0.9\nweight_bytes=9\nkv_bytes=1\n[tp.1]", 1
    )
    (tmp_path / "heavy.toml").write_text(heavy, encoding="utf-8")
    with pytest.raises(
        InputError, match="9 bytes of weights leave no KV block in 1 GPUs of 8 bytes"
    ):
        read_engine(tmp_path / "heavy.toml")

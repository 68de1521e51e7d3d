"""Regressors of composed steps, interpolation, and shapes of models."""

from __future__ import annotations

import numpy as np
import pytest

from llmq.calibrate._compose import Kernels, Steps, compose, draw_steps, grid_time, token_time
from llmq.calibrate._geometry import GEOMETRIES, geometry
from llmq.errors import InputError


def test_regressors_are_those_of_the_batch_time_law() -> None:
    steps = draw_steps(300, rng=11)
    for i in range(300):
        chunk, cached = int(steps.chunk[i]), int(steps.cached[i])
        # Row by row, as an engine counts them: a chunk holds what is cached plus itself.
        held = [cached + chunk] if chunk else []
        held += [int(steps.context[i])] * int(steps.decodes[i])
        assert steps.kv[i] == sum(held)
        assert steps.tokens[i] == chunk + steps.decodes[i]
        assert steps.rows[i] == len(held)
        assert steps.work[i] == pytest.approx(chunk * (cached + chunk / 2), rel=1e-15)


def test_work_of_a_prompt_does_not_depend_on_its_chunks() -> None:
    one = Steps(*(np.array([x]) for x in (1000, 0, 0, 0)))
    parts = Steps(np.array([300, 500, 200]), np.array([0, 300, 800]), *np.zeros((2, 3), int))
    assert parts.work.sum() == one.work.sum() == 1000**2 / 2


def test_drawn_steps_cover_their_ranges() -> None:
    steps = draw_steps(20_000, rng=1)
    assert (steps.decodes.min(), steps.decodes.max()) == (0, 256)
    assert steps.chunk.max() > 4080
    decoding, filling = steps.decodes > 0, steps.chunk > 0
    assert np.all((steps.context[decoding] >= 32) & (steps.context[decoding] <= 8192))
    assert np.all(steps.tokens >= 1)
    shares = [np.mean(decoding & ~filling), np.mean(decoding & filling), np.mean(~decoding)]
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.02)
    assert not np.any(draw_steps(1000, rng=1, cached=False).cached)


def test_tile_edges_are_not_smeared() -> None:
    tokens = np.array([1, 64, 72, 128, 136, 1024, 1056, 2048, 4096])
    seconds = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 6.0, 7.0, 10.0, 18.0])
    asked = [1, 64, 65, 72, 128, 129, 136, 1025, 3072]
    found = token_time(asked, tokens, seconds)
    assert found.tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 7.0, 14.0]
    assert token_time([0], tokens, seconds)[0] == 1.0
    assert np.isnan(token_time([4097], tokens, seconds)[0])


def test_grid_interpolation_is_exact_for_multilinear_times() -> None:
    axes = (np.array([0, 3, 10]), np.array([1, 4]), np.array([0, 2, 5, 9]))
    x, y, z = np.meshgrid(*axes, indexing="ij")

    def time(x: object, y: object, z: object) -> object:
        return 1 + 2 * x + 3 * y * z + 0.5 * x * y * z  # type: ignore[operator]

    draw = np.random.default_rng(2)
    points = [draw.uniform(axis[0], axis[-1], 50) for axis in axes]
    assert grid_time(time(x, y, z), axes, *points) == pytest.approx(time(*points), rel=1e-12)
    outside = grid_time(time(x, y, z), axes, [11.0], [2.0], [3.0])
    assert np.isnan(outside[0])


def test_steps_outside_the_tables_are_dropped_not_extrapolated() -> None:
    tokens, seconds = np.array([1, 100, 2000]), np.array([1.0, 2.0, 21.0])
    kernels = Kernels(
        lambda n: token_time(n, tokens, seconds), lambda r: 0.0 * r, lambda s: 0.0 * s.kv
    )
    profile = compose(kernels, steps=500)
    assert 50 < len(profile) < 500
    assert profile.tokens.max() <= 2000
    with pytest.raises(InputError, match="only 0 of 500 steps lie inside the kernel tables"):
        compose(Kernels(lambda n: n * np.nan, lambda r: 0.0 * r, lambda s: 0.0 * s.kv), steps=500)


# Parameters as the models' cards state them, in thousands of millions.
CARDS = {
    "Llama-2-7B": 6.74,
    "Llama-2-70B": 68.98,
    "Llama-3-8B": 8.03,
    "Llama-3.1-8B": 8.03,
    "Llama-3.1-70B": 70.55,
    "Mistral-7B": 7.24,
    "Qwen3-32B": 32.76,
    "DeepSeek-R1-Distill-Qwen-32B": 32.76,
    "CodeLlama-34B": 33.74,
    "Llama-3.1-405B": 405.85,
    "Qwen3-8B": 8.19,
    "Qwen3-14B": 14.77,
    "Mixtral-8x7B": 46.70,
    "Mixtral-8x22B": 140.6,
    "Qwen3-30B-A3B": 30.53,
    "Qwen3-235B-A22B": 235.1,
}


@pytest.mark.parametrize("shape", GEOMETRIES, ids=lambda shape: shape.name)
def test_shapes_give_the_published_parameters(shape: object) -> None:
    assert shape.parameters / 1e9 == pytest.approx(CARDS[shape.name], rel=1e-3)  # type: ignore[attr-defined]


def test_models_are_found_by_any_usual_name() -> None:
    assert geometry("Meta-Llama-3-8B").name == "Llama-3-8B"
    assert geometry("meta-llama/Llama-3.1-70B-Instruct").layers == 80
    assert geometry("Llama-2-70b-hf").kv_bytes == 327_680
    with pytest.raises(
        InputError, match=r"'Llama-3\.1-8' is not among .*did you mean 'llama-3\.1-8b'"
    ):
        geometry("Llama-3.1-8")

"""What a recipe costs: the memory of a simulated step."""

import pytest
import torch
from recipes import LiveMemory, peak_bytes

from pipeline.common.recipe import load_recipe


def test_memory_counts_what_is_alive_at_the_same_time():
    with LiveMemory() as memory:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        assert (memory.bytes, memory.peak_bytes) == (8000, 8000)
        del first
        assert memory.bytes == 8000, "a view keeps the whole tensor"
        del view, second
        assert (memory.bytes, memory.peak_bytes) == (0, 8000)


def with_settings(recipe, **groups):
    changed = {name: getattr(recipe, name).model_copy(update=settings) for name, settings in groups.items()}
    return recipe.model_copy(update=changed)


@pytest.mark.slow
def test_a_larger_batch_takes_more_and_micro_batches_or_recomputing_take_less():
    recipe = load_recipe("demo")
    plain = peak_bytes(recipe)
    weights = 4 * 426_571
    assert plain > 4 * weights, "weights, gradients, two moments"
    assert peak_bytes(with_settings(recipe, training={"batch_size": 32})) > 1.7 * plain
    assert peak_bytes(with_settings(recipe, training={"micro_batches": 2})) < 0.65 * plain
    paper = load_recipe("paper")
    assert peak_bytes(with_settings(paper, model={"gradient_checkpointing": True})) < 0.8 * peak_bytes(
        with_settings(paper, model={"gradient_checkpointing": False})
    )

"""The fusion on tokens alone: what it can learn, and what it must not be able to learn."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import FUSIONS

from pipeline.models.attention_blocks import AttentionBlock, StochasticDepth
from pipeline.models.fusion import Fusion, Pooling, Tokens

CLASSES, MOMENTS, DIM = 3, 6, 16
SIZES = {"scene": (1, DIM), "sound": (1, DIM)}
TIMES_S = torch.arange(MOMENTS) * 0.8


def clips(count, generator):
    """Random clips that show every class at two moments, in any order, while a sound marks one moment.

    The label is the class shown at the moment of the sound. Without the times, all clips show and sound the same, so a
    stream that is pooled alone tells nothing.
    """
    shown = torch.stack([torch.randperm(MOMENTS, generator=generator) % CLASSES for _ in range(count)])
    marked = torch.randint(MOMENTS, (count,), generator=generator)
    noise = 0.1 * torch.randn(2, count, MOMENTS, 1, DIM, generator=generator)
    video = F.one_hot(shown, DIM).float().unsqueeze(2) + noise[0]
    audio = F.one_hot(marked, MOMENTS).float()[..., None, None].expand(-1, -1, 1, DIM) + noise[1]
    no_padding = torch.zeros(count, MOMENTS, dtype=torch.bool)
    tokens = {"scene": Tokens(video, TIMES_S, no_padding), "sound": Tokens(audio, TIMES_S, no_padding)}
    return tokens, shown.gather(1, marked[:, None]).squeeze(1)


def accuracy_after_training(settings, steps):
    """The accuracy on new clips."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    fusion = Fusion(settings, SIZES, CLASSES)
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=3e-3)
    for _ in range(steps):
        tokens, labels = clips(64, generator)
        F.cross_entropy(fusion(tokens), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    tokens, labels = clips(1000, generator)
    with torch.no_grad():
        return (fusion.eval()(tokens).argmax(dim=1) == labels).float().mean().item()


@pytest.fixture
def settings(config):
    changes = {"width": 32, "heads": 2, "layers": 2, "dropout": 0.0, "stochastic_depth": 0.0}
    return lambda **more: config.recipe.model.model_copy(update=changes | more)


@pytest.mark.parametrize("pooling", ["mean", pytest.param("learned", marks=pytest.mark.slow)])
def test_cross_attention_learns_what_is_shown_at_the_moment_of_a_sound(settings, pooling):
    assert accuracy_after_training(settings(fusion="cross_attention", pooling=pooling, layers=1), 400) >= 0.95


@pytest.mark.parametrize("kind", ["concat", "late", "scene", "sound"])
def test_without_attention_between_the_streams_this_cannot_be_learnt(settings, kind):
    # 1000 clips: chance is 1/3 give or take .045 (three standard errors).
    assert accuracy_after_training(settings(**FUSIONS[kind], layers=1), 400) == pytest.approx(1 / 3, abs=0.045)


@pytest.mark.parametrize(("fusion", "shapes"), [("cross_attention", [(7, 7)] * 4), ("self_attention", [(14, 14)] * 2)])
def test_attention_maps_are_distributions_over_the_tokens_that_are_not_padding(settings, fusion, shapes):
    tokens, _ = clips(5, torch.Generator().manual_seed(0))
    padding = tokens["sound"].padding.clone()
    padding[:, 4:] = True
    tokens["sound"] = Tokens(tokens["sound"].values, TIMES_S, padding)
    model = Fusion(settings(fusion=fusion), SIZES, CLASSES).eval()
    maps = []
    logits = model(tokens, maps)
    assert [tuple(weights.shape) for weights in maps] == [(5, 2, *shape) for shape in shapes]
    assert all(torch.allclose(weights.sum(dim=-1), torch.ones(())) for weights in maps)
    assert maps[0][..., -2:].abs().max() == 0  # audio past its end
    torch.testing.assert_close(model(tokens), logits)


@pytest.mark.parametrize("pooling", ["mean", "learned"])
def test_padding_does_not_count_in_pooling(pooling):
    tokens, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    pool = Pooling(8, pooling)
    other = tokens.clone()
    other[0, 3:] = 100.0
    torch.testing.assert_close(pool(other, padding), pool(tokens, padding))
    torch.testing.assert_close(pool(tokens[:1, :3], padding[:1, :3]), pool(tokens, padding)[:1])


def test_mean_pooling_is_the_mean():
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(Pooling(8, "mean")(tokens, torch.zeros(2, 5, dtype=torch.bool)), tokens.mean(dim=1))


def test_late_fusion_is_the_mean_of_the_logits_of_the_streams_that_a_clip_has(settings):
    tokens, _ = clips(4, torch.Generator().manual_seed(0))
    late = Fusion(settings(fusion="late"), SIZES, CLASSES).eval()
    missing = torch.ones(4, MOMENTS, dtype=torch.bool)

    def logits(**present):
        hidden = {name: Tokens(tokens[name].values, TIMES_S, missing) for name in SIZES if not present[name]}
        return late(tokens | hidden)

    scene_alone, sound_alone = logits(scene=True, sound=False), logits(scene=False, sound=True)
    torch.testing.assert_close((scene_alone + sound_alone) / 2, logits(scene=True, sound=True))
    assert (scene_alone - sound_alone).abs().max() > 1e-3


def test_the_order_of_the_parts_of_a_picture_matters(settings):
    torch.manual_seed(0)
    model = Fusion(settings(fusion="cross_attention"), SIZES | {"scene": (4, DIM)}, CLASSES).eval()
    tokens, _ = clips(2, torch.Generator().manual_seed(0))
    parts = torch.randn(2, MOMENTS, 4, DIM)

    def logits(values):
        return model(tokens | {"scene": Tokens(values, TIMES_S, tokens["scene"].padding)})

    assert (logits(parts) - logits(parts.flip(2))).abs().max() > 1e-5


@torch.no_grad()
def test_stochastic_depth_skips_either_branch_for_some_clips_in_training_only(settings):
    torch.manual_seed(0)
    block = AttentionBlock(settings(stochastic_depth=0.5))
    one = torch.randn(1, 3, 32)
    context, padding = torch.randn(1, 4, 32), torch.zeros(1, 4, dtype=torch.bool)
    many = [part.expand(64, *part.shape[1:]) for part in (one, context, padding)]
    outputs = block(*many, None)
    kinds = torch.unique((outputs * 1e3).round().flatten(1), dim=0)
    assert len(kinds) == 4  # the same clip with both branches, either, or none
    assert any(torch.equal(output, one[0]) for output in outputs)
    assert len(torch.unique((block.eval()(*many, None) * 1e3).round().flatten(1), dim=0)) == 1


def test_stochastic_depth_equals_torchvisions():
    values = torch.randn(6, 3, 4)
    outputs = []
    for network in (StochasticDepth(0.3), torchvision.ops.StochasticDepth(0.3, "row")):
        torch.manual_seed(0)
        outputs.append(network(values))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert (outputs[0] == 0).all(dim=(1, 2)).sum() not in (0, 6)


def test_of_three_streams_each_attends_to_the_tokens_of_both_others_and_not_to_its_own(settings):
    torch.manual_seed(0)
    names = ("scene", "people", "sound")
    tokens = {
        name: Tokens(torch.randn(2, length, 1, DIM), torch.arange(length) * 0.1, torch.zeros(2, length) > 0)
        for name, length in zip(names, (3, 4, 5), strict=True)
    }
    three = settings(fusion="cross_attention", layers=1, use=list(names))
    three = three.model_copy(update={"streams": dict.fromkeys(names, three.streams["scene"])})
    model, maps = Fusion(three, dict.fromkeys(names, (1, DIM)), CLASSES).eval(), []
    model(tokens, maps)
    assert [tuple(each.shape[2:]) for each in maps] == [(4, 5 + 6), (5, 4 + 6), (6, 4 + 5)]
    people = model.layers[0].blocks["people"]
    entered = [model.entrances[name](tokens[name])[0] for name in names]
    padding = torch.zeros(2, 10, dtype=torch.bool)
    expected = people(entered[1], torch.cat([entered[0], entered[2]], dim=1), padding, None)
    attended = model.layers[0](entered, [torch.zeros(2, each.shape[1]) > 0 for each in entered], None)
    torch.testing.assert_close(attended[1], expected)


@pytest.mark.parametrize("absent", ["scene", "people", "sound"])
def test_the_keys_of_a_stream_are_the_tokens_of_all_others_in_the_order_of_the_streams(settings, absent):
    counts = {"scene": 3, "people": 4, "sound": 5}
    three = settings(fusion="cross_attention", layers=1, use=list(counts))
    three = three.model_copy(update={"streams": dict.fromkeys(counts, three.streams["scene"])})
    tokens = {
        name: Tokens(torch.randn(2, count, 1, DIM), torch.arange(count) * 0.1, torch.full((2, count), name == absent))
        for name, count in counts.items()
    }
    maps = []
    Fusion(three, dict.fromkeys(counts, (1, DIM)), CLASSES).eval()(tokens, maps)
    for querying, weights in zip(counts, maps, strict=True):
        others = [name for name in counts if name != querying]
        attended = torch.cat([torch.tensor([True] + [name != absent] * counts[name]) for name in others])
        assert torch.equal(weights > 0, attended.expand(weights.shape))


@pytest.mark.parametrize("name", ["scene", "sound"])
def test_a_single_stream_has_nothing_to_attend_to(settings, name):
    for kind in ("cross_attention", "self_attention"):
        assert len(Fusion(settings(use=[name], fusion=kind), SIZES, CLASSES).layers) == 0

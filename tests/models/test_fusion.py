"""The fusion on tokens alone: what it can learn, and what it must not."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from pipeline.models.fusion import AUDIO, VIDEO, AttentionBlock, Fusion, Pooling, StochasticDepth, Tokens

CLASSES, MOMENTS, DIM = 3, 6, 16
TIMES_S = torch.arange(MOMENTS) * 0.8


def clips(count, generator):
    """Clips in which every class is shown at two moments, in any order, and a sound marks one moment.

    The label is what is seen when it is heard. What is shown and what is heard, without the times, are the same
    in every clip: pooled alone, they tell nothing.
    """
    shown = torch.stack([torch.randperm(MOMENTS, generator=generator) % CLASSES for _ in range(count)])
    marked = torch.randint(MOMENTS, (count,), generator=generator)
    noise = 0.1 * torch.randn(2, count, MOMENTS, 1, DIM, generator=generator)
    video = F.one_hot(shown, DIM).float().unsqueeze(2) + noise[0]
    audio = F.one_hot(marked, MOMENTS).float()[..., None, None].expand(-1, -1, 1, DIM) + noise[1]
    here = torch.zeros(count, MOMENTS, dtype=torch.bool)
    tokens = {VIDEO: Tokens(video, TIMES_S, here), AUDIO: Tokens(audio, TIMES_S, here)}
    return tokens, shown.gather(1, marked[:, None]).squeeze(1)


def learnt(settings, steps):
    """The accuracy on new clips after training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    fusion = Fusion(settings, {VIDEO: (1, DIM), AUDIO: (1, DIM)}, CLASSES)
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
    return lambda **others: config.recipe.model.model_copy(update=changes | others)


@pytest.mark.parametrize("pooling", ["mean", pytest.param("learned", marks=pytest.mark.slow)])
def test_cross_attention_learns_what_is_seen_at_the_moment_of_a_sound(settings, pooling):
    assert learnt(settings(fusion="cross_attention", pooling=pooling, layers=1), 400) >= 0.95


@pytest.mark.parametrize("fusion", ["concat", "late", "video", "audio"])
def test_without_attention_between_the_modalities_it_cannot_be_learnt(settings, fusion):
    # 1000 clips: chance is 1/3 give or take .045 (three standard errors).
    assert learnt(settings(fusion=fusion, layers=1), 400) == pytest.approx(1 / 3, abs=0.045)


@pytest.mark.parametrize(("fusion", "shapes"), [("cross_attention", [(7, 7)] * 4), ("self_attention", [(14, 14)] * 2)])
def test_attention_maps_on_request_are_distributions_over_what_is_there(settings, fusion, shapes):
    tokens, _ = clips(5, torch.Generator().manual_seed(0))
    padding = tokens[AUDIO].padding.clone()
    padding[:, 4:] = True
    tokens[AUDIO] = Tokens(tokens[AUDIO].values, TIMES_S, padding)
    model = Fusion(settings(fusion=fusion), {VIDEO: (1, DIM), AUDIO: (1, DIM)}, CLASSES).eval()
    maps = []
    logits = model(tokens, maps)
    assert [tuple(each.shape) for each in maps] == [(5, 2, *shape) for shape in shapes]
    assert all(torch.allclose(each.sum(dim=-1), torch.ones(())) for each in maps)
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


def test_late_fusion_is_the_mean_of_what_each_modality_that_is_there_says(settings):
    tokens, _ = clips(4, torch.Generator().manual_seed(0))
    late = Fusion(settings(fusion="late"), {VIDEO: (1, DIM), AUDIO: (1, DIM)}, CLASSES).eval()
    missing = torch.ones(4, MOMENTS, dtype=torch.bool)

    def said(seen, heard):
        parts = {name: tokens[name] if there else Tokens(tokens[name].values, TIMES_S, missing)
                 for name, there in ((VIDEO, seen), (AUDIO, heard))}  # fmt: skip
        return late(parts)

    torch.testing.assert_close((said(True, False) + said(False, True)) / 2, said(True, True))
    assert (said(True, False) - said(False, True)).abs().max() > 1e-3


def test_parts_of_a_picture_are_told_apart(settings):
    torch.manual_seed(0)
    model = Fusion(settings(fusion="cross_attention"), {VIDEO: (4, DIM), AUDIO: (1, DIM)}, CLASSES).eval()
    tokens, _ = clips(2, torch.Generator().manual_seed(0))
    parts = torch.randn(2, MOMENTS, 4, DIM)

    def seen(values):
        return model(tokens | {VIDEO: Tokens(values, TIMES_S, tokens[VIDEO].padding)})

    assert (seen(parts) - seen(parts.flip(2))).abs().max() > 1e-5


@torch.no_grad()
def test_stochastic_depth_skips_each_branch_of_a_clip_in_training_alone(settings):
    torch.manual_seed(0)
    block = AttentionBlock(settings(stochastic_depth=0.5))
    one = torch.randn(1, 3, 32)
    context, padding = torch.randn(1, 4, 32), torch.zeros(1, 4, dtype=torch.bool)
    many = [part.expand(64, *part.shape[1:]) for part in (one, context, padding)]
    made = block(*many, None)
    kinds = torch.unique((made * 1e3).round().flatten(1), dim=0)
    assert len(kinds) == 4  # the same clip with both branches, either, or none
    assert any(torch.equal(row, one[0]) for row in made)
    assert len(torch.unique((block.eval()(*many, None) * 1e3).round().flatten(1), dim=0)) == 1


def test_stochastic_depth_is_torchvisions():
    values = torch.randn(6, 3, 4)
    found = []
    for network in (StochasticDepth(0.3), torchvision.ops.StochasticDepth(0.3, "row")):
        torch.manual_seed(0)
        found.append(network(values))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert (found[0] == 0).all(dim=(1, 2)).sum() not in (0, 6)

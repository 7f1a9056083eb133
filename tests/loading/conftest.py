import numpy as np
import pytest
import torch
from augmented import OFF

from pipeline.loading.augmentation import augment
from pipeline.loading.draws import Draws


@pytest.fixture
def changed(config, batch):
    """Augments a batch; only `settings` are on."""

    def changed(seed=0, original=batch, clips=4, rows=range(4), features=config.recipe.features, **settings):
        augmentation = config.recipe.training.augmentation.model_copy(update=OFF | settings)
        draws = Draws(torch.Generator().manual_seed(seed), clips, np.array(rows), torch.device("cpu"))
        return augment(original, augmentation, features, 3, draws)

    return changed
